"""What would be called fine, or blamed on rotation, without controls; and sound models that pass all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import equiv_probe as ep
from equiv_probe.testing import CentralForces
from equiv_probe_ase import audit
from equiv_probe_ase.auditing.thresholds import Threshold, exceeded
from equiv_probe_ase.structures.orientations import distinct_orientations
from equiv_probe_ase.structures.rotation import Rotator

from . import faulty_calculators as faulty
from .faulty_calculators import pair_energy

if TYPE_CHECKING:
    from equiv_probe.results.report import Report

BLIND = "do not depend on the rotated inputs"
MOVED = "depends on where a structure is"


def rattled(name: str, seed: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def state(report: Report, control: str) -> str:
    """passed, FAILED or not run, the worst of all quantities."""
    states = {one.state for one in report.controls if one.name == control}
    return next(one for one in ("FAILED", "passed", "not run") if one in states)


def says(report: Report, words: str) -> bool:
    """Whether a failed control says so, and the terminal too."""
    return any(one.failed and words in one.sentence for one in report.controls) and words in " ".join(
        str(report).split()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "calculator",
    [
        faulty.CachesByFormula,
        faulty.EdgesFromElsewhere,
        faulty.PrecomputedFeatures,
    ],
)
def test_a_model_that_never_sees_the_rotation_is_not_called_fine(calculator: Any) -> None:
    report = audit(calculator(), [rattled("CH3CH2OH"), rattled("H2O")])
    assert says(report, BLIND)
    assert state(report, "sees the rotation") == "FAILED"
    assert report["energy"].verdict != "round-off"
    assert report["energy"].rms < 1e-9, "the negative control: by its number alone it is perfect"


def test_numbers_that_are_rounded_to_few_digits_do_see_the_rotation() -> None:
    class Rounded(faulty.Faulty):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            return {"energy": round(super().evaluate(atoms)["energy"], 6)}

    report = audit(Rounded(), rattled("CH3CH2OH"))
    assert report["energy"].rms == 0
    assert report["energy"].verdict == "round-off"
    assert state(report, "sees the rotation") == "passed"


def test_charges_that_a_model_takes_from_the_elements_are_no_cache() -> None:
    class FixedCharges(faulty.Faulty):
        implemented_properties = ("energy", "charges")

        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            return {**super().evaluate(atoms), "charges": 0.1 * (atoms.numbers - atoms.numbers.mean())}

    report = audit(FixedCharges(), rattled("H2O"))
    assert state(report, "sees the rotation") == "passed"
    assert "not measured" in report["charges"].sentence


@pytest.mark.parametrize("atoms", [[Atoms("Cu")], [Atoms("Cu", [[5, 1, 2]]), Atoms("Ag")]])
def test_an_atom_alone_shows_nothing_and_that_is_said(atoms: list[Atoms]) -> None:
    report = audit(EMT(), atoms)
    assert says(report, "nothing was rotated")
    assert [one.verdict for one in report.measured] == ["unknown", "unknown"]
    assert exceeded(Threshold.parse("1meV/A"), report), "a limit is not met by what was not measured"


def test_atoms_alone_beside_molecules_spoil_nothing() -> None:
    """A sound model stays at round-off (its energy of one atom, 1 eV, has few digits), and a broken one broken."""

    class Slanted(faulty.Faulty):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            own = super().evaluate(atoms)["energy"]
            return {"energy": own + 1e-3 * float(np.square(atoms.positions - atoms.positions.mean(0))[:, 2].sum())}

    structures = [Atoms("He"), Atoms("Ne"), rattled("CH3CH2OH")]
    found = audit(faulty.Faulty(), structures)
    assert found["energy"].verdict == "round-off"
    assert found["energy"].floor < 1e-9
    assert state(found, "sees the rotation") == "passed"
    assert audit(Slanted(), structures)["energy"].verdict == "broken"


def test_what_rotates_with_an_atom_alone_is_something() -> None:
    """An external field, the box around it, a fixed centre: all copies are others, and a dipole along z shows."""
    alone, boxed = Atoms("He", [[1, 2, 3]]), Atoms("He", cell=[8, 9, 10], pbc=True)
    field = alone.copy()
    field.info["electric_field"] = np.array([0.0, 0.1, 0.2])
    turns = ep.RotationPlan("haar", 8).rotations()
    assert distinct_orientations(alone, turns, Rotator(alone).arrows_beside()) == 1
    assert distinct_orientations(alone, turns, Rotator(alone, "origin").arrows_beside()) == 8
    assert distinct_orientations(field, turns, Rotator(field).arrows_beside()) == 8
    assert distinct_orientations(boxed, turns, Rotator(boxed).arrows_beside()) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calculator", "atoms"),
    [
        (faulty.PrincipalAxes(), molecule("CH4")),
        (faulty.FrameOfTheNearest(), molecule("CH3CH2OH")),
        (faulty.SharpCutoff(1.3), Atoms("C4", np.array([[0, 0, 0], [1.3, 0, 0], [0, 1.3, 0], [0, 0, 2.0]]))),
    ],
)
def test_what_a_last_digit_decides_is_discontinuous_and_not_at_round_off(calculator: Any, atoms: Atoms) -> None:
    found = audit(calculator, atoms)
    assert found["energy"].verdict in {"discontinuous", "broken"}
    assert found["energy"].rms > 1  # meV/atom
    assert state(found, "the precision explains the floor") == "FAILED"
    assert found["energy"].floor > found["energy"].rms / 10, "the negative control: beside the floor alone it is fine"
    # Without the symmetry that makes the tie, the same model has a frame that rotates with the atoms, or one that does
    # not: neither is excused by its floor.
    generic = atoms.copy()
    generic.rattle(0.1, seed=1)
    again = audit(calculator, generic)
    assert state(again, "the precision explains the floor") == "passed"
    assert again["energy"].verdict == ("broken" if isinstance(calculator, faulty.PrincipalAxes) else "round-off")


class HeightOverTheNearest(faulty.Faulty):
    """Decides by the nearest neighbour of one atom, and gives one of two numbers where two are as near."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        distances = np.linalg.norm(atoms.positions - atoms.positions[0], axis=1)
        nearest = int(np.argsort(distances, kind="stable")[1])
        return {"energy": pair_energy(atoms.positions) + 0.3 * nearest}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calculator", "atoms"),
    [
        (faulty.FrameOfTheNearest, molecule("CH3CH2OH")),
        (HeightOverTheNearest, molecule("H2O")),
        (HeightOverTheNearest, molecule("C2H4")),
    ],
)
def test_a_tie_is_found_also_where_three_round_trips_agree_on_it(calculator: Any, atoms: Atoms) -> None:
    """One round trip in two decides as the structure itself: of 16 seeds a few see three such in a row."""
    evaluations = set()
    for seed in range(16):
        report = audit(calculator(), atoms, plan=ep.RotationPlan(seed=seed))
        assert report["energy"].verdict == "discontinuous"
        evaluations.add(report.protocol["evaluations"])
    assert len(evaluations) > 1, "the negative control: some seeds had to look again"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounding_that_a_model_amplifies_is_told_with_how_much(dtype: torch.dtype) -> None:
    report = audit(faulty.NormalisesNearlyConstant(dtype), molecule("CH3CH2OH"))
    assert report["forces"].verdict in {"ill-conditioned", "discontinuous"}
    assert "times what the precision explains" in report["forces"].sentence
    if dtype == torch.float64:  # in float32 the amplified rounding is as large as the forces themselves
        assert report["forces"].verdict == "ill-conditioned"
        assert report["forces"].relative < 1e-4
    # The same network over channels that differ is well conditioned.
    control = audit(faulty.NormalisesNearlyConstant(dtype, spread=0.3), molecule("CH3CH2OH"))
    assert control["forces"].verdict == "round-off"
    assert state(control, "the precision explains the floor") == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 100.0, 1e4])
