"""Whether a structure's outputs depend on the other structures in its batch, asked before a batch is trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import Control, batch_agrees, batch_not_asked
from equiv_probe_ase.calculators.inspection import model_precision
from equiv_probe_ase.evaluators.loop import LoopEvaluator, with_wrapped
from equiv_probe_ase.structures.control_copies import ControlCopies
from equiv_probe_ase.structures.loading import Structure
from equiv_probe_ase.structures.quantities import adapted, applies, size_of
from equiv_probe_ase.structures.rotation import rotated_at_random

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from equiv_probe_ase.evaluators import Evaluator
    from equiv_probe_ase.structures.quantities import Quantity

ROUNDING = 1e4
"""Units in the last place that another order of sums may cost a batched evaluation."""
MOST = 0.02
"""Of the size of an output, in low precision."""


def trusted(
    evaluator: Evaluator,
    calculator: Calculator,
    chosen: Mapping[str, Quantity],
    structures: Sequence[Structure],
    precision: torch.dtype | None = None,
) -> tuple[Evaluator, list[Control]]:
    """An evaluator that may be trusted: the given one, or a loop where the batch changes what a structure gets.

    The smallest structures, of two sizes where there are two, go through the calculator alone, as a user calls it, and
    together with each other, a deformed and a rotated copy in one batch (padding, batch normalisation in training mode,
    pooling over all nodes, sorting, one result for all copies with the same distances). So does the rotated copy.

    Args:
        evaluator: of the calculator.
        calculator: itself.
        chosen: what is measured.
        structures: to choose from.
        precision: of the model; None finds out.

    Returns:
        The evaluator, and the control; none where there are no batches. Of a calculator that averages, what it found of
        the one within if that failed.
    """
    evaluator, controls = _compared(evaluator, calculator, chosen, structures, precision)
    within = [control for one in with_wrapped(calculator) for control in getattr(one, "controls", ()) if control.failed]
    return evaluator, within or controls


def _compared(
    evaluator: Evaluator,
    calculator: Calculator,
    chosen: Mapping[str, Quantity],
    structures: Sequence[Structure],
    precision: torch.dtype | None,
) -> tuple[Evaluator, list[Control]]:
    if not evaluator.batched:
        return evaluator, []
    loop = LoopEvaluator(calculator, "its outputs depend on the other structures in a batch")
    few = _of_different_sizes(structures)
    # A molecule beside crystals has no stress, but everything else.
    had = {name: q for name, q in chosen.items() if all(applies(q, one.atoms, asked=False) for one in few)}
    names = list(had)
    try:
        copies = ControlCopies(few[0].atoms, (0, few[0].seed))
        others = [copies.deformed()] if copies.deforms else []
        few.append(_rotated(few[0]))
        together = evaluator.evaluate([*(one.atoms for one in few), *others], names)
        alone = loop.evaluate([one.atoms for one in few], names)
    except (Exception, SystemExit):  # what fails here fails again where it is reported, structure by structure
        return evaluator, [batch_not_asked()]
    precision = precision or model_precision(calculator, alone[0])
    for structure, own, shared in zip(few, alone, together, strict=False):
        for name, quantity in adapted(had, own).items():
            first, second = (quantity.values(one[name], structure.atoms) for one in (own, shared))
            allowed = _allowed(quantity, first, precision)
            if size_of(first - second) <= allowed:
                continue
            again = quantity.values(loop.evaluate([structure.atoms], names)[0][name], structure.atoms)
            if size_of(first - second) > allowed + 10 * size_of(first - again):
                return loop, [batch_agrees(name, structure.name, size_of(first - second), allowed, quantity.unit)]
    return evaluator, [batch_agrees("", "", 0.0, 0.0, "")]


def _rotated(structure: Structure) -> Structure:
    """A copy at a rotation of its own: the model sees another structure, whatever distances it has in common."""
    atoms = rotated_at_random(structure.atoms, structure.seed)
    return Structure(structure.index, f"{structure.name}, rotated", atoms)


def _of_different_sizes(structures: Sequence[Structure]) -> list[Structure]:
    """The smallest structure, and the smallest that is larger, if there is one."""
    known = sorted((s for s in structures if len(s.atoms)), key=lambda s: len(s.atoms))
    larger = [one for one in known if len(one.atoms) > len(known[0].atoms)]
    return [*known[:1], *larger[:1]]


def _allowed(quantity: Quantity, values: NDArray[np.float64], precision: torch.dtype) -> float:
    relative = min(ROUNDING * torch.finfo(precision).eps, MOST)
    return relative * (size_of(values) + quantity.factor)
