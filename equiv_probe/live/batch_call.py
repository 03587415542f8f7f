"""A model and one batch of whatever framework, as a function of tensors by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.capture import cloned
from equiv_probe.live.outputs import all_outputs
from equiv_probe.live.wrappers import network
from equiv_probe.schema.batch_layout import resolve_batch

if TYPE_CHECKING:
    from equiv_probe.schema.schema import Schema

Predict = Callable[[Any], Any]


@dataclass(frozen=True)
class BatchCall:
    """A model that is called with a batch, as a function.

    Attributes:
        predict: inputs to outputs.
        inputs: by name, or as they were given to a model that is no module.
        schema: representations; None where they must still be inferred.
        precision: of the coarsest numbers among weights and inputs; None where there are none.
        calling: what ``predict`` would be for another module of the model's kind.
    """

    predict: Predict
    inputs: Any
    schema: Schema | None
    precision: torch.dtype | None
    calling: Callable[[nn.Module], Predict] | None = None


def batch_call(model: Callable[..., Any], batch: Any, schema: Schema | None = None) -> BatchCall:
    """Take a model and its batch apart.

    Args:
        model: a module or any callable. A module whose ``forward`` has a parameter for every key of a dict gets them
            as such, and one with several parameters the entries of a tuple; else it is called with the batch itself.
        batch: a tensor, tuple or dict, or a batch of a framework that a plugin knows.
        schema: representations; None infers them for a module.
    """
    if not isinstance(model, nn.Module):
        return BatchCall(model, batch, schema, coarsest(batch.values() if isinstance(batch, Mapping) else [batch]))
    args, kwargs = _arguments(model, batch)
    adapter = adapter_for(model, args, kwargs, schema)
    inputs, rebuild = adapter.split(args, kwargs)
    names = list(schema.outputs) if schema else None

    def calling(module: nn.Module) -> Predict:
        def predict(given: Mapping[str, Any]) -> dict[str, Any]:
            # Clones: a model may write into its input, or ask for gradients with respect to it.
            made, named = rebuild({name: cloned(value) for name, value in given.items()})
            with torch.enable_grad():
                return dict(all_outputs(module(*made, **named), names))

        return predict

    predict = calling(model)
    if schema is None:
        made, named = rebuild({name: cloned(value) for name, value in inputs.items()})
        with torch.enable_grad():
            raw = model(*made, **named)
        schema = resolve_batch(adapter.infer(inputs, raw, None), inputs)
    return BatchCall(predict, dict(inputs), schema, coarsest([*model.parameters(), *inputs.values()]), calling)


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kinds = inspect.Parameter
    try:
        parameters = inspect.signature(network(model).forward).parameters.values()
    except (TypeError, ValueError):
        return (batch,), {}
    usual = [one for one in parameters if one.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}]
    if type(batch) is dict and batch and set(batch) <= {one.name for one in usual}:
        return (), batch
    if type(batch) is tuple and len(batch) > 1 and len(usual) >= len(batch):
        return batch, {}
    return (batch,), {}


def coarsest(values: Iterable[Any]) -> torch.dtype | None:
    """The type of the coarsest numbers among tensors and whatever else; None where there are none."""
    found = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
    return max(found, key=lambda one: torch.finfo(one).eps, default=None)