def test_an_exact_potential_in_single_precision_is_at_round_off_wherever_it_is(distance: float) -> None:
    """The error grows with the distance from the origin as the grid of float32 numbers does, and the floor with it."""
    for seed in range(6):
        atoms = rattled("H2O" if seed % 2 else "CH3OH", seed)
        atoms.positions += distance * np.array([1.0, 0.7, -0.4])
        report = audit(faulty.InSinglePrecision(), atoms, plan=ep.RotationPlan(seed=seed))
        assert {m.name: m.verdict for m in report.measured} == {"energy": "round-off", "forces": "round-off"}
        assert report["forces"].rms < 10 * report["forces"].floor
        assert not any(one.failed for one in report.controls)
        spacing = np.spacing(np.float32(max(abs(atoms.positions).max(), 1.0)))
        assert 10 * spacing < report["forces"].rms < 1e5 * spacing  # meV/Å of 10 to 100 eV/Å², and rounding's share


class CutTo(faulty.Faulty):
    """An exact potential whose coordinates are rounded to a precision before their differences are taken."""

    implemented_properties = ("energy", "forces")

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        copy = Atoms(atoms.numbers, torch.from_numpy(atoms.positions).to(self.dtype).double().numpy())
        copy.calc = EMT()
        return {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "distance", "said"),
    [
        (torch.float32, 0.0, None),
        (torch.float32, 100.0, None),
        (torch.float32, 3e4, "centre it"),
        (torch.bfloat16, 0.0, "in bfloat16: "),
        (torch.float16, 0.0, "in float16: "),
        (torch.float64, 3e4, None),
    ],
)
def test_round_off_that_is_large_is_told_with_how_large(dtype: torch.dtype, distance: float, said: str | None) -> None:
    atoms = rattled("CH3CH2OH")
    atoms.positions += distance * np.array([0.6, 0.8, 0.0])
    report = audit(CutTo(dtype), atoms)
    assert report["forces"].verdict == "round-off"
    notes = [note for note in report.notes if "round-off is large" in note]
    assert bool(notes) == (said is not None)
    if said:
        assert said in notes[0]
        assert f"forces {report['forces'].rms:.2g} meV/Å" in notes[0]
        assert report["forces"].relative > 1e-3
    if distance and said:
        assert "30000 Å from the origin, where float32 numbers are 0.004 Å apart" in notes[0]


