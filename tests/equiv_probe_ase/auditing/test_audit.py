"""Audits of planted calculators against closed forms.

With two icosahedral replicates (degree 5) the planted models, whose squared errors are of degree 4, are integrated
exactly: the tolerance is rounding, 1e-9 relative. Where a plan samples, the tolerance is statistical and says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLength, FixedPlane
from ase.stress import voigt_6_to_full_3x3_stress

import equiv_probe as ep
from equiv_probe.representations.representation import CartesianTensor
from equiv_probe.testing import CentralForces, HandedModel, LinearField, QuadraticEnergy
from equiv_probe_ase import audit
from equiv_probe_ase.evaluators.evaluator import ase_results
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from ase import Atoms

    from equiv_probe.results.report import Report

EXACT = ep.RotationPlan("icosahedral", replicates=2, seed=1)
FIELD = torch.tensor([[1.2, 0.7, -0.3], [-0.5, 0.4, 0.9], [0.1, -0.8, 0.6]], dtype=torch.float64)


def positions(atoms: Atoms) -> torch.Tensor:
    return torch.from_numpy(atoms.positions.copy())


def test_closed_form_energy_forces_and_stress(planted: Any, quadratic: QuadraticEnergy, mixed: list[Atoms]) -> None:
    report = audit(planted(quadratic), mixed, plan=EXACT)
    each = [quadratic.equiv(positions(atoms)) for atoms in mixed]
    sizes = np.array([len(atoms) for atoms in mixed])
    energy = np.array([e["energy"] for e in each]) * (1e3 / sizes) ** 2
    forces = np.array([e["forces"] for e in each]) * 1e6
    assert report["energy"].equiv == pytest.approx(energy.mean(), rel=1e-9)
    assert report["forces"].equiv == pytest.approx((forces * sizes).sum() / sizes.sum(), rel=1e-9)  # mean over atoms
    assert report["forces"].rms == pytest.approx(math.sqrt(report["forces"].equiv))
    # ‖B₂‖² over nine components of a full tensor, not over the six of Voigt's, which weigh shears half.
    traceless = quadratic.stress - quadratic.stress.diagonal().mean() * torch.eye(3)
    assert report["stress"].equiv == pytest.approx(1e6 * float(traceless.square().sum()) / 9, rel=1e-9)
    assert report["stress"].structures == 1  # only the crystal is periodic in all directions
    found = [record["quantities"]["forces"]["equiv"] for record in report.structures]
    np.testing.assert_allclose(found, forces, rtol=1e-9)
    assert report["forces"].over_structures["max"] == pytest.approx(math.sqrt(forces.max()))
    assert report["forces"].over_structures["worst"] == report.structures[int(forces.argmax())]["name"]
    assert {m.name: m.unit for m in report.measured} == {
        "energy": "meV/atom",
        "forces": "meV/Å",
        "stress": "meV/Å³",
    }
    assert all(m.verdict == "broken" for m in report.measured)


def test_closed_form_by_element_and_worst_atoms(planted: Any, mixed: list[Atoms]) -> None:
    report = audit(planted(LinearField(FIELD)), mixed, plan=EXACT)
    anisotropic = FIELD - FIELD.diagonal().mean() * torch.eye(3)
    gain = float(anisotropic.square().sum()) / 9 * 1e6  # E_g |gᵀ A g x|² / 3 = ‖A − tr A/3‖² |x|² / 9
    squares: dict[str, list[float]] = {}
    atoms_by_size = []
    for atoms, record in zip(mixed, report.structures, strict=True):
        x = atoms.positions - atoms.positions.mean(0)
        for i, (symbol, square) in enumerate(zip(atoms.symbols, (x**2).sum(1), strict=True)):
            squares.setdefault(symbol, []).append(gain * square)
            atoms_by_size.append((square, record["name"], i, symbol))
    assert set(report["forces"].by_element) == set(squares)
    for symbol, values in squares.items():
        entry = report["forces"].by_element[symbol]
        assert entry["rms"] == pytest.approx(math.sqrt(np.mean(values)), rel=1e-9)
        assert entry["atoms"] == len(values)
    square, name, index, symbol = max(atoms_by_size)
    worst = report["forces"].worst_atoms[0]
    assert (worst["structure"], worst["atom"], worst["element"]) == (name, index, symbol)
    assert worst["rms"] == pytest.approx(math.sqrt(gain * square), rel=1e-9)


def test_closed_form_share_with_labels(planted: Any, mixed: list[Atoms]) -> None:
    model, rng = LinearField(FIELD), np.random.default_rng(0)
    equiv, mean = 0.0, 0.0
    for atoms in mixed:
        twirl = model.twirl(positions(atoms))["forces"].numpy()
        atoms.arrays["REF_forces"] = twirl + rng.normal(scale=0.5, size=twirl.shape)
        mean += 1e6 * ((atoms.arrays["REF_forces"] - twirl) ** 2).sum()
        equiv += 1e6 * model.equiv(positions(atoms))["forces"] * 3 * len(atoms)
    found = audit(planted(model), mixed, plan=EXACT)["forces"].labelled
    assert found is not None
    count = 3 * sum(map(len, mixed))
    assert found.mean == pytest.approx(mean / count, rel=1e-9)
    assert found.equiv == pytest.approx(equiv / count, rel=1e-9)
    assert found.total == pytest.approx((mean + equiv) / count, rel=1e-9)
    assert found.share == pytest.approx(equiv / (mean + equiv), rel=1e-9)
    low, high = found.share_interval
    assert 0 < low < found.share < high < 1
    assert found.unit == "(meV/Å)²"
    assert found.structures == len(mixed)


def test_labels_on_some_structures_count_only_there(planted: Any, mixed: list[Atoms]) -> None:
    model = LinearField(FIELD)
    mixed[3].arrays["REF_forces"] = np.zeros((9, 3))
    report = audit(planted(model), mixed, plan=EXACT)
    assert report["forces"].labelled.structures == 1
    alone = audit(planted(model), mixed[3], plan=EXACT)["forces"].labelled
    assert report["forces"].labelled.share == pytest.approx(alone.share, rel=1e-9)


@pytest.mark.slow
def test_sampled_estimates_are_unbiased_and_their_intervals_cover(planted: Any) -> None:
    """80 seeds of eight independent rotations: mean within four standard errors, coverage as binomial allows.

    80 intervals that cover 95 % miss 0 to 11 times, but for one run in a thousand.
    """
    model, atoms = LinearField(FIELD), molecule("CH3CH2OH")
    truth = 1e6 * model.equiv(positions(atoms))["forces"]
    found, missed = [], 0
    for seed in range(80):
        (record,) = audit(planted(model), atoms, plan=ep.RotationPlan("haar", replicates=8, seed=seed)).structures
        values = record["quantities"]["forces"]
        found.append(values["equiv"])
        missed += not values["equiv_interval"][0] <= truth <= values["equiv_interval"][1]
    z = (np.mean(found) - truth) / (np.std(found, ddof=1) / math.sqrt(len(found)))
    assert abs(z) < 4
    assert np.std(found) > 0.01 * truth  # or the plan would be exact, and nothing would be tested
    assert missed <= 11


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_equivariant_calculator_is_at_round_off(planted: Any, mixed: list[Atoms], dtype: torch.dtype) -> None:
    report = audit(planted(CentralForces(), dtype), mixed)
    assert {m.name: m.verdict for m in report.measured} == dict.fromkeys(("energy", "forces", "stress"), "round-off")
    assert report.protocol["precision"] == str(dtype).removeprefix("torch.")
    forces, unit = report["forces"], torch.finfo(dtype).eps
    assert 0 < forces.floor < 30 * unit * 1e3  # forces of about 1 eV/Å, in meV/Å
    assert 0 < forces.rms < 30 * unit * 1e3
    assert forces.nondeterminism == 0


def test_negative_control_outputs_that_are_not_rotated_back(
    planted: Any, mixed: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All but points: the round trips of the floor are rotated back as ever.
    rotate_back = CartesianTensor.rotate_back
    monkeypatch.setattr(
        CartesianTensor, "rotate_back", lambda self, v, *rest: rotate_back(self, v, *rest) if self.is_affine else v
    )
    assert audit(planted(CentralForces()), mixed)["forces"].verdict == "broken"


@pytest.mark.slow
def test_negative_control_structures_that_are_not_rotated(
    planted: Any, quadratic: QuadraticEnergy, mixed: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rotator, "copies", lambda self, rotations: [self.atoms.copy() for _ in rotations])
    report = audit(planted(quadratic), mixed, plan=EXACT)
    assert report["energy"].rms == 0  # where the planted model's is not
    assert audit(planted(CentralForces()), mixed)["forces"].verdict == "broken"


def test_a_handed_model_is_broken_by_improper_rotations_only(planted: Any, mixed: list[Atoms]) -> None:
    model = HandedModel()
    schema = ep.Schema(inputs={}, outputs=dict(model.outputs))
    proper = audit(planted(model), mixed[3], plan=EXACT, schema=schema)
    improper = audit(planted(model), mixed[3], plan=ep.RotationPlan("icosahedral", 2, improper=True), schema=schema)
    expected = model.equiv(positions(mixed[3]), improper=True)
    for name in ("chirality", "moment"):
        assert proper[name].verdict == "round-off"
        assert improper[name].equiv == pytest.approx(expected[name], rel=1e-9)
    assert "improper" in improper.protocol["plan"]


def test_the_net_torque_bounds_the_spread_of_a_conservative_energy(
    planted: Any, quadratic: QuadraticEnergy, mixed: list[Atoms]
) -> None:
    report = audit(planted(quadratic), mixed, plan=EXACT)
    for atoms, record in zip(mixed, report.structures, strict=True):
        values = record["quantities"]["energy"]
        if atoms.pbc.any():
            assert "torque_bound" not in values
        else:  # ½ Σ l(l+1) P_l = 3 P_2, for an energy of degree 2 only
            assert values["torque_bound"] == pytest.approx(math.sqrt(3) * values["rms"], rel=1e-9)
    assert any("net torque" in note for note in report.notes)


def test_a_constant_force_offset_does_not_rotate(planted: Any) -> None:
    """Forces that point along z whatever the structure: all of it is broken symmetry, a third per component."""
    report = audit(
        planted(lambda x: {"forces": torch.tensor([0.0, 0.0, 0.3], dtype=x.dtype).expand_as(x)}, names=["forces"]),
        molecule("H2O"),
        plan=EXACT,
    )
    assert report["forces"].rms == pytest.approx(300 / math.sqrt(3), rel=1e-9)
    assert report["forces"].largest == pytest.approx(300, rel=1e-9)


@pytest.mark.slow
def test_batches_factories_and_loops_give_the_same(planted: Any, batched: Any, quadratic: Any, mixed: Any) -> None:
    loop = audit(planted(quadratic), mixed, name="x")
    together = audit(batched(quadratic), mixed, name="x")
    small = audit(batched(quadratic), mixed, name="x", atoms_per_call=20)
    for other in (
        together,
        small,
        audit(batched(quadratic), mixed, batched=False, name="x"),
        audit(lambda: planted(quadratic), mixed, name="x"),
    ):
        assert other.structures == loop.structures
        assert other.measured == loop.measured
    assert together.protocol["model calls"] < small.protocol["model calls"] < loop.protocol["model calls"]
    assert together.protocol["evaluations"] == loop.protocol["evaluations"]


def slab_with_constraints() -> Atoms:
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.rattle(0.1, seed=1)
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    return slab


def test_emt_on_a_slab_with_constraints() -> None:
    report = audit(EMT(), slab_with_constraints())
    assert {m.name: m.verdict for m in report.measured} == {"energy": "round-off", "forces": "round-off"}
    assert report["forces"].rms < 1e-9  # meV/Å, of forces around 1 eV/Å in float64
    # EMT claims magnetic moments that it never computes; stress needs three periodic directions.
    assert not {"magmoms", "stress"} & {m.name for m in report.measured}
    # What is measured is the model's: forces on fixed atoms too.
    assert report["forces"].by_element["Cu"]["atoms"] == 12
    assert report.protocol["precision"] == "float64"


def test_the_callers_state_is_left_alone(planted: Any, quadratic: QuadraticEnergy) -> None:
    slab, calculator = slab_with_constraints(), EMT()
    slab.calc = calculator
    forces, energy = slab.get_forces(), slab.get_potential_energy()
    snapshot = slab.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    inner = planted(quadratic)
    audit(inner, slab)
    assert slab == snapshot
    assert slab.calc is calculator
    np.testing.assert_array_equal(slab.get_forces(), forces)
    assert slab.get_potential_energy() == energy
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002 - the global state is what is checked
    audit(calculator, slab)  # even the calculator that the structure carries
    np.testing.assert_array_equal(slab.get_forces(), forces)


def test_plans_that_give_no_error_bar_are_refused(planted: Any, quadratic: QuadraticEnergy) -> None:
    for plan in (ep.RotationPlan("cube"), ep.RotationPlan("tetrahedral", replicates=1)):
        with pytest.raises(ep.EquivProbeError, match="at least two randomly rotated replicates"):
            audit(planted(quadratic), molecule("H2O"), plan=plan)
    for center, expected in (("middle", "centroid"), ([1.0, 2.0], "three coordinates")):
        with pytest.raises(ep.EquivProbeError, match=expected):
            audit(planted(quadratic), molecule("H2O"), center=center)
    with pytest.raises(ep.EquivProbeError, match="rel_err"):
        audit(planted(quadratic), molecule("H2O"), rel_err=-1.0)


def test_the_report_says_how_it_was_measured(planted: Any, quadratic: QuadraticEnergy, mixed: list[Atoms]) -> None:
    report: Report = audit(planted(quadratic), mixed, plan=ep.RotationPlan("haar", replicates=5, seed=3))
    assert "5 × haar" in report.protocol["plan"]
    assert "seed 3" in report.protocol["plan"]
    assert report.protocol["rotations"] == 5 * len(mixed)
    crystals = sum(atoms.cell.rank == 3 for atoms in mixed)  # broken: two more, with the cell transposed
    assert report.protocol["evaluations"] == (5 + 1 + 3 + 1 + 2) * len(mixed) + 2 * crystals
    # rotated, itself, round trips, again, deformed and moved
    assert "ase" in report.protocol["versions"]
    assert report.complete


class MatrixStress(EMT):
    """EMT whose stress is a matrix, in the given shape, with a fixed matrix of the lab's frame on top, eV/Å³."""

    def __init__(self, extra: np.ndarray, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.extra, self.shape = extra, shape

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        if "stress" in self.results:
            matrix = voigt_6_to_full_3x3_stress(self.results["stress"]) + self.extra
            self.results["stress"] = np.resize(matrix, self.shape)


@pytest.mark.parametrize("shape", [(3, 3), (9,), (1, 3, 3)])
@pytest.mark.parametrize("size", [0.0, 0.01])
def test_the_antisymmetric_part_of_a_stress_is_measured(size: float, shape: tuple[int, ...]) -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=0)
    extra = size * np.array([[0, 1, -2], [-1, 0, 3], [2, -3, 0]])  # averages to zero over rotations
    measured = audit(MatrixStress(extra, shape), crystal, properties=["stress"])["stress"]
    if size:
        assert measured.equiv == pytest.approx(1e6 * (extra**2).sum() / 9, rel=1e-9)
    else:
        assert measured.verdict == "round-off"


