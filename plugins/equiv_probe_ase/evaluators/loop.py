"""Evaluators that know nothing of the model: one real call per structure, or the calculator's own batch call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import BaseCalculator, all_changes

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators.evaluator import Evaluator, ase_results, gradients_enabled
from equiv_probe_ase.structures.copying import copied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class LoopEvaluator(Evaluator):
    """One fresh calculation per structure, all properties at once.

    ASE gives results from memory when the atoms have not changed, and some calculators start the next structure from
    the last one's wavefunction. Both would hide or fake what is measured here (repeat noise, a spread over rotations),
    so the calculator is reset before every structure. It is left reset: its parameters are as they were, its next
    results are computed afresh.
    """

    batched = False

    def __init__(self, calculator: Calculator, note: str = "") -> None:
        self.calculator = calculator
        self.name = f"{type(calculator).__name__}, one call per structure"
        self.note = note

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        try:
            return [self._evaluate_one(atoms, properties) for atoms in structures]
        finally:
            forget(self.calculator)

    def _evaluate_one(self, atoms: Atoms, properties: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        forget(self.calculator)
        copy = copied(atoms)
        copy.calc = self.calculator  # some calculators check the elements in this assignment (`set_atoms`)
        with gradients_enabled():
            self.calculator.calculate(copy, list(properties), list(all_changes))
        results = in_ase_order(self.calculator, self.calculator.results)
        return ase_results(results, properties, len(atoms), type(self.calculator).__name__)


class BatchMethodEvaluator(Evaluator):
    """Uses a calculator's own public ``calculate_batch(structures, properties) -> list[dict]`` as it is."""

    batched = True

    def __init__(self, calculator: Calculator) -> None:
        self.calculator = calculator
        self.name = f"{type(calculator).__name__}, batched"

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        source = type(self.calculator).__name__
        with gradients_enabled():
            batch = self.calculator.calculate_batch([copied(atoms) for atoms in structures], list(properties))
        if len(batch) != len(structures):
            raise EquivProbeError(f"{len(batch)} results from {source}.calculate_batch", f"{len(structures)}")
        return [ase_results(raw, properties, len(atoms), source) for raw, atoms in zip(batch, structures, strict=True)]


def forget(calculator: BaseCalculator) -> None:
    """Empty the memory of a calculator and of the calculators it wraps, as a sum of calculators does."""
    for current in with_wrapped(calculator):
        if hasattr(current, "reset"):
            current.reset()
        else:  # ASE's BaseCalculator has the memory but no method to clear it
            current.atoms, current.results = None, {}


def with_wrapped(calculator: BaseCalculator) -> Iterator[BaseCalculator]:
    """The calculator and all that it wraps, however deep, each once."""
    pending, seen = [calculator], set[int]()
    while pending:
        current = pending.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            pending.extend(_wrapped(current))


def model_work(calculator: BaseCalculator | None) -> tuple[int, int] | None:
    """How many structures the model behind a calculator that averages has evaluated, and in how many passes.

    None where a result is one evaluation; of several calculators that average, the busiest counts.
    """
    found = [
        (int(current.evaluations), int(current.model_calls))
        for current in (() if calculator is None else with_wrapped(calculator))
        if hasattr(current, "model_calls")
    ]
    return max(found) if found else None


def in_ase_order(calculator: object, results: dict[str, Any]) -> dict[str, Any]:
    """Undo what is known to be stored against ASE's conventions, or it would be rotated back wrongly.

    SevenNet stores per-atom ``stresses`` as xx yy zz xy yz xz (and, unlike its ``stress``, as eV, not eV/Å³, with the
    opposite sign; neither matters to a rotation and both are kept).
    """
    classes = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(calculator).__mro__}
    if "sevenn.calculator.SevenNetCalculator" in classes and results.get("stresses") is not None:
        results = {**results, "stresses": np.asarray(results["stresses"])[:, [0, 1, 2, 4, 5, 3]]}
    return results


def _wrapped(calculator: BaseCalculator) -> Iterator[BaseCalculator]:
    held = [*vars(calculator).values(), *getattr(getattr(calculator, "mixer", None), "calcs", [])]
    for value in held:
        members = value if isinstance(value, list | tuple) else [value]
        yield from (member for member in members if isinstance(member, BaseCalculator))
