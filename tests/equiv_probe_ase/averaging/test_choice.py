"""``plan="auto"`` of averaged calculators and audits, on energies of one angular degree."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import equiv_probe as ep
from equiv_probe.estimation.choice_of_plan import aliasing
from equiv_probe.rotations.designs import smallest_first
from equiv_probe.testing import HarmonicEnergy
from equiv_probe_ase import TwirledCalculator, audit
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

pytestmark = pytest.mark.slow
AXIS = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)


class Broken:
    """An equivariant energy, a spring to the origin, and harmonics of two degrees, with forces by autograd."""

    outputs = ("energy", "forces")

    def __init__(self, degree: int, small: float = 0.0) -> None:
        self.parts = [HarmonicEnergy(degree, AXIS), HarmonicEnergy(degree + 1, AXIS)]
        self.small = small

    def __call__(self, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        x = positions.clone().requires_grad_()
        first, second = (part(x)["energy"] for part in self.parts)
        energy = x.square().sum() + 1e-3 * (first + self.small * second)
        return {"energy": energy, "forces": -torch.autograd.grad(energy, x)[0]}


def enough(degree: int) -> str:
    """The cheapest design that keeps at most 1 % of an error of one degree."""
    return next(name for name in smallest_first() if aliasing(ep.RotationPlan(name), degree) <= 0.01**2)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6, 8])
def test_the_plan_fits_the_degree(degree: int, cluster: Atoms, batched: Any) -> None:
    calculator = TwirledCalculator(batched(Broken(degree)), "auto", seed=degree, target=0.01, orient=False)
    cluster.calc = calculator
    energy, forces = cluster.get_potential_energy(), cluster.get_forces()
    assert calculator.plan == ep.RotationPlan(enough(degree), 1, seed=degree)
    assert energy == pytest.approx(float(np.sum(cluster.positions**2)), rel=1e-12)
    np.testing.assert_allclose(forces, -2 * cluster.positions, atol=1e-10)
    before = calculator.evaluations
    cluster.rattle(0.01)
    cluster.get_forces()
    assert calculator.evaluations - before == calculator.plan.size  # the choice is made once


def test_a_small_part_of_a_higher_degree_may_stay(cluster: Atoms, batched: Any) -> None:
    cluster.calc = TwirledCalculator(batched(Broken(3, small=1e-4)), "auto", orient=False)
    cluster.get_forces()
    assert cluster.calc.plan.design == "design-3"
    strict = TwirledCalculator(batched(Broken(3, small=1e-4)), "auto", target={"forces": 1e-12})
    strict.get_forces(cluster)
    assert strict.plan.degree > 3
    copy = pickle.loads(pickle.dumps(strict))
    assert copy.plan == strict.plan
    assert strict.parameters["design"] == strict.plan.design


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_a_plan_that_is_oriented_needs_no_more_rotations(degree: int, cluster: Atoms, batched: Any) -> None:
    """The energy errs along one direction of its frame, which a design may miss: of degree 4 with 24 and not 42."""
    calculator = TwirledCalculator(batched(Broken(degree)), "auto", seed=degree)
    cluster.calc = calculator
    forces = cluster.get_forces()
    error = np.sqrt(np.mean((forces + 2 * cluster.positions) ** 2))
    one_frame = np.sqrt(np.mean(calculator.results["forces_std"] ** 2))
    assert error < 0.1 * one_frame  # 5 % were measured, with four replicates
    assert calculator.plan.size <= min(24, ep.RotationPlan(enough(degree)).n)
    assert calculator.plan.orientation is not None
    assert calculator.chosen.surveyed == 240
    before = calculator.evaluations
    cluster.rattle(0.01)
    cluster.get_forces()
    assert calculator.evaluations - before == calculator.plan.size
    again = TwirledCalculator(batched(Broken(degree)), "auto", seed=degree)
    again.choose([cluster])
    assert again.plan.design == calculator.plan.design
    assert pickle.loads(pickle.dumps(calculator)).plan == calculator.plan


@pytest.mark.parametrize("improper", [False, True])
def test_a_given_design_may_be_oriented(cluster: Atoms, batched: Any, improper: bool) -> None:
    """At degree 4 it leaves a fortieth of what it leaves rotated at random, on average over eight draws."""
    plan = ep.RotationPlan("octahedral", 1, improper)
    errors = {}
    for orient in (False, True):
        calculator = TwirledCalculator(batched(Broken(4)), plan, redraw=True, orient=orient)
        off = []
        for _ in range(8):
            calculator.calculate(cluster, ["forces"])
            off.append(calculator.results["forces"] + 2 * cluster.positions)
        errors[orient] = float(np.sqrt(np.mean(np.square(off))))
        assert (calculator.plan.orientation is not None) == orient == (calculator.parameters["orientation"] is not None)
    assert errors[True] < 0.15 * errors[False]


def test_replicates_of_an_oriented_plan_have_an_honest_error_bar(cluster: Atoms, batched: Any) -> None:
    """``(mean − truth) / stderr`` of forces over 40 draws of 8 replicates: χ² of a t with 7 degrees of freedom."""
    plan = ep.RotationPlan("klein", 8, orientation=(0.3, -0.5, 0.7, 0.2))
    calculator = TwirledCalculator(batched(Broken(2)), plan, redraw=True)
    scores = []
    for _ in range(40):
        calculator.calculate(cluster, ["forces"])
        scores.append((calculator.results["forces"] + 2 * cluster.positions) / calculator.results["forces_stderr"])
    assert float(np.mean(np.square(scores))) == pytest.approx(7 / 5, rel=0.35)
    assert abs(float(np.mean(scores))) < 0.3


@pytest.mark.parametrize(
    "given", [{"plan": "haar"}, {"plan": "cube"}, {"plan": "icosahedral"}, {"mode": "random-frame"}], ids=str
)
def test_what_cannot_be_oriented_is_refused(given: dict[str, str], batched: Any) -> None:
    with pytest.raises(ep.EquivProbeError, match="orient=True"):
        TwirledCalculator(batched(Broken(3)), **given, orient=True)


def test_it_is_deterministic_and_an_audit_says_it(mixed: list[Atoms], batched: Any) -> None:
    molecules = [atoms for atoms in mixed if not atoms.pbc.any()]
    reports = [audit(batched(Broken(3)), molecules, plan="auto", progress=False) for _ in range(2)]
    plans = {report.protocol["plan"] for report in reports}
    assert plans == {"4 × design-3 = 96 rotations, degree 3, seed 0"}
    assert "at most 5 %" in reports[0].protocol["choice of the plan"]
    given = audit(batched(Broken(3)), molecules, plan=ep.RotationPlan("design-3"), progress=False)
    assert given.measured == reports[0].measured
    seeded = audit(batched(Broken(2)), molecules, plan={"design": "auto", "target": 0.5, "seed": 7}, progress=False)
    assert seeded.protocol["plan"].endswith("seed 7")


def test_a_target_needs_auto(batched: Any) -> None:
    with pytest.raises(ep.EquivProbeError, match="auto"):
        TwirledCalculator(batched(Broken(3)), "klein", target=0.1)
    with pytest.raises(ep.EquivProbeError, match="random-frame"):
        TwirledCalculator(batched(Broken(3)), "auto", "random-frame")


def test_dynamics_that_go_on_keep_the_plan(tmp_path: Path, cluster: Atoms, batched: Any) -> None:
    """It is chosen at the structure that was given, not at the frame where dynamics go on."""
    protocols = []
    for steps in (4, 8):
        report = molecular_dynamics(
            TwirledCalculator(batched(Broken(3, small=0.5)), "auto"),
            cluster.copy(),
            steps=steps,
            every=2,
            conservative_every=0,
            trajectory=tmp_path / "md.traj",
            resume=steps > 4,
            log=None,
            progress=False,
        )
        protocols.append(report.protocol["averaged over"])
    assert protocols[0] == protocols[1]
    assert protocols[0].startswith("1 × design-2 = 12 rotations, degree 2, oriented")


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("Cu", cubic=True)], ids=["molecule", "perfect crystal"])
def test_rounding_is_nothing_to_average_away(atoms: Atoms) -> None:
    """Also that of forces which cancel, thousands of times what their own size would explain."""
    atoms.calc = TwirledCalculator(EMT(), "auto")
    atoms.get_forces()
    assert atoms.calc.plan.design == "design-1"
    assert "nothing beyond rounding" in str(atoms.calc.chosen)