UPPER = np.triu(np.ones((3, 3)))
NAN = np.full((3, 3), np.nan)


@pytest.mark.parametrize(
    ("matrix", "in_voigt", "form"), [(NAN, False, (6,)), (UPPER, False, (3, 3)), (UPPER, True, (6,))]
)
def test_a_stress_has_the_form_that_the_calculator_gives_it(
    matrix: np.ndarray, in_voigt: bool, form: tuple[int, ...]
) -> None:
    """In batches too: most calculators take the symmetric part; of NaN, as molecules have, nothing is antisymmetric."""
    (stress,) = ase_results({"stress": matrix}, ["stress"], 4, "a model", in_voigt=in_voigt).values()
    assert stress.shape == form
    if in_voigt:
        assert stress.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]


def test_a_property_of_a_shape_that_cannot_be_read_is_named() -> None:
    crystal = bulk("Cu", cubic=True)
    report = audit(MatrixStress(np.zeros((3, 3)), (7,)), crystal)
    assert "stress" not in {m.name for m in report.measured}
    (note,) = [note for note in report.notes if note.startswith("stress")]
    assert "(7,)" in note


class IonsDipole(EMT):
    """EMT, with the dipole of a charge that only the model was told, about the lab's origin or a centre of its own."""

    def __init__(self, charge: float, *, centred: bool) -> None:
        super().__init__()
        self.charge, self.centred = charge, centred
        self.implemented_properties = ["energy", "dipole"]

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        numbers = self.atoms.numbers
        charges = 0.1 * (numbers - numbers.mean()) + self.charge / len(numbers)
        arms = self.atoms.positions - self.centred * self.atoms.get_center_of_mass()
        self.results["dipole"] = charges @ arms


