"""A trajectory whose end was torn, at any byte, is gone on with from its last whole frame, to the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io.trajectory import Trajectory

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics
from equiv_probe_ase.dynamics.torn_trajectory import last_frame

if TYPE_CHECKING:
    from pathlib import Path

EVERY = 2


def run(folder: Path, steps: int, *, resume: bool = False) -> Any:
    atoms = molecule("CH3OH")
    options: dict[str, Any] = {"every": EVERY, "log": folder / "log.csv", "progress": False}
    return molecular_dynamics(EMT(), atoms, steps=steps, trajectory=folder / "md.traj", resume=resume, **options)


def positions(path: Path) -> np.ndarray:
    with Trajectory(path) as frames:
        return np.stack([frame.positions for frame in frames])


@pytest.mark.slow
def test_torn_at_any_place_it_goes_on_to_the_same_frames(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", 12)
    expected = positions(tmp_path / "whole" / "md.traj")
    (tmp_path / "first").mkdir()
    run(tmp_path / "first", 8)
    content, log = ((tmp_path / "first" / name).read_bytes() for name in ("md.traj", "log.csv"))
    for place, cut in enumerate((1, 37, 300, 1000, 1700)):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / "md.traj").write_bytes(content[:-cut])
        (folder / "log.csv").write_bytes(log)
        caplog.clear()
        run(folder, 12, resume=True)
        assert "were torn and are left out" in caplog.text
        np.testing.assert_allclose(positions(folder / "md.traj"), expected, rtol=0, atol=1e-12)
        rows = (folder / "log.csv").read_text().splitlines()[2:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(0, 13, EVERY))


def test_a_first_frame_that_was_torn_starts_over(tmp_path: Path) -> None:
    for folder in ("whole", "torn"):
        (tmp_path / folder).mkdir()
        run(tmp_path / folder, 4)
    log = (tmp_path / "torn" / "log.csv").read_text().splitlines(keepends=True)
    for size in (0, 24):
        (tmp_path / "torn" / "log.csv").write_text("".join(log[:3]))
        trajectory = (tmp_path / "torn" / "md.traj").read_bytes()
        (tmp_path / "torn" / "md.traj").write_bytes(trajectory[:size])
        run(tmp_path / "torn", 4, resume=True)
        assert (tmp_path / "torn" / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()
        np.testing.assert_array_equal(
            positions(tmp_path / "torn" / "md.traj"), positions(tmp_path / "whole" / "md.traj")
        )


def test_what_lies_behind_the_last_frame_is_no_frame(tmp_path: Path) -> None:
    """A kill while a frame is being written: it is counted when it is whole."""
    path = tmp_path / "md.traj"
    with Trajectory(path, "w") as frames:
        for _ in range(3):
            frames.write(molecule("H2O"))
    with path.open("ab") as file:
        file.write(b"\x01" * 300)
    before = path.read_bytes()
    count, last = last_frame(path)
    assert (count, len(last or ())) == (3, 3)
    assert path.read_bytes() == before


def test_nothing_yet_starts_over_and_what_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    with Trajectory(tmp_path / "first.traj", "w") as frames:
        frames.write(molecule("H2O"))
    begun = (tmp_path / "first.traj").read_bytes()
    for size in (0, 3, 24, 50):
        (tmp_path / "first.traj").write_bytes(begun[:size])
        assert last_frame(tmp_path / "first.traj") == (0, None)
    for content in (b"x", b"something else entirely" * 100):
        (tmp_path / "other.traj").write_bytes(content)
        with pytest.raises(EquivProbeError, match=r"cannot read.*--resume"):
            last_frame(tmp_path / "other.traj")
        assert (tmp_path / "other.traj").read_bytes() == content
