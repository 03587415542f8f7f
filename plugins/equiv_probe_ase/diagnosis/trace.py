"""``trace`` for ASE calculators: where in their networks symmetry breaks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from equiv_probe.diagnosis.layers.trace import BUDGET, trace_of
from equiv_probe.errors import EquivProbeError
from equiv_probe.live.isolation import isolated
from equiv_probe_ase.calculators.private_copy import networks
from equiv_probe_ase.diagnosis.atoms_subject import Asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from ase.calculators.calculator import Calculator

    from equiv_probe.diagnosis.layers.record import Trace
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.structures.loading import Source


def trace(
    calculator: Calculator | str | Callable[[], Calculator],
    structures: Source,
    *,
    properties: Sequence[str] | None = None,
    schema: Schema | None = None,
    vacuum: float | None = None,
    batched: bool = True,
    precision: torch.dtype | None = None,
    output: str | None = None,
    budget: int | None = None,
    seed: int = 0,
    progress: bool = True,
    name: str | None = None,
) -> Trace:
    """Find out where in a calculator's networks symmetry breaks; see :func:`equiv_probe.trace`.

    Args:
        calculator: as for :func:`equiv_probe_ase.diagnosis.diagnose.diagnose`.
        structures: likewise; the one with the largest error beside its size, of the smallest four, is traced.
        properties: ASE property names; None takes what the calculator has.
        schema: representations of further outputs.
        vacuum: margin (Å) of a box around structures without a cell.
        batched: False calls the calculator itself even if its model takes batches.
        precision: of the model; None finds out.
        output: whose error is explained; None takes the one with the largest error beside its size.
        budget: evaluations for activation patching.
        seed: of the rotations.
        progress: show how far it is.
        name: of the model, for the report.

    Returns:
        The tree of calls.

    Raises:
        EquivProbeError: the calculator holds no torch module, as those whose networks are elsewhere, in TensorFlow, JAX
            or a compiled library; or no structure could be evaluated.
    """
    began = time.perf_counter()
    asked = Asked.of(
        calculator,
        structures,
        properties=properties,
        schema=schema,
        vacuum=vacuum,
        batched=batched,
        precision=precision,
        seed=seed,
        name=name,
    )
    audited = asked.audited
    found = outermost(networks(audited.calculator))
    if not found:
        raise EquivProbeError(
            f"{audited.label}, which holds no torch module", "a calculator of a torch model", "leave --layers out"
        )
    structure, subject = asked.worst()
    roots = {"": found[0]} if len(found) == 1 else {f"{type(m).__name__}{k or ''}": m for k, m in enumerate(found)}
    with isolated(*found, gradients=True, contents=True):
        return trace_of(
            subject.model,
            roots,
            precision=audited.precision,
            model=audited.label,
            source=f"{structure.name} ({len(structure.atoms)} atoms)",
            output=output,
            budget=BUDGET if budget is None else budget,
            seed=seed,
            units=subject.units,
            notes=asked.notes,
            progress=progress,
            began=began,
        )


def outermost(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Module]:
    """Modules that are inside of none of the others."""
    inside = {id(part) for one in modules for part in one.modules() if part is not one}
    return [one for one in modules if id(one) not in inside]
