"""``plan="auto"``: the rotations of a calculator chosen by what they leave of its equivariance error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.choice_of_plan import ChosenPlan, Left, choose
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe_ase.averaging.average import Average, Averager
from equiv_probe_ase.calculators.inspection import model_precision
from equiv_probe_ase.structures.control_copies import bare
from equiv_probe_ase.structures.quantities import applies
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
) -> ChosenPlan:
    """The cheapest design that leaves as little of a calculator's equivariance error as was asked.

    Args:
        asked: the target, by ASE's names and in ASE's units.
        averager: of the calculator.
        structures: a few, all of which decide; those that the calculator cannot evaluate are left out.
        quantities: what is averaged.
        inputs: representations of further inputs.

    Raises:
        EquivProbeError: a target for something that is not averaged, or no structure that can be evaluated.
    """
    named = set(asked.target) if not isinstance(asked.target, float | int) else set()
    if named - quantities.keys():
        raise EquivProbeError(f"target={asked.target!r}", f"some of {', '.join(quantities)}")
    deciding = [name for name in named or DECIDE if name in quantities] or list(quantities)
    asked_of = [[n for n in deciding if applies(quantities[n], atoms, asked=False)] for atoms in structures]
    usable, floors = [], []
    precision = None
    for atoms, names in zip(structures, asked_of, strict=True):
        given, values = _given(averager, atoms, names)
        if given:
            precision = precision or model_precision(averager.calculator, values)
            raw = {name: replace(quantities[name], factor=1.0, extensive=False) for name in given}
            usable.append((Rotator(atoms, "origin", inputs), raw))
            floors.append(_rounding(averager, atoms, given, torch.finfo(precision).eps))
    if precision is None:
        raise EquivProbeError('plan="auto", and no structure that can be evaluated', "a design", 'plan="icosahedral"')

    def measure(plan: RotationPlan) -> dict[str, Left]:
        averages = [
            Average(rotator, plan, plan.rotations(plan.generator(k)), own) for k, (rotator, own) in enumerate(usable)
        ]
        averager.run(averages)
        found = [average.left(precision, floor) for average, floor in zip(averages, floors, strict=True)]
        return {name: _pooled([one[name] for one in found if name in one]) for name in deciding if _any(name, found)}

    return choose(measure, asked)


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


def _any(name: str, found: Sequence[Mapping[str, Left]]) -> bool:
    return any(name in one for one in found)


def _pooled(of: Sequence[Left]) -> Left:
    """Root mean squares over structures."""
    squares = np.array([[one.orbit, one.average, one.rounding] for one in of]) ** 2
    return Left(*map(float, np.sqrt(squares.mean(0))))
