"""Trajectories whose end a kill or a full disk has torn: what is whole is kept, and written on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ase.io.trajectory import Trajectory

from equiv_probe.errors import EquivProbeError, in_one_line
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms


MARK = b"- of Ulm"
HEADER = 56
"""Bytes that the format begins with: the mark, a tag, and where the table of frames is."""


def last_frame(path: Path) -> tuple[int, Atoms | None]:
    """How many frames of a ``.traj`` are whole, and the last of them; what is torn behind it is cut off.

    Raises:
        EquivProbeError: the file is none that ASE reads, or its table of frames is lost.
    """
    if path.stat().st_size < HEADER and MARK.startswith(path.read_bytes()[: len(MARK)]):  # ended before its first frame
        return 0, None
    try:
        with Trajectory(path) as frames:
            count = len(frames)
            whole, last = _whole(frames, count)
    except Exception as error:  # readers raise anything
        raise EquivProbeError(
            f"{path}, which ASE cannot read ({in_one_line(error, 120)})",
            "the trajectory of the run to go on with",
            "another --traj, or without --resume to start over",
        ) from error
    if whole < count:
        _keep(path, whole)
        logger.warning(f"the last {count - whole} of {count} frames of {path} were torn and are left out")
    return whole, last


def _whole(frames: Trajectory, count: int) -> tuple[int, Atoms | None]:
    """Frames before the first of those at the end that cannot be read."""
    for place in range(count - 1, -1, -1):
        try:
            return place + 1, frames[place]
        except Exception:  # of a frame that is cut off in the middle
            continue
    return 0, None


def _keep(path: Path, count: int) -> None:
    """Only the first frames, in a new file that takes the old one's place at once."""
    fresh = path.with_name(path.name + ".part")
    with Trajectory(path) as old, Trajectory(fresh, "w") as new:
        for place in range(count):
            new.write(old[place])
    fresh.replace(path)
