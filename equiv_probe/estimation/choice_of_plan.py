r"""Choosing the rotations of an average by what they leave of a broken symmetry, measured.

The average over one replicate of a design of degree t has, over random rotations of the design, the variance

    ``V_t = Σ_{l>t} A_l P_l``,   ``A_l = Σ_{ij} w_i w_j χ_l(d_i⁻¹ d_j) / (2l+1)``

with the angular spectrum ``P_l`` of the orbit: what is above t is aliased, by ``A_l`` (1 for a single rotation, 0 up to
t). Between the means of independent replicates it is measured without bias, by the designs themselves and without a
model of the spectrum, whose high degrees, thousands of times below the first, no sample of a few rotations resolves.

Where a survey says how the broken symmetry lies in the frame of the model (``orientation.py``), each design is tried as
it lies best, and one that is expected to leave far too much is not tried at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.orientation import SURVEY, oriented
from equiv_probe.estimation.spectrum import character
from equiv_probe.rotations.designs import smallest_first
from equiv_probe.rotations.haar import angles
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from equiv_probe.estimation.orientation import Survey
    from equiv_probe.rotations.resolve import AutoPlan

REPLICATES = 4
"""Of each design that is tried: a single number, an energy, has three degrees of freedom then."""
HOPELESS = 1.5
"""Times the target: a design that is expected to leave more is not tried."""


def aliasing(plan: RotationPlan, degree: int) -> float:
    """``A_l`` of one replicate: the share of the orbit's power at a degree that its average keeps as an error.

    >>> f"{aliasing(RotationPlan('octahedral'), 4):.6f}"
    '0.111111'
    """
    rotations, weights = plan.rotations()[0], plan.weights
    theta = angles(torch.einsum("nji,mjk->nmik", rotations, rotations))
    return float(torch.einsum("nm,n,m->", character(theta, degree), weights, weights)) / (2 * degree + 1)


@dataclass(frozen=True)
class Left:
    """Of one output, in its units, root mean squares over components and structures.

    Attributes:
        orbit: what one rotation is off by, the standard deviation of the orbit.
        average: what the average over one replicate is off by.
        rounding: what the model's precision makes of its outputs.
    """

    orbit: float
    average: float
    rounding: float


@dataclass(frozen=True)
class ChosenPlan:
    """A plan that was chosen, and the measurements that it was chosen by.

    Attributes:
        plan: of as many replicates as were asked for.
        asked: what was asked for.
        tried: each design that was tried, and what it left of each output, the cheapest first.
        is_enough: whether the plan meets the target; False where no design of ours does.
        surveyed: how many rotations of a structure said how designs are to lie.
    """

    plan: RotationPlan
    asked: AutoPlan
    tried: Sequence[tuple[RotationPlan, Mapping[str, Left]]]
    is_enough: bool
    surveyed: int = 0

    def __str__(self) -> str:
        last = self.tried[-1][1]
        shares = [
            f"{100 * left.average / math.sqrt(self.plan.R) / left.orbit:.2g} % of the {name} error"
            for name, left in last.items()
            if left.orbit > left.rounding
        ]
        spent = self.surveyed + sum(plan.size for plan, _ in self.tried)
        verb = "leaves" if self.is_enough else "leaves, more than was asked for,"
        left = f"{verb} {', '.join(shares)}" if shares else "leaves nothing beyond rounding"
        return f"{self.plan}; chosen for {self.asked.wanted}: {left}, measured with {spent} rotations a structure"


def choose(
    measure: Callable[[RotationPlan], Mapping[str, Left]],
    asked: AutoPlan,
    surveys: Mapping[str, Survey] | None = None,
) -> ChosenPlan:
    """The cheapest design whose average is as near to the twirl as was asked, tried from the smallest on.

    Args:
        measure: evaluates a plan's rotations and says what one replicate of it leaves.
        asked: the target, replicates, seed, and whether rotations are improper too.
        surveys: by output, how the broken symmetry lies in the frame of the model; None leaves designs unoriented.
    """

    def allowed(name: str, orbit: float, rounding: float) -> float:
        return max(asked.allowed(name, orbit) * math.sqrt(asked.replicates), rounding)

    tried: list[tuple[RotationPlan, Mapping[str, Left]]] = []
    is_enough = False
    for design in smallest_first(products=surveys is not None):
        trial = RotationPlan(design, REPLICATES, asked.improper, asked.seed)
        if surveys:
            trial, expected = oriented(trial, surveys)
            bounds = {name: allowed(name, surveys[name].orbit, surveys[name].rounding) for name in expected}
            if any(expected[name] > HOPELESS * bound for name, bound in bounds.items()):
                continue
        left = measure(trial)
        tried.append((trial, left))
        is_enough = all(one.average <= allowed(name, one.orbit, one.rounding) for name, one in left.items())
        if is_enough:
            break
    plan = replace(tried[-1][0], replicates=asked.replicates)
    return ChosenPlan(plan, asked, tried, is_enough, survey_plan(asked).size if surveys else 0)


def survey_plan(asked: AutoPlan | RotationPlan) -> RotationPlan:
    """The rotations of a survey."""
    return RotationPlan(SURVEY, 1, asked.improper, asked.seed)
