"""Reference energies with another zero: fitted and told where it is plain, left alone where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import molecule

import equiv_probe as ep
from equiv_probe_ase import audit

from .faulty_calculators import Faulty

if TYPE_CHECKING:
    from typing import Any

    from ase import Atoms

    from equiv_probe.results.report import Labelled, Report

NAMES = ("CH3CH2OH", "CH4", "H2O", "NH3", "C6H6", "CH3OH", "C2H4", "H2CO", "N2H4", "HCN", "C2H6", "CH3CN")
PLAN = ep.RotationPlan("icosahedral", 2)


class Tilted(Faulty):
    """``Σ xᵀ A x`` about the centroid, of degree 2: the plan averages its square exactly."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        return {"energy": 0.02 * float((x**2 @ [1.0, 0.4, 0.1]).sum())}


def labelled(offsets: dict[str, float], names: tuple[str, ...] = NAMES, scatter: float = 0.02) -> list[Atoms]:
    """References that scatter about the model's mean over rotations by 20 meV/atom, with another zero."""
    rng = np.random.default_rng(1)
    made = []
    for name in names:
        atoms = molecule(name)
        x = atoms.positions - atoms.positions.mean(0)
        mean = 0.02 * 0.5 * float((x**2).sum())
        zero = sum(offsets.get(symbol, 0.0) for symbol in atoms.symbols)
        atoms.info["REF_energy"] = mean + zero + len(atoms) * scatter * rng.standard_normal()
        made.append(atoms)
    return made


def loss_of(report: Report) -> Labelled:
    found = report["energy"].labelled
    assert found is not None
    return found


@pytest.mark.slow
def test_another_zero_changes_the_share_as_little_as_the_fit_costs() -> None:
    plain = audit(Tilted(), labelled({}), plan=PLAN)
    assert not any("zero" in note for note in plain.notes), "what needs no fit gets none"
    other = audit(Tilted(), labelled({"H": -13.6, "C": -1030.0, "N": -1480.0, "O": 5.0}), plan=PLAN)
    assert any("relative to one zero" in note and "-1030" in note for note in other.notes)
    assert loss_of(other).equiv == pytest.approx(loss_of(plain).equiv, rel=1e-6)  # of squares of 1e12
    # Twelve structures and four elements: a mean square of eight, known to a factor of two, and not shrunk by the fit.
    assert 0.4 < loss_of(other).total / loss_of(plain).total < 2.5
    unfitted = audit(Tilted(), labelled({"H": -13.6}), plan=PLAN, reference_offsets={})
    assert loss_of(unfitted).share < 1e-4 * loss_of(plain).share, "the negative control: as it was"


def test_a_fit_does_not_shrink_the_loss_on_average() -> None:
    """40 data sets: what is left is divided by what a fit leaves to chance, so that the mean is the truth's 400."""
    from equiv_probe_ase.auditing.energy_zero import _composition, _fitted

    shares, elements = _composition([molecule(name).get_chemical_formula() for name in NAMES])
    means = []
    for seed in range(40):
        chance = 20 * np.random.default_rng(seed).standard_normal(len(NAMES))
        left, weight, _ = _fitted(shares, elements, chance + shares @ [5e3, -1e3, 2e3, 7e3])
        means.append(np.mean(left**2 / weight))
    assert abs(np.mean(means) - 400) < 4 * np.std(means) / np.sqrt(len(means))


@pytest.mark.slow
def test_given_offsets_are_taken() -> None:
    plain = audit(Tilted(), labelled({}), plan=PLAN)
    other = audit(Tilted(), labelled({"H": -13.6}), plan=PLAN, reference_offsets={"H": -13.6})
    assert loss_of(other).total == pytest.approx(loss_of(plain).total, rel=1e-6)
    assert loss_of(other).share == pytest.approx(loss_of(plain).share, rel=1e-6)


def test_a_models_own_error_is_not_taken_for_another_zero() -> None:
    """Off by 100 meV/atom everywhere: a model may be."""
    atoms = labelled(dict.fromkeys("HCNO", 0.1))
    report = audit(Tilted(), atoms, plan=PLAN)
    assert not any("zero" in note for note in report.notes)
    assert loss_of(report).mean > 0.8 * 100**2


def test_one_structure_alone_cannot_tell_and_says_so() -> None:
    report = audit(Tilted(), labelled({"H": -13.6}, ("CH4",)), plan=PLAN)
    assert any("another zero" in note and "reference_offsets" in note for note in report.notes)
