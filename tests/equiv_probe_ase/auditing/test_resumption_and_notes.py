"""A failure is tried again on resuming; what the net torque says about the energy; names of reports."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.testing import QuadraticEnergy
from equiv_probe_ase import audit
from equiv_probe_ase.auditing.versions import versions
from equiv_probe_ase.calculators.inspection import weights_digest
from equiv_probe_ase.structures.rotation import Rotator

from .faulty_calculators import Faulty

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
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


@pytest.mark.slow
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


class UniformField(Faulty):
    """Charges of sum zero in a uniform field: conservative to the last digit, and of degree one in the orientation."""

    implemented_properties = ("energy", "forces")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        charges = atoms.numbers - atoms.numbers.mean()
        field = np.array([0.0, 0.0, 0.3])
        return {"energy": -float(charges @ atoms.positions @ field), "forces": charges[:, None] * field}


@pytest.mark.slow
@pytest.mark.parametrize("design", ["haar", "tetrahedral"])
def test_a_conservative_field_at_the_bound_is_never_accused(design: str) -> None:
    """Of degree one the bound is an equality: from the same few rotations either side is larger by chance."""
    beyond = 0
    for seed in range(12):
        report = audit(UniformField(), molecule("CH3CH2OH"), plan=RotationPlan(design, 4, seed=seed))
        energy = report.structures[0]["quantities"]["energy"]
        beyond += energy["rms"] > 1.05 * energy["torque_bound"]
        assert not any("not the energy's gradient" in note for note in report.notes)
    if design == "haar":
        assert beyond, "the negative control: the bound alone accuses some"


def test_rounding_beside_rounding_accuses_nobody() -> None:
    for k in range(6):
        report = audit(EMT(), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0 + 0.1 * k]]))
        assert not any("gradient" in note for note in report.notes)


class FromFile(Faulty):
    """Its weights are an array of NumPy, which no digest of torch's sees."""

    implemented_properties = ("energy", "forces")

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = np.array(weights)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        return {"energy": float((self.weights * x**2).sum()), "forces": -2 * self.weights * x}


@pytest.mark.slow
def test_results_of_weights_that_no_digest_sees_are_not_resumed(tmp_path: Path, capsys: Any) -> None:
    structures = [molecule("H2O"), molecule("CH4")]
    journal = tmp_path / "a.jsonl"
    first = audit(FromFile([1.0, 1.0, 2.0]), structures, journal=journal)
    again = audit(FromFile([1.0, 1.0, 2.0]), structures, journal=journal)
    assert again.structures == first.structures
    assert "resumed 2 of 2 structures" in capsys.readouterr().err
    with pytest.raises(EquivProbeError, match=r"another model: energy of .* now and was .* then"):
        audit(FromFile([1.0, 1.0, 1.0]), structures, journal=journal)
    assert audit(FromFile([1.0, 1.0, 1.0]), structures, journal=journal, fresh=True)["forces"].verdict == "round-off"


def test_buffers_are_weights_too() -> None:
    calculator = FromFile([1.0, 1.0, 1.0])
    calculator.net = torch.nn.BatchNorm1d(2)
    before = weights_digest(calculator)
    calculator.net.running_mean += 1.0
    assert weights_digest(calculator) != before


@pytest.mark.slow
def test_a_file_is_the_same_from_wherever_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")])
    monkeypatch.chdir(tmp_path)
    audit(FromFile([2.0, 1.0, 1.0]), "two.xyz", journal=tmp_path / "a.jsonl")
    again = audit(FromFile([2.0, 1.0, 1.0]), tmp_path / "two.xyz", journal=tmp_path / "a.jsonl")
    assert again.protocol["resumed structures"] == 2


def test_a_package_is_named_as_it_was_installed() -> None:
    class Elsewhere(FromFile):
        pass

    Elsewhere.__module__ = "yaml.somewhere"
    assert f"PyYAML {metadata.version('PyYAML')}" in versions(Elsewhere([1.0, 1.0, 1.0]))


def test_the_name_of_a_design_is_a_plan() -> None:
    assert "4 × icosahedral" in audit(EMT(), molecule("H2O"), plan="icosahedral").protocol["plan"]
    with pytest.raises(EquivProbeError, match="one of haar, klein"):
        audit(EMT(), molecule("H2O"), plan="dodecahedral")


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


@pytest.mark.slow
def test_adaptive_effort_begins_with_enough_replicates_for_an_interval(planted: Any, mixed: list[Atoms]) -> None:
    # Forces along z whatever the structure: tetrahedral replicates average their square exactly, so four are enough.
    def field(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"forces": torch.tensor([0.0, 0.0, 0.3], dtype=x.dtype).expand_as(x)}

    plan = RotationPlan("tetrahedral", replicates=2)
    report = audit(planted(field, names=["forces"]), mixed[:1], plan=plan, rel_err=0.1)
    assert report.structures[0]["rotations"] == 48
    assert np.isfinite(report["forces"].rms_interval).all()
