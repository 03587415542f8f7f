"""A model as a live module, and the orbit of its outputs with the graph of its weights: what losses are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.estimation.orbit import Orbit
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.capture import cloned, wide
from equiv_probe.live.isolation import isolated
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.reachable import modules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.live.adapters import Adapter
    from equiv_probe.live.capture import Call
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema


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
