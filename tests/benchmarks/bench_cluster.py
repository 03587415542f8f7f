"""Ten thousand structures with a cheap model: one process, workers, and workers of which one is killed.

    python tests/benchmarks/bench_cluster.py --structures 10000 --workers 2
    python tests/benchmarks/bench_cluster.py --file $EQUIV_PROBE_DATA/ethanol_rmd17/train.xyz --plan haar

Prints, as JSON lines, seconds, processor seconds of all processes together (which a busy machine leaves alone), the
largest memory of this process in MB (also after a tenth of the structures: flat memory), the seconds in the model, and
whether the numbers are those of one process. Structures are small molecules, or frames of a file over and over, each
displaced at random.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read

MOLECULES = ("CH3CH2OH", "C6H6", "CH3CH2OCH3", "H2O", "CH4")
WAYS = ("one process", "one worker", "workers", "one worker killed", "two parts, merged")


class LennardJones(Calculator):  # type: ignore[misc]
    """Lennard-Jones in batches, in NumPy, with a push along x that does not rotate.

    Args:
        seconds: that a call takes at least, by atom: a model that costs something, on a device of its own.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        """Energies and forces of all structures of one size together."""
        began = time.perf_counter()
        found: list[dict[str, Any]] = [{}] * len(structures)
        sizes: dict[int, list[int]] = {}
        for place, atoms in enumerate(structures):
            sizes.setdefault(len(atoms), []).append(place)
        for size, places in sizes.items():
            x = np.stack([structures[place].positions for place in places])
            apart = x[:, :, None] - x[:, None]
            square = (apart**2).sum(-1) + np.eye(size)
            u = (1.2**2 / square) ** 3 * (1 - np.eye(size))
            energy = (u * u - u).sum((1, 2)) / 2
            forces = (((12 * u * u - 6 * u) / square)[..., None] * apart).sum(2)
            forces += np.array([0.01, 0, 0]) * np.arange(size)[:, None]
            for k, place in enumerate(places):
                found[place] = {"energy": energy[k], "forces": forces[k]}
        time.sleep(max(0.0, self.seconds * sum(map(len, structures)) - (time.perf_counter() - began)))
        return found

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        """One structure."""
        super().calculate(atoms, properties, system_changes)
        self.results = self.calculate_batch([self.atoms], [])[0]


def structures(count: int, file: str | None = None) -> list[Atoms]:
    """Small molecules, or those of a file, each displaced at random."""
    given = read(file, ":") if file else [molecule(name) for name in MOLECULES]
    made = []
    for place in range(count):
        one = given[place % len(given)]
        atoms = Atoms(one.numbers, one.positions)
        atoms.rattle(0.05, seed=place)
        made.append(atoms)
    return made


def killer(client: Any, journal: Path, after: int, killed: list[int]) -> None:
    """Kill a worker when so many results are there."""
    while not (journal.exists() and journal.read_bytes().count(b"\n") > after):
        time.sleep(1.0)
    killed.append(next(iter(client.run(os.getpid).values())))
    os.kill(killed[0], signal.SIGKILL)


def measure(way: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """One way, in a process of its own; the report is saved in the folder."""
    from equiv_probe_ase import audit, merge

    seconds, folder, how = options.seconds, options.folder, {"plan": options.plan}
    given, journal = structures(count, options.file), folder / f"{way}.jsonl"
    base = _peak()
    began = time.perf_counter()
    extra: dict[str, Any] = {}
    if way in {"one process", "a tenth"}:
        report = audit(LennardJones(seconds), given, journal=journal, **how)
    elif way == "two parts, merged":
        paths = [folder / f"part{k}.jsonl" for k in (1, 2)]
        for k, path in enumerate(paths, 1):
            audit(LennardJones(seconds), given, journal=path, part=f"{k}/2", **how)
        extra["measured s"] = round(time.perf_counter() - began, 1)
        report = merge(paths)
    else:
        from distributed import Client, LocalCluster

        workers = 1 if way == "one worker" else options.workers
        with LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, silence_logs=50) as cluster:
            client, killed = Client(cluster), []
            extra["workers started s"] = round(time.perf_counter() - began, 1)
            began = time.perf_counter()
            if way == "one worker killed":
                threading.Thread(target=killer, args=(client, journal, count // 3, killed), daemon=True).start()
            report = audit(LennardJones(seconds), given, journal=journal, cluster=client, **how)
            extra["killed"] = len(killed)
            client.close()
    took = time.perf_counter() - began
    report.save(folder / f"{way}.json")
    began = time.perf_counter()
    type(report).load(folder / f"{way}.json")
    return {
        "way": way,
        "structures": len(report.structures),
        "seconds": round(took, 1),
        "processor s": round(_processor_seconds(), 1),
        "model seconds": report.protocol.get("model seconds"),
        "memory before MB": round(base),
        "memory MB": round(_peak()),
        "load s": round(time.perf_counter() - began, 2),
        **extra,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _processor_seconds() -> float:
    """Of this process, and of those that it started and that have ended, imports included."""
    of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in of)


def _numbers(path: Path) -> dict[str, Any]:
    stored = json.loads(path.read_text())
    return {key: value for key, value in stored.items() if key != "protocol"}


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="that the model takes by atom")
    parser.add_argument("--file", help="of structures, as ASE reads it")
    parser.add_argument("--plan", help="rotations; 48 by default")
    parser.add_argument("--ways", nargs="*", default=WAYS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        count = options.structures // 10 if options.only == "a tenth" else options.structures
        print(json.dumps(measure(options.only, count, options)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        first: Path | None = None
        for way in ("a tenth", *options.ways):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", way, "--folder", folder]
            line = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            saved = Path(folder) / f"{way}.json"
            if way != "a tenth":
                first = first or saved
                line["same numbers"] = _numbers(saved) == _numbers(first)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
