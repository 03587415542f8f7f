"""``plan="auto"``: the rotations of a calculator chosen by what they leave of its equivariance error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.choice_of_plan import ChosenPlan, Left, choose, survey_plan
from equiv_probe.estimation.orientation import Survey, frame_power, oriented
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe_ase.averaging.average import Average, Averager
from equiv_probe_ase.calculators.inspection import model_precision
from equiv_probe_ase.structures.control_copies import bare
from equiv_probe_ase.structures.quantities import applies
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ase import Atoms

    from equiv_probe.representations.representation import Representation
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.rotations.resolve import AutoPlan
    from equiv_probe_ase.structures.quantities import Quantity

STRUCTURES = 3
"""How many decide, of those that an audit is given."""
JOLTED = 4
"""Copies of a structure that differ by rounding."""
DECIDE = ("energy", "forces", "stress")
"""The quantities that decide, where the calculator gives one of them."""


def chosen_plan(
    asked: AutoPlan,
    averager: Averager,
    structures: Sequence[Atoms],
    quantities: Mapping[str, Quantity],
    inputs: Mapping[str, Representation],
    *,
    orient: bool = False,
) -> ChosenPlan:
    """The cheapest design that leaves as little of a calculator's equivariance error as was asked.

    Args:
        asked: the target, by ASE's names and in ASE's units.
        averager: of the calculator.
        structures: a few, all of which decide; those that the calculator cannot evaluate are left out.
        quantities: what is averaged.
        inputs: representations of further inputs.
        orient: let each design lie as it is best in the frame of the model.

    Raises:
        EquivProbeError: a target for something that is not averaged, or no structure that can be evaluated.
    """
    named = set(asked.target) if not isinstance(asked.target, float | int) else set()
    if named - quantities.keys():
        raise EquivProbeError(f"target={asked.target!r}", f"some of {', '.join(quantities)}")
    jury = Jury.of(averager, structures, _deciding(quantities, named), inputs)
    return choose(jury.left, asked, jury.surveys(survey_plan(asked)) if orient else None)


def oriented_plan(
    plan: RotationPlan,
    averager: Averager,
    structures: Sequence[Atoms],
    quantities: Mapping[str, Quantity],
    inputs: Mapping[str, Representation],
) -> RotationPlan:
    """The plan, lying in the frame of the model as it leaves the least at these structures.

    Raises:
        EquivProbeError: no structure that can be evaluated.
    """
    jury = Jury.of(averager, structures, _deciding(quantities), inputs)
    return oriented(plan, jury.surveys(survey_plan(plan)))[0]


def _deciding(quantities: Mapping[str, Quantity], named: Collection[str] = ()) -> dict[str, Quantity]:
    names = [name for name in named or DECIDE if name in quantities] or list(quantities)
    return {name: quantities[name] for name in names}


@dataclass(frozen=True)
class Jury:
    """The structures and quantities that decide, and what is round-off of each."""

    averager: Averager
    usable: Sequence[tuple[Rotator, Mapping[str, Quantity]]]
    floors: Sequence[Mapping[str, float]]
    precision: torch.dtype

    @classmethod
    def of(
        cls,
        averager: Averager,
        structures: Sequence[Atoms],
        quantities: Mapping[str, Quantity],
        inputs: Mapping[str, Representation],
    ) -> Jury:
        """Of the structures that can be evaluated."""
        usable, floors = [], []
        precision = None
        for atoms in structures:
            given, values = _given(
                averager, atoms, [n for n, q in quantities.items() if applies(q, atoms, asked=False)]
            )
            if given:
                precision = precision or model_precision(averager.calculator, values)
                raw = {name: replace(quantities[name], factor=1.0, extensive=False) for name in given}
                usable.append((Rotator(atoms, "origin", inputs), raw))
                floors.append(_rounding(averager, atoms, given, torch.finfo(precision).eps))
        if precision is None:
            found = "rotations to be chosen, and no structure that can be evaluated"
            raise EquivProbeError(found, "a design", 'plan="icosahedral"')
        return cls(averager, usable, floors, precision)

    def left(self, plan: RotationPlan) -> dict[str, Left]:
        """What a plan leaves, over all structures."""
        return _pooled(self._left(self._averages(plan)))

    def surveys(self, plan: RotationPlan) -> dict[str, Survey]:
        """How the broken symmetry lies in the frame of the model, by the outputs at a plan's rotations."""
        averages = self._averages(plan, keep=True)
        left, weights = _pooled(self._left(averages)), plan.weights.repeat(plan.R) / plan.R
        powers: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in left}
        for k, average in enumerate(averages):
            rotations = plan.rotations(plan.generator(k)).reshape(-1, 3, 3)
            for name, values in average.values().items():
                powers[name].append(frame_power(values, rotations, weights))
        return {
            name: Survey(
                tuple(torch.stack(of).mean(0) for of in zip(*powers[name], strict=True)), one.orbit, one.rounding
            )
            for name, one in left.items()
        }

    def _averages(self, plan: RotationPlan, *, keep: bool = False) -> list[Average]:
        averages = [
            Average(rotator, plan, plan.rotations(plan.generator(k)), own, keep=keep)
            for k, (rotator, own) in enumerate(self.usable)
        ]
        self.averager.run(averages)
        return averages

    def _left(self, averages: Sequence[Average]) -> list[dict[str, Left]]:
        pairs = zip(averages, self.floors, strict=True)
        return [average.left(self.precision, floors) for average, floors in pairs]


def spread_over(structures: Sequence[Atoms]) -> list[Atoms]:
    """A few structures, spaced evenly over all."""
    places = np.unique(np.linspace(0, len(structures) - 1, STRUCTURES).round().astype(int))
    return [structures[place] for place in places]


def _given(averager: Averager, atoms: Atoms, names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Which of the properties the calculator gives at a structure, and their values; none where it fails."""
    try:
        absent = averager.not_given(atoms, names)
        given = [name for name in names if name not in absent]
        return given, next(averager.engine.run([atoms], given)) if given else {}
    except Exception:
        return [], {}


def _rounding(averager: Averager, atoms: Atoms, names: Sequence[str], eps: float) -> dict[str, float]:
    """What is round-off by the verdict of audits: so many times the spread at positions that differ by rounding."""
    rng = np.random.default_rng(0)
    copies = [bare(atoms) for _ in range(JOLTED)]
    for copy in copies:
        copy.positions *= 1 + eps * rng.standard_normal(copy.positions.shape)
    try:
        results = list(averager.engine.run(copies, names))
    except Exception:  # a model that takes no other positions has no floor of its own
        return {}
    spread = {name: np.std([np.asarray(one[name]) for one in results], axis=0, ddof=1) for name in names}
    return {name: ROUND_OFF_FACTOR * float(np.sqrt(np.mean(of**2))) for name, of in spread.items()}


def _pooled(of: Sequence[Mapping[str, Left]]) -> dict[str, Left]:
    """Root mean squares over structures, of the outputs that any of them has."""
    found = {}
    for name in dict.fromkeys(name for one in of for name in one):
        having = [one[name] for one in of if name in one]
        squares = np.array([[one.orbit, one.average, one.rounding] for one in having]) ** 2
        found[name] = Left(*map(float, np.sqrt(squares.mean(0))))
    return found
