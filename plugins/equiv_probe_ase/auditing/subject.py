"""What an audit is about: the calculator, what it really gives, in which precision, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equiv_probe_ase.auditing.notes import versions
from equiv_probe_ase.calculators.batch_check import trusted
from equiv_probe_ase.calculators.inspection import (
    at_deformed,
    draws_anew,
    engine_for,
    model_precision,
    trial,
    weights_digest,
)
from equiv_probe_ase.evaluators.evaluator import described
from equiv_probe_ase.structures.quantities import adapted, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.estimation.controls import Control
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity


@dataclass(frozen=True)
class Subject:
    """A calculator, ready to be audited.

    Attributes:
        calculator: itself.
        label: what a report calls it.
        quantities: that are measured, by ASE's name.
        precision: that it works in.
        engine: evaluates structures.
        controls: of the way it is evaluated.
        versions: of the packages behind it.
        weights: a digest of what it has learned, as far as that is torch's.
    """

    calculator: Calculator
    label: str
    quantities: dict[str, Quantity]
    precision: torch.dtype
    engine: Engine
    controls: list[Control] = field(default_factory=list)
    versions: str = ""
    weights: str = ""

    @classmethod
    def of(
        cls,
        calculator: Calculator,
        structures: Sequence[Structure],
        *,
        properties: Sequence[str] | None,
        schema: Schema | None,
        precision: torch.dtype | None,
        batched: bool,
        atoms_per_call: int | None,
        name: str | None,
    ) -> Subject:
        """Find out what there is to find out; arguments as of :func:`equiv_probe_ase.audit`.

        Raises:
            EquivProbeError: nothing to measure, or an unknown property.
        """
        engine = engine_for(calculator, batched=batched, atoms_per_call=atoms_per_call)
        chosen = choose(calculator.implemented_properties, properties, schema)
        given, sample = trial(engine.evaluator, chosen, structures)
        chosen = adapted(given if properties is None else chosen, sample)
        found = precision or model_precision(calculator, at_deformed(engine.evaluator, sample, structures))
        engine.evaluator, controls = trusted(engine.evaluator, calculator, chosen, structures, found)
        return cls(
            calculator,
            name or type(calculator).__name__,
            chosen,
            found,
            engine,
            controls,
            versions(calculator),
            weights_digest(calculator),
        )

    def question(self) -> dict[str, Any]:
        """What a journal must agree on before it is resumed."""
        return {
            "model": self.label,
            "weights": self.weights,
            "versions": self.versions,
            "quantities": {name: str(quantity.representation) for name, quantity in self.quantities.items()},
            "precision": str(self.precision),
        }

    def protocol(self) -> dict[str, Any]:
        """How it was evaluated, for the report."""
        engine = self.engine
        return {
            "precision": str(self.precision).removeprefix("torch."),
            "evaluator": described(engine.evaluator),
            "evaluations": engine.evaluations,
            "model calls": engine.calls,
            "model seconds": round(engine.seconds, 1),
        }

    def notes(self) -> list[str]:
        """What a reader must know of the calculator."""
        if not draws_anew(self.calculator):
            return []
        return ["the calculator draws new rotations at every call: what one frame is off by shows as chance"]
