"""Quantities with a catch: the dipole of an ion, moments with three components, norms of numbers and tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from tblite.ase import TBLite

import equiv_probe as ep
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe_ase import audit

if TYPE_CHECKING:
    import torch
    from ase import Atoms

EXACT = RotationPlan("icosahedral", replicates=4)


def ammonium() -> Atoms:
    """NH4⁺ far from the origin, where the dipole of an ion is large and rotates about ``Q c``."""
    from ase import Atoms

    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.6
    ion = Atoms("NH4", [[0, 0, 0], *corners])
    ion.rattle(0.1, seed=0)
    ion.positions += 5.0
    ion.set_initial_charges([1, 0, 0, 0, 0])
    return ion


@pytest.mark.parametrize("properties", [["dipole"], ["dipole", "charges"]])
def test_the_dipole_of_an_ion_is_at_round_off(properties: list[str]) -> None:
    # With and without the calculator's own charges to take the total from.
    report = audit(TBLite(method="GFN2-xTB", verbosity=0), ammonium(), properties=properties)
    assert report["dipole"].verdict == "round-off"


class Moments(Calculator):
    """Non-collinear moments that point along z whatever the structure: a third of their square per component."""

    implemented_properties = ("energy", "magmoms")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "magmoms": np.tile([0.0, 0.0, 0.3], (len(self.atoms), 1))}


@pytest.mark.slow
@pytest.mark.parametrize("improper", [False, True])
def test_moments_with_three_components_are_axial(improper: bool) -> None:
    plan = RotationPlan("tetrahedral", replicates=4, improper=improper)
    report = audit(Moments(), molecule("H2O"), plan=plan)
    # Tetrahedral rotations average degree 1 exactly; the inversion leaves axial vectors alone.
    assert report["magmoms"].rms == pytest.approx(300 / np.sqrt(3), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mae-norm", "huber-norm", "mae", "huber"])
def test_norm_wise_losses_take_energies_and_stresses_too(
    planted: Any, quadratic: Any, mixed: list[Atoms], loss: str
) -> None:
    for atoms in mixed:
        atoms.info["REF_energy"] = 0.1
        atoms.info["REF_stress"] = np.zeros(6)
        atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
    report = audit(planted(quadratic), mixed, plan=EXACT, loss=loss)
    assert report.failures == []
    for name in ("energy", "forces", "stress"):
        labelled = report[name].labelled
        assert labelled is not None
        assert labelled.total > 0
        assert labelled.equiv > 0
    if loss == "mae-norm":  # the Frobenius norm of a tensor that does not rotate: the same in every frame
        calculator = planted(quadratic)
        crystal = next(atoms for atoms in mixed if atoms.pbc.all())
        calculator.calculate(crystal)
        xx, yy, zz, yz, xz, xy = calculator.results["stress"] * 1e3
        norm = np.sqrt(xx**2 + yy**2 + zz**2 + 2 * (yz**2 + xz**2 + xy**2))
        assert report["stress"].labelled is not None
        assert report["stress"].labelled.total == pytest.approx(norm, rel=1e-9)


@pytest.mark.slow
def test_norm_wise_and_component_wise_agree_on_numbers(planted: Any, mixed: list[Atoms]) -> None:
    def field(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"charges": x[..., 0] - x[..., 0].mean(-1, keepdim=True)}

    for atoms in mixed:
        atoms.arrays["REF_charges"] = np.zeros(len(atoms))
    found = [
        audit(planted(field, names=["charges"]), mixed, plan=EXACT, loss=loss)["charges"].labelled
        for loss in ("mae", "mae-norm")
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].equiv == pytest.approx(found[1].equiv, rel=1e-12)


class InField(Calculator):
    """Charges in an external field that the structure names: exactly invariant where the field rotates along."""

    implemented_properties = ("energy",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.field = name

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        charges = self.atoms.numbers - self.atoms.numbers.mean()
        field = {**self.atoms.arrays, **self.atoms.info}[self.field]
        self.results = {"energy": float(charges @ (self.atoms.positions * field).sum(1))}


@pytest.mark.parametrize(
    ("name", "each"), [("external_field", False), ("electric_field", True), ("B_field", False), ("direction", False)]
)
def test_external_fields_rotate_by_their_usual_names(name: str, each: bool) -> None:
    """Left as it is, as an array of another name is until it is declared, a field makes a sound model look broken."""
    water = molecule("H2O")
    field = np.array([0.01, -0.02, 0.03])
    water.info[name] = field
    if each:
        del water.info[name]
        water.arrays[name] = np.tile(field, (3, 1))
    found = audit(InField(name), water, plan=EXACT)["energy"]
    assert found.verdict == ("broken" if name == "direction" else "round-off")
    for rep, verdict in ((ep.vector, "round-off"), (ep.fixed, "broken")):
        found = audit(InField(name), water, plan=EXACT, schema=ep.Schema({name: rep}, {}))["energy"]
        assert found.verdict == verdict
