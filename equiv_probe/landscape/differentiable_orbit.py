"""What losses are made from: a model as a live module, the orbit of its outputs with its graph, and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.measurement import Objective, require_outputs
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.capture import cloned, wide
from equiv_probe.live.isolation import isolated
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.reachable import modules_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.live.capture import Call
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema
    from equiv_probe.schema.structures import Structures

Found = tuple[dict[str, Objective], Mapping[str, float]]
"""Losses and their coefficients."""
Objectives = Callable[[Orbit, "Call", "Structures", Callable[[Any], Any]], Found]
"""Of an orbit of some structures, its losses; and what takes these structures' share of a tensor of the whole batch."""


class Function(nn.Module):
    """A function as a module, which holds none of the modules that the function names."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any) -> Any:
        """The function's output."""
        return self.function(inputs)


def live_orbit(
    model: Callable[[Any], Any],
    batch: Any,
    schema: Schema | None,
    adapter: Adapter | None,
    *,
    center: str | Tensor,
    stacked: bool | None,
) -> tuple[LiveOrbit, list[nn.Module]]:
    """A model that is called with batches, ready to be evaluated at rotated copies; and the modules that it holds."""
    module = model if isinstance(model, nn.Module) else Function(model)
    adapter = adapter or adapter_for(module, (batch,), {}, schema)
    modules = [module] if module is model else [module, *modules_of(model)]
    return LiveOrbit(module, schema, center, adapter=adapter, stacked=stacked), modules


def first_output(live: LiveOrbit, call: Call, modules: Sequence[nn.Module]) -> Any:
    """The network's raw output for a call, from which its schema is resolved."""
    with isolated(*modules), torch.enable_grad():
        inputs = {name: cloned(value) for name, value in call.inputs.items()}
        for name in call.differentiated:
            inputs[name].requires_grad_()
        args, kwargs = call.rebuild(inputs)
        raw = live.network(*args, **kwargs)
        live.resolve(call, raw)
    return raw


def by_replicate(rows: Sequence[Mapping[str, Tensor]], schema: Schema, rotations: Tensor) -> dict[str, Tensor]:
    """Chunks of outputs at rotated copies, ``(C, *S)`` each, as float64 ``(R, n, *S)`` like the rotations."""
    values = {name: wide(torch.cat([row[name] for row in rows])) for name in schema.outputs}
    return {name: v.reshape(*rotations.shape[:2], *v.shape[1:]) for name, v in values.items()}


def orbit_of(values: Mapping[str, Tensor], schema: Schema, plan: RotationPlan, rotations: Tensor) -> Orbit:
    """The orbit of outputs ``(R, n, *S)``.

    Its moments are about one of them: ``L_equiv`` does not depend on it, and drowns in no large number's rounding.
    """
    about = {name: v[0, 0].detach() for name, v in values.items()}
    return Orbit.from_values(dict(values), about, schema, plan, rotations)


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
