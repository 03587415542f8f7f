"""What a live call is measured against: nothing, labels that came with the call, or the loss a framework defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.losses import LOSSES, PointwiseLoss, Reduction, is_of_classes, resolve
from equiv_probe.estimation.measurement import Measurement, Objective, loss_on

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Named, Schema
    from equiv_probe.schema.structures import Structures


@dataclass(frozen=True)
class Objectives:
    """The losses of one call.

    Attributes:
        parts: by name, usually of the output.
        factors: weights of the parts in the total; empty if there is no total.
        name: of the total.
    """

    parts: Mapping[str, Objective]
    factors: Mapping[str, float]
    name: str = "loss"

    @property
    def squared(self) -> bool:
        """Whether moments of the orbit are enough to evaluate them."""
        return all(isinstance(one.loss, PointwiseLoss) and one.loss.squared for one in self.parts.values())

    def total(self, found: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """The weighted sum of the parts under its name; nothing if there is no total."""
        if not self.factors:
            return {}
        return {self.name: Measurement.sum({name: found[name] for name in self.factors}, self.factors)}


Evaluate = Callable[["Named", "Mapping[str, Tensor]", "Structures", "Schema"], Objectives]
"""From the inputs of the call, the model's own outputs in float64, their structures, and the schema."""


@dataclass(frozen=True)
class Training:
    """What a framework defines about a module that is trained.

    Attributes:
        network: the module whose symmetry is in question, somewhere inside.
        objectives: the loss that is trained, structure by structure, from a call of the network; None if it has to be
            found by replay.
        schema: what is known about representations.
    """

    network: nn.Module
    objectives: Evaluate | None = None
    schema: Schema | None = None


def label_free(inputs: Named, outputs: Mapping[str, Tensor], structures: Structures, schema: Schema) -> Objectives:
    """The squared-error ``L_equiv`` of every output, which needs no labels."""
    del inputs
    parts = {}
    for name, value in outputs.items():
        reduction = reduction_of(structures, value, name, schema.outputs[name])
        parts[name] = _objective(name, LOSSES["mse"], value, reduction, schema).about({name: value})
    return Objectives(parts, {})


def labelled(targets: Mapping[str, str], loss: AnyLoss | Mapping[str, AnyLoss] = "mse") -> Evaluate:
    """Losses against labels that are among the inputs of the call.

    Args:
        targets: the input that is the label, by output; other outputs are measured without labels.
        loss: a name, or one by output.
    """

    def evaluate(inputs: Named, outputs: Mapping[str, Tensor], structures: Structures, schema: Schema) -> Objectives:
        parts = dict(label_free(inputs, outputs, structures, schema).parts)
        for name, key in targets.items():
            target = inputs.get(key)
            if name not in outputs or not isinstance(target, torch.Tensor):
                raise EquivProbeError(
                    f"targets={{{name!r}: {key!r}}}, outputs {sorted(outputs)} and inputs {sorted(inputs)}",
                    "an output, and a tensor that came with the call",
                    'targets={"<output>": "<input>"}; a loss of labels that the network is not given (classes, or any '
                    "other loss) is decomposed as it is by loss = probe.step(lambda: loss_fn(model(x), labels))",
                )
            value = outputs[name]
            if target.shape != value.shape and target.numel() == value.numel():
                target = target.reshape(value.shape)  # energies (B,) beside (B, 1)
            one = loss_on(resolve(loss.get(name, "mse") if isinstance(loss, Mapping) else loss), schema.outputs[name])
            indices = is_of_classes(one) and not target.is_floating_point()
            target = target.to(value.device) if indices else target.to(value)
            parts[name] = _objective(name, one, target, parts[name].reduction, schema)
        return Objectives(parts, {})

    return evaluate


def _objective(
    name: str, loss: PointwiseLoss | Callable[..., Any], target: Tensor, reduction: Reduction, schema: Schema
) -> Objective:
    """The loss of one output against labels."""
    axes = schema.outputs[name].norm_axes
    return Objective((name,), loss, {name: target}, reduction, labelled=True, event_axes=axes)


def reduction_of(structures: Structures, value: Tensor, name: str = "", rep: Representation | None = None) -> Reduction:
    """How the elements of one output belong to structures."""
    counted = None if rep is None else rep.counted(value)
    if structures.layout == "one" or value.ndim == 0:
        return Reduction(counted=counted)
    if rep is not None and rep.is_whole:
        return Reduction("leading", counted=counted)
    if structures.layout == "index":
        owner = structures.owner(value, name)
        if rep is not None and structures.is_of_the_only_one(rep, value):
            owner = torch.zeros(len(value), dtype=torch.long, device=value.device)
        if owner is None:
            owner = torch.arange(len(value), device=value.device)
        return Reduction(owner, count=structures.count)
    mask = structures.mask
    while mask is not None and mask.ndim > 1 and value.shape[: mask.ndim] != mask.shape:
        mask = mask.any(-1) if mask.dtype == torch.bool else mask.amax(-1)  # a residue is there if an atom of it is
    if mask is None or mask.ndim < 2:
        return Reduction("leading")
    return Reduction("leading", mask=mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)))