def test_the_digits_of_a_perfect_crystal_say_nothing_of_the_precision() -> None:
    """Its forces are rounding errors, which need few digits: in double precision they are stored all the same."""
    report = audit(EMT(), bulk("Cu", cubic=True))
    assert report.protocol["precision"] == "float64"
    assert report["energy"].floor < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("metal", ["Ni", "Cu", "Au"])
def test_one_atom_in_single_precision_is_not_judged_by_double(metal: str) -> None:
    """Far away, its forces are rounding errors of the cell's images, which float32 explains and float64 does not."""
    atoms = bulk(metal)
    atoms.positions += 170 * np.array([0.8, -0.5, -0.5])
    for seed in range(3):
        report = audit(faulty.InSinglePrecision(), atoms, plan=ep.RotationPlan(seed=seed))
        assert report.protocol["precision"] == "float32"
        assert {m.verdict for m in report.measured} == {"round-off"}
    assert audit(EMT(), atoms).protocol["precision"] == "float64"


@pytest.mark.parametrize(
    ("calculator", "atoms"),
    [
        (faulty.CentredOnPadding(), rattled("CH3CH2OH")),
        (faulty.ForgetsToWrap(), bulk("Si", cubic=True)),
    ],
)
def test_broken_translation_is_named_and_not_left_to_look_like_rotation(calculator: Any, atoms: Atoms) -> None:
    report = audit(calculator, atoms)
    assert says(report, MOVED)
    assert state(report, "does not depend on where the structure is") == "FAILED"
    assert not any("translation" in spot for spot in report.blind_spots)


