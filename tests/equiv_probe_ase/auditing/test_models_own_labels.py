"""An audit of a trajectory that the model itself moved: what is stored in it is no reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

from equiv_probe import RotationPlan
from equiv_probe_ase import audit

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

PLAN = RotationPlan("klein", replicates=4)


class Tilted(EMT):
    """With forces off by 0.1 eV/Å along the laboratory's x axis."""

    def calculate(self, *args: Any) -> None:
        super().calculate(*args)
        self.results["forces"] = self.results["forces"] + np.array([0.1, 0.0, 0.0])


@pytest.fixture
def frames(tmp_path: Path) -> list[Atoms]:
    atoms = molecule("CH3OH", calculator=Tilted())
    with Trajectory(tmp_path / "md.traj", "w", atoms) as trajectory:
        VelocityVerlet(atoms, 0.2, trajectory=trajectory).run(6)
    return ase.io.read(tmp_path / "md.traj", ":")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_a_models_own_outputs_are_no_labels(frames: list[Atoms], suffix: str, tmp_path: Path) -> None:
    """Against them half of the loss and more would be called symmetry error, of any model that has some."""
    ase.io.write(tmp_path / f"own.{suffix}", frames)
    report = audit(Tilted(), tmp_path / f"own.{suffix}", plan=PLAN)
    assert report["forces"].labelled is None
    assert report["forces"].rms == pytest.approx(100 / 3**0.5, rel=1e-6)
    assert any("(energy, forces) are this model's own outputs" in note for note in report.notes)


@pytest.mark.slow
def test_somebody_elses_are(frames: list[Atoms]) -> None:
    """Of EMT as it is, which has the same energies: the forces tell. All of the loss is symmetry error."""
    for atoms in frames:
        atoms.calc = EMT()
        atoms.get_forces()
    report = audit(Tilted(), frames, plan=PLAN)
    assert report["forces"].labelled.share == pytest.approx(1, abs=1e-6)
    assert report["forces"].labelled.total == pytest.approx(1e4 / 3, rel=1e-6)
    assert not any("own outputs" in note for note in report.notes)


@pytest.mark.slow
def test_one_frame_of_somebody_elses_is_enough(frames: list[Atoms]) -> None:
    frames[1].calc.results["forces"] = frames[1].calc.results["forces"] + 1e-3
    assert audit(Tilted(), frames, plan=PLAN)["forces"].labelled.structures == len(frames)


@pytest.mark.slow
def test_those_that_were_asked_for_are_kept_and_called_what_they_are(frames: list[Atoms]) -> None:
    report = audit(Tilted(), frames, plan=PLAN, reference={"forces": "forces"})
    assert report["forces"].labelled.structures == len(frames)
    assert any("against them is symmetry error and nothing else" in note for note in report.notes)


def test_forces_that_vanish_by_symmetry_tell_nothing() -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.arrays["REF_forces"] = np.zeros((4, 3))
    assert audit(EMT(), crystal, plan=PLAN)["forces"].labelled is not None