@pytest.mark.parametrize(("charge", "centred"), [(0.0, False), (1.0, False), (-2.0, False), (1.0, True)])
@pytest.mark.parametrize("lab", [0.0, 0.01])
def test_an_ions_dipole_is_not_accused_wherever_its_charge_is_written(charge: float, centred: bool, lab: float) -> None:
    class WithALabVector(IonsDipole):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            super().calculate(*args, **kwargs)
            self.results["dipole"] += lab * np.array([2.0, -1.0, 0.5])

    ion = molecule("CH3CH2OH")
    ion.positions += [3, -2, 1]
    report = audit(WithALabVector(charge, centred=centred), ion)
    assert not any(control.failed for control in report.controls)
    if lab:  # a constant vector averages to zero over rotations
        assert report["dipole"].equiv == pytest.approx(1e6 * lab**2 * 5.25 / 3, rel=1e-6)
    else:
        assert report["dipole"].verdict == "round-off"


@pytest.mark.parametrize("hold", [FixAtoms([0]), FixedPlane(0, (0, 0, 1)), FixBondLength(0, 1)])
def test_a_calculator_that_applies_constraints_itself_does_not_depend_on_the_place(hold: Any) -> None:
    class AppliesConstraints(EMT):
        def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
            super().calculate(atoms, *args, **kwargs)
            inner = atoms.copy()
            inner.calc = EMT()
            self.results["forces"] = inner.get_forces(apply_constraint=True)

    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.05, seed=0)
    ethanol.set_constraint(hold)
    report = audit(AppliesConstraints(), ethanol)
    assert not any(control.failed for control in report.controls)
    assert report["forces"].verdict == "round-off"