def strained(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    strain = np.array([[0, 0.03, 0], [0, 0.02, 0.01], [0, 0, 0]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


class PairsInABox(faulty.Faulty):
    """Invariant, but for a function of the places in the cell of size ``off``, eV."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = off

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        nearest = np.linalg.norm(atoms.get_all_distances(mic=True, vector=True), axis=-1)
        return {
            "energy": float(np.exp(-nearest / 2).sum()) + self.off * float(np.sin(atoms.get_scaled_positions()).sum())
        }


@pytest.mark.parametrize(("off", "expected"), [(0.0, "passed"), (1e-8, "FAILED")])
def test_last_digits_of_atoms_moved_by_a_large_cell_are_no_broken_translation(off: float, expected: str) -> None:
    atoms = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.4], [0, 2, 1]], cell=[5000, 4000, 3000], pbc=True)
    assert state(audit(PairsInABox(off), atoms), "does not depend on where the structure is") == expected


def test_an_atom_at_the_origin_which_no_rotation_moves_is_measured() -> None:
    report = audit(EMT(), bulk("Cu"))
    assert not report.failures
    assert state(report, "does not depend on where the structure is") == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("cell", [bulk("Cu", cubic=True), strained(0), strained(1) * (2, 1, 1)])
def test_a_cell_that_is_read_as_columns_is_named(cell: Atoms) -> None:
    atoms = cell.copy()
    atoms.rattle(0.05, seed=3)
    report = audit(faulty.TransposesTheCell(), [rattled("CH4"), atoms], properties=["energy", "forces"])
    assert report["energy"].verdict == "broken"
    assert any("reads the cell's vectors as columns" in note for note in report.notes)


@pytest.mark.slow
@pytest.mark.parametrize("calculator", [EMT, faulty.StandardisesTheCell, lambda: CutTo(torch.float32)])
def test_another_fault_or_none_is_not_blamed_on_a_transposed_cell(calculator: Any) -> None:
    report = audit(calculator(), [strained(0), bulk("Cu", cubic=True)])
    assert not any("columns" in note for note in report.notes)


def test_translation_that_was_not_tested_is_a_blind_spot() -> None:
    report = audit(EMT(), rattled("CH3CH2OH"), center="origin")
    assert state(report, "does not depend on where the structure is") == "not run"
    assert any("translation" in spot for spot in report.blind_spots)
    # About the origin the padded centre rotates along: its one fault does not show, and is not claimed to be absent.
    about = audit(faulty.CentredOnPadding(), rattled("CH3CH2OH"), center="origin")
    assert about["energy"].verdict == "round-off"
    assert not says(about, MOVED)


def test_an_ions_dipole_may_move_with_it() -> None:
    class Ion(faulty.Faulty):
        implemented_properties = ("energy", "dipole", "charges")

        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            charges = 0.1 * atoms.numbers.astype(float)
            return {**super().evaluate(atoms), "charges": charges, "dipole": charges @ atoms.positions}

    assert state(audit(Ion(), rattled("CH3CH2OH")), "does not depend on where the structure is") == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sound_models_pass_all_controls(planted: Any, mixed: list[Atoms], dtype: torch.dtype) -> None:
    molecules = [atoms for atoms in mixed if not atoms.pbc.any()]
    for atoms in molecules:  # the planted model is central: about the centre of the structure
        atoms.positions -= atoms.positions.mean(0)
    report = audit(planted(CentralForces(), dtype), molecules, center="origin")
    assert not any(one.failed for one in report.controls)
    crystals = [bulk("Cu", cubic=True), bulk("Au") * (2, 2, 1)]
    crystals[1].rattle(0.05, seed=1)
    report = audit(EMT(), [*crystals, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])])
    assert not any(one.failed for one in report.controls)
    assert not report.notes
    assert all(math.isfinite(m.rms) and m.verdict == "round-off" for m in report.measured)


@pytest.mark.slow
def test_noise_alone_is_no_broken_symmetry_and_no_part_of_the_loss() -> None:
    """Twelve audits of noise: chance calls one of them more than chance once in 150 runs."""
    atoms = [rattled(name) for name in ("CH3CH2OH", "H2O", "CH4")]
    for one in atoms:  # labels that are off by 0.1 eV/Å everywhere
        one.arrays["REF_forces"] = -(one.positions - one.positions.mean(0)) + 0.1
    kinds, shares = [], []
    for seed in range(12):
        report = audit(faulty.Noisy(0.3, seed=seed), atoms, plan=ep.RotationPlan(seed=seed))
        kinds += [m.verdict for m in report.measured]
        shares.append(report["forces"].labelled.share)
        assert report["forces"].nondeterminism == pytest.approx(300, rel=0.1)
        assert report["forces"].labelled.share_interval[0] < 0.05
    assert set(kinds) == {"non-deterministic"}
    assert abs(np.mean(shares)) < 0.15, "noise of 300 meV/Å beside an error of 100 meV/Å was nearly all of the loss"


@pytest.mark.slow
def test_a_fault_beneath_the_noise_is_found_and_measured_without_it() -> None:
    atoms = rattled("CH3CH2OH")
    plan = ep.RotationPlan("tetrahedral", 40)
    exact = audit(faulty.Noisy(0.0, 0.2), atoms, plan=plan)["forces"]
    noisy = audit(faulty.Noisy(0.15, 0.2), atoms, plan=plan)["forces"]
    assert exact.rms < 0.6 * 150, "well beneath the noise"
    assert noisy.verdict == "broken"
    assert "from call to call" in noisy.sentence
    assert abs(noisy.equiv - exact.equiv) < 4 * noisy.equiv_stderr
    assert noisy.rms == pytest.approx(exact.rms, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [faulty.BatchCoupled, faulty.PaddingLeaks, faulty.EvaluatesTheFirst])
def test_a_batch_that_changes_what_a_structure_gets_is_not_trusted(kind: Any) -> None:
    """Labels that are off by 50 meV/atom from what the model says of each structure alone: L_total is 2500."""
    atoms = [rattled(name) for name in ("CH3CH2OH", "CH4", "C6H6", "H2O", "NH3")]
    model = kind()
    for one in atoms:
        one.info["REF_energy"] = model.evaluate(one)["energy"] + 0.05 * len(one)
    report = audit(model, atoms)
    assert report["energy"].labelled.total == pytest.approx(2500, rel=1e-6)
    assert report["energy"].verdict == "round-off"
    assert state(report, "does not depend on its batch") == "FAILED"
    assert says(report, "depends on its neighbours in the batch")
    assert "one call per structure" in report.protocol["evaluator"]


@pytest.mark.parametrize("kind", [faulty.SharesByDistances, faulty.SharesEdges])
def test_what_is_shared_within_a_batch_by_what_does_not_rotate_makes_no_zero(kind: Any) -> None:
    """All rotated copies of a batch get the first one's energy: it looks invariant there, and alone it is not."""
    atoms = [rattled("CH4"), rattled("H2O")]
    report = audit(kind(), atoms)
    assert report["energy"].verdict == "broken"
    assert state(report, "does not depend on its batch") == "FAILED"
    assert report["energy"].rms == pytest.approx(audit(kind(), atoms, batched=False)["energy"].rms, rel=1e-9)
    copies = Rotator(atoms[0]).copies(ep.RotationPlan().rotations().reshape(-1, 3, 3))
    together = [one["energy"] for one in kind().calculate_batch(copies, ["energy"])]
    assert np.ptp(together) < 1e-9, "without the control, a zero"


def test_a_single_structure_is_compared_with_itself_beside_a_deformed_copy() -> None:
    assert state(audit(faulty.BatchCoupled(), rattled("H2O")), "does not depend on its batch") == "FAILED"


def test_a_molecule_without_stress_beside_crystals_is_compared_in_all_else() -> None:
    """The calculator has stresses, and none of a molecule: that must not leave the batch without its control."""

    class Stressed(faulty.BatchCoupled):
        implemented_properties = ("energy", "stress")

    assert state(audit(Stressed(), rattled("H2O")), "does not depend on its batch") == "FAILED"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sound_batch_is_trusted(batched: Any, mixed: list[Atoms], dtype: torch.dtype) -> None:
    report = audit(batched(CentralForces(), dtype), mixed)
    assert state(report, "does not depend on its batch") == "passed"
    assert "batched" in report.protocol["evaluator"]


@pytest.mark.slow
def test_a_few_structures_or_a_narrow_cone_of_orientations_are_told() -> None:
    class Uneven(faulty.Faulty):
        """One structure in twenty is a thousand times as wrong; with a sharpness, in a narrow cone alone."""

        def __init__(self, sharpness: float) -> None:
            super().__init__()
            self.sharpness = sharpness

        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            arms = atoms.positions[1:] - atoms.positions[0]
            along_z = arms[:, 2] / np.linalg.norm(arms, axis=1)
            size = 1.0 if len(atoms) > 3 else 1e-3
            return {"energy": pair(atoms) + size * float(np.exp(self.sharpness * (along_z[:1] - 1)).sum())}

    pair = lambda atoms: faulty.pair_energy(atoms.positions)  # noqa: E731 - the exact part
    many = [rattled("H2O", seed) for seed in range(19)]
    few = audit(Uneven(1.0), [*many, rattled("CH4")])
    assert state(few, "many structures carry the number") == "FAILED"
    assert says(few, "a few structures carry this number (structure[19] makes 1")
    assert state(few, "many rotations carry the number") == "passed"
    even = audit(Uneven(1.0), many)
    assert state(even, "many structures carry the number") == "passed"
    cone = audit(Uneven(100.0), rattled("CH4"))
    assert state(cone, "many rotations carry the number") == "FAILED"
    assert says(cone, "narrow cone")
