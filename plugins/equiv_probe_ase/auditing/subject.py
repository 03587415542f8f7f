"""What an audit is about: the calculator, what it really gives, in which precision, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from equiv_probe_ase.auditing.versions import versions
from equiv_probe_ase.calculators.batch_check import trusted
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.calculators.inspection import (
    at_deformed,
    draws_anew,
    engine_for,
    left_out,
    model_precision,
    trial,
    weights_digest,
)
from equiv_probe_ase.calculators.memory_check import remembered
from equiv_probe_ase.evaluators.evaluator import described
from equiv_probe_ase.structures.quantities import adapted, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.estimation.controls import Control
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of a calculator without having it: processes tell each other.

    Attributes:
        label: what a report calls it.
        quantities: that are measured, by ASE's name.
        precision: that it works in.
        evaluator: how it is evaluated, in words.
        batched: whether several structures share a model pass.
        atoms_per_call: most atoms in one pass.
        controls: of the way it is evaluated.
        versions: of the packages behind it.
        weights: a digest of what it has learned, as far as that is torch's.
        left_out: why properties that it lists are not measured, by name.
        is_drawn: whether it draws rotations of its own at every call.
    """

    label: str
    quantities: dict[str, Quantity]
    precision: torch.dtype
    evaluator: str
    batched: bool
    atoms_per_call: int
    controls: list[Control] = field(default_factory=list)
    versions: str = ""
    weights: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    is_drawn: bool = False

    def question(self) -> dict[str, Any]:
        """What a journal must agree on before it is resumed, and other processes before they share the work."""
        return {
            "model": self.label,
            "weights": self.weights,
            "versions": self.versions,
            "quantities": {name: str(quantity.representation) for name, quantity in self.quantities.items()},
            "precision": str(self.precision),
        }

    def notes(self) -> list[str]:
        """What a reader must know of the calculator."""
        found = [
            f"{name} is not measured, though the calculator lists it: {why}" for name, why in self.left_out.items()
        ]
        if self.is_drawn:
            found += ["the calculator draws new rotations at every call: what one frame is off by shows as chance"]
        return found


@dataclass(frozen=True, kw_only=True)
class Subject(Findings):
    """A calculator, ready to be audited, and the ``engine`` that evaluates structures with it."""

    calculator: Calculator
    engine: Engine

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
        dropped = {} if properties is not None else {n: q for n, q in chosen.items() if n not in given}
        why = left_out(engine.evaluator, dropped, structures)
        chosen = adapted(given if properties is None else chosen, sample)
        found = precision or model_precision(calculator, at_deformed(engine.evaluator, sample, structures))
        engine.evaluator, controls = trusted(engine.evaluator, calculator, chosen, structures, found)
        return cls(
            label=name or type(calculator).__name__,
            quantities=chosen,
            precision=found,
            evaluator=described(engine.evaluator),
            batched=engine.evaluator.batched,
            atoms_per_call=engine.atoms_per_call,
            controls=[*controls, *remembered(engine.evaluator, chosen, structures, found)],
            versions=versions(calculator),
            weights=weights_digest(calculator),
            left_out=why,
            is_drawn=draws_anew(calculator),
            calculator=calculator,
            engine=engine,
        )

    def findings(self) -> Findings:
        """All but the calculator."""
        return Findings(**{one.name: getattr(self, one.name) for one in fields(Findings)})


@dataclass(frozen=True)
class Recipe:
    """How a process makes the subject of an audit: a calculator or how to make one, and structures to try it on."""

    calculator: Calculator | str | Callable[[], Calculator]
    sample: Sequence[Structure]
    how: dict[str, Any]

    def subject(self) -> Subject:
        """The subject, the same in every process."""
        return Subject.of(as_calculator(self.calculator), self.sample, **self.how)


def sample_of(structures: Sequence[Structure]) -> list[Structure]:
    """The structures on which a calculator is tried: the smallest, of several sizes, and the smallest crystals."""
    by_size = sorted(structures, key=lambda one: len(one.atoms))
    sizes = {len(one.atoms): one for one in reversed(by_size)}  # the first of each size
    chosen = [*by_size[:5], *[one for one in by_size if one.atoms.pbc.all()][:5]]
    chosen += [sizes[n] for n in sorted(size for size in sizes if size)[:2]]
    return sorted({id(one): one for one in chosen}.values(), key=lambda one: one.index)
