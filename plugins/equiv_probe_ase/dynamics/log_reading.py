"""The monitor's log in JSON lines as structures: ``ase.io.read("monitor.jsonl", ":")``."""

from __future__ import annotations

import json
from typing import IO, Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.dynamics.rows import info_of


def read_equiv_probe_dynamics(file: IO[str], index: Any = -1) -> list[Atoms]:
    """The frames of a log, with what was measured in ``info`` under names that begin with ``equiv_``."""
    lines = [line for line in file if line.endswith("\n")]  # one that was torn by a kill has no end
    rows = [_row(line, place) for place, line in enumerate(lines[1:], 2)]
    frames = [atoms_of(row) for row in rows if isinstance(row.get("frame"), dict)]
    if not frames:
        raise EquivProbeError("a log without frames", "one that was written to", "a run of one step at least")
    return frames[index] if isinstance(index, slice) else [frames[index]]


def atoms_of(row: dict[str, Any]) -> Atoms:
    """The frame of one row of a log in JSON lines, which has one."""
    frame = row["frame"]
    atoms = Atoms(frame["numbers"], frame["positions"], cell=frame["cell"], pbc=frame["pbc"])
    if "momenta" in frame:
        atoms.set_momenta(frame["momenta"])
    known = {name: frame[name] for name in ("energy", "forces", "stress") if name in frame}
    atoms.calc = SinglePointCalculator(atoms, **known)
    atoms.info = {"name": f"step {row['step']}", **info_of({n: v for n, v in row.items() if v is not None})}
    return atoms


def _row(line: str, place: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EquivProbeError(f"line {place} of the log, which is no JSON", "a row", "the line taken out") from error
    return row if isinstance(row, dict) else {}
