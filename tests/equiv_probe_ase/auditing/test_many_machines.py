"""Audits by several processes, of Dask or of torchrun: the numbers of one, whatever happens to the processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.build
import ase.io
import pytest

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase import audit

from .test_parts import PLAN, Tilted, comparable, structures

if TYPE_CHECKING:
    from collections.abc import Iterator

distributed = pytest.importorskip("distributed")

MODEL = '''
import os, signal, time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Tilted(Calculator):
    """Forces that do not rotate, in batches on which their last digits depend; it dies of nitrogen if it is told to."""
    implemented_properties = ("energy", "forces")
    pause, dies = 0.0, False

    def __init__(self, pause=0.0, dies=False):
        super().__init__()
        self.pause, self.dies = pause, dies

    def calculate_batch(self, structures, properties):
        time.sleep(self.pause)
        return [self.evaluate(atoms, 1 + 1e-14 * (len(structures) % 7)) for atoms in structures]

    def evaluate(self, atoms, noise=1.0):
        if self.dies and 7 in atoms.numbers and len(atoms) > 4:
            os.kill(os.getpid(), signal.SIGKILL)
        x = atoms.positions - atoms.positions.mean(0)
        return {"energy": float((x**2 @ [0.5, 0.5, 0.8]).sum()) * noise, "forces": -2 * noise * x * [0.5, 0.5, 0.8]}

    def calculate(self, atoms=None, properties=None, system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.results = self.evaluate(self.atoms)
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    local = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0", silence_logs=50
    )
    client = distributed.Client(local)
    yield client
    client.close()
    with contextlib.suppress(KeyError):  # Dask's own: of a worker that was killed before its cluster had heard of it
        local.close()


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(MODEL)
    return f"{tmp_path}/model.py:Tilted"


@pytest.mark.slow
def test_workers_give_the_numbers_of_one_process(cluster: Any, model: str, tmp_path: Path) -> None:
    frames = structures(labels=True)
    whole = audit(model, frames, plan=PLAN)
    shared = audit(model, frames, plan=PLAN, cluster=cluster, journal=tmp_path / "j.jsonl")
    assert comparable(shared) == comparable(whole)
    assert shared.protocol["evaluations"] == whole.protocol["evaluations"]
    assert "2 workers" in shared.protocol["measured by"]
    again = audit(model, frames, plan=PLAN, journal=tmp_path / "j.jsonl")  # one process goes on where they ended
    assert again.protocol["resumed structures"] == len(frames)
    assert comparable(again) == comparable(whole)


@pytest.mark.slow
def test_a_calculator_of_the_script_itself_is_sent(cluster: Any) -> None:
    frames = structures(4)
    whole = audit(Tilted(), frames, plan=PLAN)
    assert comparable(audit(Tilted(), frames, plan=PLAN, cluster=cluster)) == comparable(whole)
    assert comparable(audit(Tilted, frames, plan=PLAN, cluster=cluster)) == comparable(whole)


@pytest.mark.slow
def test_workers_that_are_killed_at_random_lose_and_double_nothing(cluster: Any, model: str, tmp_path: Path) -> None:
    frames = structures(64)
    whole = audit(model, frames, plan=PLAN)
    journal, ended, killed = tmp_path / "j.jsonl", threading.Event(), []
    draw = random.Random(0)

    def kill() -> None:
        """Some worker, each time that a few more results are there."""
        deadline = time.monotonic() + 300
        for wanted in (6, 18, 34):
            while not ended.is_set() and time.monotonic() < deadline:
                if journal.exists() and journal.read_bytes().count(b"\n") > wanted:
                    break
                time.sleep(0.05)
            pids = list(cluster.run(os.getpid, on_error="ignore").values())
            if pids and not ended.is_set():
                killed.append(draw.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        shared = audit(f"{model}?pause=0.2", frames, plan=PLAN, cluster=cluster, journal=journal, name="Tilted")
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 3
    assert shared.complete
    assert comparable(shared) == comparable(whole)
    keys = [line.split(b'"key": "')[1][:24] for line in journal.read_bytes().splitlines() if b'"key"' in line]
    assert len(keys) == len(set(keys)) == len(frames)


@pytest.mark.slow
def test_a_structure_that_kills_its_workers_is_listed(cluster: Any, model: str) -> None:
    frames = structures(3)
    deadly = ase.build.molecule("CH3NO2")
    found = audit(f"{model}?dies=True", [*frames, deadly], plan=PLAN, cluster=cluster)
    assert len(found.structures) == 3
    (failed,) = found.failures
    assert failed["name"] == "structure[3]"
    assert "workers died on it" in failed["error"]


@pytest.mark.slow
def test_a_worker_that_was_not_told_yet_what_to_make_is_waited_for(cluster: Any) -> None:
    """As one that comes while an audit begins: work may reach it before the recipe does."""
    from equiv_probe_ase.auditing.dask_cluster import DaskCrew
    from equiv_probe_ase.auditing.subject import Recipe, Subject
    from equiv_probe_ase.structures.loading import load

    def forget_for_a_second() -> None:
        from equiv_probe_ase.auditing.dask_cluster import _held

        told = dict(_held.recipes)
        _held.recipes.clear()
        threading.Timer(1.0, _held.recipes.update, [told]).start()

    how = dict.fromkeys(("properties", "schema", "precision", "atoms_per_call", "name")) | {"batched": True}
    crew = DaskCrew(Recipe(Tilted(), load(structures(2)), how), cluster)
    try:
        cluster.run(forget_for_a_second)
        assert crew.ask(Subject.findings).label == "Tilted"
    finally:
        crew.close()


@pytest.mark.slow
def test_a_cluster_by_its_address_and_its_file(cluster: Any, model: str, tmp_path: Path) -> None:
    frames = structures(3)
    whole = comparable(audit(model, frames, plan=PLAN))
    address = cluster.scheduler.address
    assert comparable(audit(model, frames, plan=PLAN, cluster=address)) == whole
    # What dask-scheduler --scheduler-file writes; write_scheduler_file fails on a cluster that has worked.
    (tmp_path / "cluster.json").write_text(json.dumps({"type": "Scheduler", "address": address}))
    assert comparable(audit(model, frames, plan=PLAN, cluster=tmp_path / "cluster.json")) == whole
    assert cluster.status == "running"  # what others have started goes on


def test_what_is_no_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from equiv_probe_ase.auditing import dask_cluster

    monkeypatch.setattr(dask_cluster, "PATIENCE", 1)
    with pytest.raises(EquivProbeError, match=r"cluster='slurm'.*--workers"):
        audit("emt", structures(2), cluster="slurm")
    with pytest.raises(EquivProbeError, match=r"no scheduler at tcp://127.0.0.1:9"):
        audit("emt", structures(2), cluster="tcp://127.0.0.1:9")
    with pytest.raises(EquivProbeError, match="workers=2 without a cluster"):
        audit("emt", structures(2), workers=2)
    held = Tilted()
    held.lock = threading.Lock()
    with pytest.raises(EquivProbeError, match=r"cannot be sent.*its name"):
        audit(held, structures(2), cluster="dask")


@pytest.mark.slow
def test_the_command_with_workers_of_this_machine(model: str, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "m.xyz", structures(20), format="extxyz")
    command = [str(Path(sys.executable).with_name("equiv-probe")), "audit", model, "m.xyz", "--design", "klein"]
    for options in (["-o", "one.json"], ["-o", "two.json", "--cluster", "dask", "--workers", "2"]):
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "dashboard of the cluster: http://" in done.stderr
    one, two = (Report.load(tmp_path / name) for name in ("one.json", "two.json"))
    assert comparable(one) == comparable(two)


@pytest.mark.slow
def test_ranks_of_torchrun_share_the_structures(model: str, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "m.xyz", structures(20), format="extxyz")
    program = str(Path(sys.executable).with_name("equiv-probe"))
    arguments = ["audit", f"{model}?pause=0.05", "m.xyz", "--design", "klein"]
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "--no-python"]
    for start, name in (([], "one.json"), (torchrun, "two.json")):
        done = subprocess.run(
            [*start, program, *arguments, "-o", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("Controls:") == 1  # one report, not two
    one, two = (Report.load(tmp_path / name) for name in ("one.json", "two.json"))
    assert comparable(one) == comparable(two)
    assert two.protocol["evaluations"] == one.protocol["evaluations"]
    assert two.protocol["measured by"] == "2 ranks"


SCRIPT = """
import os, sys
from pathlib import Path
import ase.build
import ase.io
from equiv_probe_ase import audit

rank = int(os.environ["RANK"])
frames = ase.io.read("m.xyz", ":")
shared = audit(sys.argv[1], frames, plan="klein", journal="shared.jsonl" if rank == 0 else None)
own = audit(sys.argv[1], frames[rank::2], plan="klein")  # shared out by the script itself: ranks are let alone
Path(f"{rank}.txt").write_text(f"{len(shared.structures)} {len(own.structures)} {shared['forces'].rms!r}")
"""


@pytest.mark.slow
def test_ranks_with_structures_of_their_own_are_let_alone(model: str, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "m.xyz", structures(7), format="extxyz")
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "script.py", model], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    (first, own, rms), (second, other, again) = ((tmp_path / f"{k}.txt").read_text().split() for k in (0, 1))
    assert (first, second) == ("7", "7")
    assert (own, other) == ("4", "3")
    assert rms == again
