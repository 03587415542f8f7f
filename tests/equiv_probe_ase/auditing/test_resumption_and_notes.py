"""A failure is tried again on resuming; what the net torque says about the energy; names of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.testing import QuadraticEnergy
from equiv_probe_ase import audit
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms


def test_a_structure_that_failed_is_tried_again(
    planted: Any, quadratic: Any, mixed: list[Atoms], tmp_path: Path
) -> None:
    journal = tmp_path / "report.jsonl"
    calculator = planted(quadratic, unknown=8)  # water and ethanol fail
    first = audit(calculator, mixed, journal=journal)
    assert len(first.failures) == 2
    calculator.unknown = 0  # whatever was wrong with the machine is mended
    again = audit(calculator, mixed, journal=journal)
    assert again.failures == []
    assert again.structures == audit(planted(quadratic), mixed).structures


def torque_free(positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """The energy of a tilted quadratic model, and central forces, which have no torque and are not its gradient."""
    model = QuadraticEnergy(torch.diag(torch.tensor([1.0, 0.2, 0.2], dtype=torch.float64)))
    return {"energy": model(positions)["energy"], "forces": positions.mean(-2, keepdim=True) - positions}


def test_forces_that_are_not_the_energys_gradient_are_told(planted: Any, mixed: list[Atoms]) -> None:
    molecules = [atoms for atoms in mixed if not atoms.pbc.any()]
    calculator = planted(torque_free, names=["energy", "forces"])
    told = [note for note in audit(calculator, molecules).notes if "gradient" in note]
    assert len(told) == 1
    assert "more than the net torque allows" in told[0]


def test_conservative_forces_are_not_accused(planted: Any, mixed: list[Atoms]) -> None:
    molecules = [atoms for atoms in mixed if not atoms.pbc.any()]
    model = QuadraticEnergy(torch.diag(torch.tensor([1.0, 0.2, 0.2], dtype=torch.float64)))
    told = [
        note for note in audit(planted(model), molecules, properties=["energy", "forces"]).notes if "torque" in note
    ]
    assert len(told) == 1
    assert "more than" not in told[0]


def test_the_cell_as_centre_needs_a_cell(planted: Any, quadratic: Any, mixed: list[Atoms]) -> None:
    report = audit(planted(quadratic), mixed, center="cell")
    assert {failure["name"] for failure in report.failures} == {"structure[0]", "structure[3]"}  # the molecules
    with pytest.raises(EquivProbeError, match="without a cell"):
        Rotator(mixed[0], "cell").pivot()


def test_round_trips_carry_the_models_rounding(mixed: list[Atoms]) -> None:
    # Rotated and rotated back in float32: off by about an ulp of the coordinates, 2⁻²³ × a few Å, and not by nothing;
    # in float64 by 2⁻⁵².
    rotations = haar(3, torch.Generator().manual_seed(0))
    atoms = mixed[1]
    for precision in (torch.float32, torch.float64):
        trips = Rotator(atoms).round_trips(rotations, precision)
        error = np.abs([trip.positions - atoms.positions for trip in trips]).max()
        scale = torch.finfo(precision).eps * np.abs(atoms.positions).max()
        assert 0.05 * scale < error < 10 * scale


def test_adaptive_effort_begins_with_enough_replicates_for_an_interval(planted: Any, mixed: list[Atoms]) -> None:
    # Forces along z whatever the structure: tetrahedral replicates average their square exactly, so four are enough.
    def field(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"forces": torch.tensor([0.0, 0.0, 0.3], dtype=x.dtype).expand_as(x)}

    plan = RotationPlan("tetrahedral", replicates=2)
    report = audit(planted(field, names=["forces"]), mixed[:1], plan=plan, rel_err=0.1)
    assert report.structures[0]["rotations"] == 48
    assert np.isfinite(report["forces"].rms_interval).all()
