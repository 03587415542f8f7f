"""What an orbit of some of a batch's structures is measured against: their share of targets, weights and mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.measurement import Objective, require_outputs
from equiv_probe.estimation.orbit import Orbit

if TYPE_CHECKING:
    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.capture import Call
    from equiv_probe.schema.structures import Structures

Found = tuple[dict[str, Objective], Mapping[str, float]]
"""Losses and their coefficients."""
Objectives = Callable[[Orbit, "Call", "Structures", Callable[[Any], Any]], Found]
"""Of an orbit of some structures, its losses; and what takes these structures' share of a tensor of the whole batch."""


def share_of(value: Any, count: int, which: slice | None) -> Any:
    """Some structures' share of a tensor whose first axis counts them; anything else as it is."""
    if which is None or not (isinstance(value, torch.Tensor) and value.ndim and len(value) == count):
        return value
    return value[which]


def against(
    targets: Any,
    loss: AnyLoss | Mapping[str, AnyLoss],
    *,
    weights: Any,
    mask: Any,
    coefficients: Mapping[str, float] | None,
) -> Objectives:
    """Losses against targets, as :func:`equiv_probe.decompose` takes them; a target may be the name of an input."""

    def given(values: Any, call: Call, share: Callable[[Any], Any]) -> Any:
        if isinstance(values, Mapping):
            return {name: given(value, call, share) for name, value in values.items()}
        if isinstance(values, str):
            if not isinstance(call.inputs.get(values), torch.Tensor):
                raise EquivProbeError(f"inputs {sorted(call.inputs)}", f"the label {values!r} among them")
            return call.inputs[values]
        return share(values)

    def objectives(orbit: Orbit, call: Call, structures: Structures, share: Callable[[Any], Any]) -> Found:
        labels, own, counts = (given(values, call, share) for values in (targets, weights, mask))
        layout = "leading" if structures.layout == "leading" else None
        require_outputs("coefficients", coefficients, list(orbit.identity))
        found = Objective.of(orbit, labels, loss, structures=layout, weights=own, mask=counts)
        return found, {name: (coefficients or {}).get(name, 1.0) for name in found}

    return objectives


def of_evaluate(evaluate: Evaluate) -> Objectives:
    """The losses that the probe would measure in a call; see :data:`equiv_probe.estimation.objectives.Evaluate`."""

    def objectives(orbit: Orbit, call: Call, structures: Structures, share: Callable[[Any], Any]) -> Found:
        del share  # labels are among the inputs
        found = evaluate(call.inputs, orbit.identity, structures, orbit.schema)
        factors = found.factors or dict.fromkeys(found.parts, 1.0)
        return {name: found.parts[name] for name in factors}, factors

    return objectives


def require_matching_lists(batches: list[Any] | None, **given: Any) -> None:
    """Raise EquivProbeError unless lists stand beside a list of batches, with an entry for each."""
    if batches is not None and not batches:
        raise EquivProbeError("an empty list of batches", "at least one batch", "OrbitLoss(model, [batch], ...)")
    beside = "one batch" if batches is None else f"{len(batches)} batches"
    for name, value in given.items():
        if isinstance(value, list) and (batches is None or len(value) != len(batches)):
            raise EquivProbeError(
                f"{name} as a list of {len(value)} beside {beside}",
                "one entry for each of a list of batches",
                f"{name}=torch.stack({name}) for one batch",
            )
