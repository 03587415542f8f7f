"""How large a report of many structures is: as JSON, in memory, and how long it takes to read, show and write.

python tests/benchmarks/bench_report_size.py --structures 10000
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT

import equiv_probe as ep
from equiv_probe_ase import audit


class Tilted(EMT):  # type: ignore[misc]
    """Forces with a part that does not rotate."""

    def calculate(self, *args: object, **kwargs: object) -> None:
        """As EMT, and a push that depends on the frame."""
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] + 0.1 * np.abs(self.atoms.positions)


def peak() -> float:
    """The process's largest memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print sizes and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=10_000)
    count = parser.parse_args().structures
    atoms = [molecule("CH3CH2OCH3"), molecule("CH3CH2OH")]
    for seed, one in enumerate(atoms):
        one.rattle(0.1, seed=seed)
    small = audit(Tilted(), atoms, progress=False)
    draw = random.Random(0)
    records = []
    for place in range(count):
        record = {**small.structures[place % 2], "name": f"mol-{place}", "key": f"{place}:{draw.getrandbits(128):032x}"}
        factor = draw.lognormvariate(0, 0.5)
        record["quantities"] = {
            name: {**values, "rms": values["rms"] * factor, "equiv": values["equiv"] * factor**2}
            for name, values in record["quantities"].items()
        }
        record.pop("geometry", None)
        records.append(record)
    stored = {**small.to_dict(), "structures": ep.Report("", "", {}, [], structures=records).to_dict()["structures"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        ep.Report.from_dict(stored).save(path)
        print(f"{count} structures: {path.stat().st_size / 1e6:.1f} MB of JSON")
        del stored, records
        before, began = peak(), time.process_time()
        report = ep.Report.load(path)
        print(f"load: {time.process_time() - began:.2f} s")
        for name in ("report.csv", "report.html"):
            began = time.process_time()
            report.save(Path(folder) / name)
            print(f"{name}: {time.process_time() - began:.2f} s, {(Path(folder) / name).stat().st_size / 1e6:.2f} MB")
        print(f"peak memory: {peak():.0f} MB, {peak() - before:.0f} MB of it since before loading")


if __name__ == "__main__":
    main()