class InOrder(EMT):
    """EMT whose stress has its components in another order, and its shears times a factor."""

    def __init__(self, order: list[int], shears: float = 1.0) -> None:
        super().__init__()
        self.order, self.scale = order, np.array([1, 1, 1, *3 * [shears]])

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results["stress"] = (self.results["stress"] * self.scale)[self.order]


@pytest.mark.parametrize(
    ("order", "shears", "said"),
    [
        ([0, 1, 2, 5, 4, 3], 1.0, "(xx yy zz xy xz yz) and not"),
        ([0, 1, 2, 5, 3, 4], 1.0, "(xx yy zz xy yz xz) and not"),
        ([0, 5, 4, 1, 3, 2], 1.0, "(xx xy xz yy yz zz) and not"),
        ([0, 1, 2, 3, 4, 5], 2.0, "(xx yy zz yz xz xy) with shears times 2 and not"),
        ([0, 1, 2, 5, 3, 4], 2.0, "(xx yy zz xy yz xz) with shears times 2 and not"),
        ([0, 1, 2, 3, 4, 5], 0.7, "(xx yy zz yz xz xy) with shears times 0.7 and not"),
        ([0, 1, 2, 3, 4, 5], 0.0, ""),  # as no tensor has them
        ([1, 0, 2, 3, 4, 5], 1.0, ""),  # nobody's order
        ([0, 1, 2, 3, 4, 5], 1.0, ""),
    ],
)
def test_the_order_and_the_factor_of_a_stress_are_told(order: list[int], shears: float, said: str) -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.set_cell(crystal.cell.array @ [[1, 0.03, 0.01], [0, 1.02, 0.05], [0, 0, 0.97]], scale_atoms=True)
    report = audit(InOrder(order, shears), crystal)
    notes = [note for note in report.notes if "six components" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)
    if shears == 2.0 and order == [0, 1, 2, 3, 4, 5]:
        schema = ep.Schema({}, {"stress": ep.voigt(shears=2.0)})
        assert audit(InOrder(order, shears), crystal, schema=schema)["stress"].verdict == "round-off"
