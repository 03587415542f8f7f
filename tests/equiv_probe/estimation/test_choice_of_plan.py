"""``plan="auto"``: on functions of known degrees the cheapest design that is enough is taken, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from e3nn import o3

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.choice_of_plan import Left, aliasing, choose
from equiv_probe.rotations.designs import design_degrees, smallest_first
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import AutoPlan, rotation_plan
from equiv_probe.testing import HarmonicEnergy

if TYPE_CHECKING:
    from collections.abc import Callable


def planted(powers: dict[int, float]) -> Callable[[RotationPlan], dict[str, Left]]:
    """Measures twenty functions with given power at each degree, random combinations of Wigner functions."""
    draw = torch.Generator().manual_seed(0)
    mixed = {at: torch.randn(20, 2 * at + 1, 2 * at + 1, generator=draw, dtype=torch.float64) for at in powers}

    def measure(plan: RotationPlan) -> dict[str, Left]:
        values = torch.zeros(plan.R, plan.n, 20, dtype=torch.float64)
        for degree, power in powers.items():
            # In float64 by the caller: e3nn makes its matrices in the default dtype.
            wigner = o3.Irrep(degree, 1).D_from_matrix(plan.rotations().reshape(-1, 3, 3)).reshape(plan.R, plan.n, -1)
            own = mixed[degree].reshape(20, -1)
            values += (power * (2 * degree + 1)) ** 0.5 * wigner @ (own / own.norm(dim=1, keepdim=True)).T
        means = torch.einsum("n,rnk->rk", plan.weights, values)
        left = float(means.var(0, correction=1).mean().sqrt())
        return {"it": Left(sum(powers.values()) ** 0.5, left, 1e-12)}

    return measure


@pytest.fixture(autouse=True)
def _in_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def cheapest(powers: dict[int, float], target: float) -> str:
    """In closed form, ``Σ A_l P_l``."""
    for design in smallest_first():
        plan = RotationPlan(design)
        if sum(aliasing(plan, at) * power for at, power in powers.items()) <= target**2 * sum(powers.values()):
            return design
    raise AssertionError


@pytest.mark.parametrize("target", [0.02, 0.3])
@pytest.mark.parametrize(
    "powers", [{1: 1.0}, {2: 1.0}, {3: 1.0}, {4: 1.0}, {5: 1.0}, {6: 1.0}, {1: 1.0, 2: 0.1, 3: 0.01, 4: 1e-3, 6: 1e-6}]
)
def test_the_cheapest_design_that_is_enough(powers: dict[int, float], target: float) -> None:
    chosen = choose(planted(powers), AutoPlan(target=target))
    assert chosen.is_enough
    assert chosen.plan == RotationPlan(cheapest(powers, target), 1)


def test_replicates_count_together_and_the_target_may_be_absolute() -> None:
    """Of degree 4 four tetrahedral replicates leave √(1/9/4) = 1/6 of the root of its power, one leaves 1/3."""
    measure = planted({4: 4.0})
    assert choose(measure, AutoPlan(target=0.25)).plan.n > 24  # one octahedral replicate leaves as much
    assert choose(measure, AutoPlan(4, target=0.25)).plan == RotationPlan("design-2", 4)
    assert choose(measure, AutoPlan(4, target={"it": 0.5})).plan == RotationPlan("design-2", 4)
    assert choose(measure, AutoPlan(4, target={"it": 0.03})).plan.degree > 3


@pytest.mark.parametrize("design", ["haar", "tetrahedral"])
def test_the_torque_is_no_control_variate(design: str) -> None:
    """It has zero mean, and is uncorrelated with the energy, in one rotation and in the average over a design."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=generator)
    plan = RotationPlan(design, 4000, seed=1)
    positions = (x @ plan.rotations().mT).requires_grad_()
    energy = sum(HarmonicEnergy(at, torch.randn(3, generator=generator))(positions)["energy"] for at in (1, 2, 3, 4))
    (slope,) = torch.autograd.grad(energy.sum(), positions)
    torque = -torch.linalg.cross(positions, slope).sum(-2).detach()
    of_energy, of_torque = energy.detach() @ plan.weights, torch.einsum("n,rni->ri", plan.weights, torque)
    together = torch.corrcoef(torch.cat([of_energy[:, None], of_torque], 1).T)[0, 1:]
    assert float((of_torque.mean(0) / of_torque.std(0)).abs().max()) < 4 / 4000**0.5
    assert float(together.abs().max()) < 5 / 4000**0.5  # the tails of a product are longer than a normal's
    assert float(of_energy.std()) > 1e-3


def test_what_no_design_reaches_is_said() -> None:
    def rough(plan: RotationPlan) -> dict[str, Left]:
        return {"it": Left(1.0, plan.n**-0.5, 1e-12)}  # white noise

    chosen = choose(rough, AutoPlan(target=1e-3))
    assert not chosen.is_enough
    assert chosen.plan.degree == design_degrees()[-1]
    assert "more than was asked for" in str(chosen)


def test_rounding_is_not_averaged_away() -> None:
    def rounding(plan: RotationPlan) -> dict[str, Left]:
        return {"it": Left(1e-7, 1e-7 * plan.n**-0.5, 1e-6)}

    chosen = choose(rounding, AutoPlan(target=1e-3))
    assert chosen.plan.n == 4
    assert "nothing beyond rounding" in str(chosen)


def test_elsewhere_auto_is_refused_with_where_it_works() -> None:
    with pytest.raises(EquivProbeError, match="TwirledCalculator"):
        rotation_plan("auto")
    with pytest.raises(EquivProbeError, match="positive"):
        AutoPlan(target=0.0)
