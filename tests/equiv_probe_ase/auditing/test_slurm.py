"""Audits by jobs of a real SLURM, where there is one on this machine: the numbers of one process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import ase.io
import pytest

from equiv_probe.results.report import Report
from equiv_probe_ase import audit

from .test_many_machines import MODEL
from .test_parts import PLAN, comparable, structures

if TYPE_CHECKING:
    from collections.abc import Sequence


def printed(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout if done.returncode == 0 else ""


def here() -> bool:
    """Whether jobs run on this machine, so that they see the folders of the tests."""
    return bool(shutil.which("sbatch")) and socket.gethostname().split(".")[0] in printed("sinfo", "-hN", "-o", "%N")


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not here(), reason="no SLURM with a node on this machine")]
PROGRAM = str(Path(sys.executable).with_name("equiv-probe"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    ase.io.write(tmp_path / "frames.xyz", structures(48), format="extxyz")
    return tmp_path


def run(folder: Path, *arguments: str) -> None:
    command = [PROGRAM, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_job_array_merges_to_the_whole(folder: Path) -> None:
    asked = ["audit", "model.py:Tilted", "frames.xyz", "--design", "klein"]
    part = f"{PROGRAM} {' '.join(asked)} --part $SLURM_ARRAY_TASK_ID/3 -o parts/$SLURM_ARRAY_TASK_ID.json"
    (folder / "job.sh").write_text(f"#!/bin/bash\n{part}\n")
    assert "Submitted" in printed("sbatch", "--array=1-3", "--wait", "job.sh", cwd=folder)
    run(folder, "merge", *(f"parts/{k}.jsonl" for k in (1, 2, 3)), "-o", "merged.json")
    run(folder, *asked, "-o", "whole.json")
    merged, whole = (Report.load(folder / name) for name in ("merged.json", "whole.json"))
    assert merged.protocol["merged"] == "3 journals"
    assert comparable(merged) == comparable(whole)


def scancel(wanted: int, journal: Path, jobs: Sequence[str], cancelled: list[str]) -> None:
    """Cancel the first of the jobs that runs, once so many results are there."""
    deadline = time.monotonic() + 200
    while not (journal.exists() and journal.read_bytes().count(b"\n") > wanted) and time.monotonic() < deadline:
        time.sleep(0.1)
    cancelled += printed("squeue", "-h", "-t", "running", "-j", ",".join(jobs), "-o", "%i").split()[:1]
    subprocess.run(["scancel", *cancelled], check=True)


def test_a_job_that_is_cancelled_takes_nothing_along(folder: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    distributed = pytest.importorskip("distributed")
    frames, model = ase.io.read(folder / "frames.xyz", ":"), f"{folder}/model.py:Tilted"
    cancelled: list[str] = []
    slurm = jobqueue.SLURMCluster(
        cores=1, processes=1, memory="2GB", walltime="00:10:00", log_directory=str(folder), silence_logs="error"
    )
    with slurm, distributed.Client(slurm) as client:
        slurm.scale(jobs=2)
        client.wait_for_workers(2, timeout=120)
        jobs = [worker.job_id for worker in slurm.workers.values()]
        killer = threading.Thread(target=scancel, args=(6, folder / "j.jsonl", jobs, cancelled))
        killer.start()
        shared = audit(
            f"{model}?pause=0.2", frames, plan=PLAN, cluster=client, journal=folder / "j.jsonl", name="Tilted"
        )
        killer.join()
    whole = audit(model, frames, plan=PLAN)
    assert len(cancelled) == 1
    assert shared.complete
    assert comparable(shared) == comparable(whole)
    assert shared.protocol["evaluations"] == whole.protocol["evaluations"]
    assert "2 workers" in shared.protocol["measured by"]
