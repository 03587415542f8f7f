"""The measured frames of a trajectory: in a file that ASE reads, and the worst in the report."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.auditing.worst_structures import geometry, slim, worst_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

MARK = "equiv_step"
SUFFIXES = (".extxyz", ".xyz", ".traj")
"""Of the formats that ASE appends to, those that keep ``info``."""
_WRITTEN = ("energy", "forces", "stress")


class FramesFile:
    """Frames with the measured values in their ``info``.

    Args:
        path: None writes none.

    Raises:
        EquivProbeError: another format.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path).resolve() if path is not None else None
        self.notes: list[str] = []
        if self.path is None:
            return
        if self.path.suffix not in SUFFIXES:
            raise self._refused(f"a name that ends in {' or '.join(SUFFIXES)}")

    def begin(self, dyn: Any, *, resume: bool, last: int | None) -> None:
        """Start the file, or go on with it after step ``last`` of the log.

        Later frames, of a run that was killed after its last checkpoint, are dropped; None drops all.

        Raises:
            EquivProbeError: the file holds other frames, or is the dynamics' own trajectory.
        """
        if self.path is None:
            return
        if _writes_to(dyn, self.path):
            raise self._refused("another file than the dynamics' own trajectory")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() or not self.path.stat().st_size:
            return
        frames = ase.io.read(self.path, ":" if resume else ":1")
        if any(MARK not in frame.info for frame in frames):
            raise self._refused("a file with frames of a monitor, or none")
        kept = [frame for frame in frames if resume and last is not None and frame.info[MARK] <= last]
        if frames and len(kept) == len(frames):
            return
        self.path.unlink()
        for frame in kept:
            _append(self.path, frame)

    def add(self, atoms: Atoms, results: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Append a frame with what was found in its ``info``; a disk that is full does not end the run."""
        if self.path is None:
            return
        frame = atoms.copy()
        known = {name: results[name] for name in _WRITTEN if results.get(name) is not None}
        frame.calc = SinglePointCalculator(frame, **known)
        frame.info |= found
        try:
            _append(self.path, frame)
        except OSError as error:
            self.notes[4:] = [f"the frame of step {found.get(MARK)} was not written to {self.path}: {error}"]
            if len(self.notes) == 1:
                warnings.warn(f"equiv_probe: {self.notes[0]}", stacklevel=2)

    def _refused(self, expected: str) -> EquivProbeError:
        return EquivProbeError(f"trajectory={str(self.path)!r}", expected, 'trajectory="seen.extxyz"')


def _append(path: Path, frame: Atoms) -> None:
    if path.suffix == ".traj":  # of which ase.io.write appends nothing that can be read
        with Trajectory(path, "a") as file:
            file.write(frame)
    else:
        ase.io.write(path, frame, format="extxyz", append=True)


def _writes_to(dyn: Any, path: Path) -> bool:
    """Whether the dynamics, or a writer attached to it, has this file."""
    own = [getattr(dyn, "trajectory", None)]
    own += [getattr(getattr(entry[0], "__self__", None), "filename", None) for entry in dyn.observers]
    return any(Path(name).resolve() == path for name in own if isinstance(name, (str, Path)))


class WorstFrames:
    """The records and geometries of the frames with the largest errors, as frames come."""

    def __init__(self) -> None:
        self._kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(self, record: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
        """Look at a frame's record; back comes what is kept of it: memory is finite, and a trajectory is not."""
        self._kept.append((record, geometry(atoms)))
        worst = worst_of([entry for entry, _ in self._kept])
        self._kept = [pair for pair in self._kept if pair[0]["key"] in worst]
        return slim(record)

    def records(self, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Records for the report, the worst with their numbers by atom and a geometry."""
        worst = {entry["key"]: {**entry, "geometry": shape} for entry, shape in self._kept}
        return [worst.get(record["key"], record) for record in records]
