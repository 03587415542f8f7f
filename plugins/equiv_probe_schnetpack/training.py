"""The loss that an `AtomisticTask` trains, structure by structure: its outputs, losses, weights and constraints."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.estimation.losses import LOSSES, PointwiseLoss, Reduction, frame_dependence
from equiv_probe.estimation.measurement import Objective
from equiv_probe.estimation.objectives import Objectives, Training, label_free, reduction_of
from equiv_probe.live.isolation import isolated
from equiv_probe.representations import representation as reps
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.schema import Schema
from equiv_probe_schnetpack.quantities import INPUTS, quantity

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.schema.schema import Named
    from equiv_probe.schema.structures import Structures

_OWN_STEPS = ("training_step", "loss_fn", "apply_constraints", "predict_without_postprocessing", "forward")


def training(module: nn.Module) -> Training | None:
    """What an `AtomisticTask` trains, or None for any other module.

    The losses are taken from the task's `ModelOutput`s. A task with a step or a loss function of its own is replayed
    instead: its outputs do not say what it trains.

    Args:
        module: any module; SchNetPack is not imported for it.
    """
    task = sys.modules.get("schnetpack.task")
    if task is None or not isinstance(module, task.AtomisticTask):
        return None
    schema = _schema(module)
    replaced = [n for n in _OWN_STEPS if getattr(type(module), n) is not getattr(task.AtomisticTask, n)]
    if replaced:
        return Training(module.model, None, schema)
    losses = TaskLosses(module)
    losses.warn_of_frames(schema)
    return Training(module.model, losses, schema)


def _schema(task: Any) -> Schema:
    """How the task's outputs rotate; where one of them is not known, they are left to be inferred."""
    inputs: dict[str, Any] = {name: known.representation for name, known in INPUTS.items()}
    known = {one.name: quantity(task.model, one.name) for one in task.outputs}
    outputs = {name: found.representation for name, found in known.items() if found is not None}
    if len(outputs) == len(known):
        return Schema(inputs, outputs, batch="_idx_m")
    labels = {one.target_property: reps.fixed for one in task.outputs}  # they are in the batch, and no input
    return Schema(inputs | labels, {}, batch="_idx_m")


class TaskLosses:
    """The objectives of one call of a task's model; an :data:`equiv_probe.estimation.objectives.Evaluate`.

    A loss that is a mean over elements is evaluated structure by structure. Any other (of the whole batch, without
    labels, after a constraint that is not SchNetPack's own) is asked of the task itself, for the batch as one.

    Args:
        task: an `AtomisticTask`.
    """

    def __init__(self, task: Any) -> None:
        self._task: Any = task
        names = [one.name for one in task.outputs]
        self._labels = [n if n not in names[:i] else f"{n}-{i + 1}" for i, n in enumerate(names)]
        self._losses = [None if _constrained_elsewhere(one, task.outputs) else _pointwise(one) for one in task.outputs]

    def __call__(
        self, inputs: Named, outputs: Mapping[str, Tensor], structures: Structures, schema: Schema
    ) -> Objectives:
        """See :data:`equiv_probe.estimation.objectives.Evaluate`."""
        plain = label_free(inputs, outputs, structures, schema).parts
        parts: dict[str, Objective] = {}
        factors: dict[str, float] = {}
        for label, one, loss in zip(self._labels, self._task.outputs, self._losses, strict=True):
            if one.loss_fn is None or one.loss_weight == 0:
                parts[label] = plain[one.name]
                continue
            factors[label] = float(one.loss_weight)
            value, target = outputs[one.name], inputs.get(one.target_property)
            if loss is None or not isinstance(target, torch.Tensor) or target.shape != value.shape:
                parts[label] = self._of_the_batch(one, inputs, outputs)
                continue
            reduction = reduction_of(structures, value, one.name)
            chosen = _selection(one, inputs, value)
            if getattr(one.loss_fn, "reduction", "mean") == "sum":
                factors[label] *= value.numel()
            reduction = Reduction(reduction.structures, weights=chosen, count=reduction.count)
            axes = len(schema.outputs[one.name].event_shape)
            parts[label] = Objective(
                (one.name,), loss, {one.name: target.to(value)}, reduction, labelled=True, event_axes=axes
            )
        return Objectives(parts, factors)

    def warn_of_frames(self, schema: Schema) -> None:
        """Say of which losses the frame is part: they change when prediction and label rotate together."""
        generator = torch.Generator().manual_seed(0)
        for one, loss in zip(self._task.outputs, self._losses, strict=True):
            representation = schema.outputs.get(one.name)
            if loss is None or representation is None or not representation.event_shape or not one.loss_weight:
                continue
            given = [torch.randn(16, *representation.event_shape, generator=generator).double() for _ in range(2)]
            rotated = haar(4, generator)
            change = frame_dependence(
                loss, Reduction(), *given, representations=(representation, representation), rotations=rotated
            )
            if change > 1e-5:
                warnings.warn(
                    f"equiv_probe: the loss {loss.name!r} of {one.name!r} is taken component by component, so it "
                    "depends on the frame: L_total is that in the frame of the data, and part of L_mean and L_total "
                    "is the choice of axes. torch.nn.MSELoss, or a norm-wise loss, does not depend on it.",
                    stacklevel=2,
                )

    def _of_the_batch(self, one: Any, inputs: Named, outputs: Mapping[str, Tensor]) -> Objective:
        """The task's own loss for one output, of the whole batch."""
        task, names = self._task, tuple(outputs)
        like = next(iter(outputs.values()))
        wanted = {"considered_atoms", *(other.target_property for other in task.outputs)}
        targets = {
            name: value.to(like) if value.is_floating_point() else value
            for name, value in inputs.items()
            if name in wanted and isinstance(value, torch.Tensor)
        }

        def loss(prediction: Any, _: Any) -> Tensor:
            given = prediction if isinstance(prediction, Mapping) else {names[0]: prediction}
            with isolated(one):  # a loss may keep a state, and a constraint may write in place
                given, labels = task.apply_constraints(
                    {name: value.clone() for name, value in given.items()},
                    {name: value.clone() for name, value in targets.items()},
                )
                return torch.as_tensor(one.calculate_loss(given, labels) / one.loss_weight)

        loss.__name__ = type(one.loss_fn).__name__
        return Objective(names, loss, {name: outputs[name] for name in names}, Reduction(), labelled=True)


def _pointwise(output: Any) -> PointwiseLoss | None:
    """The loss of one `ModelOutput`, if it is a mean (or a sum) over elements; None otherwise."""
    spk = sys.modules["schnetpack.task"]
    if type(output).calculate_loss is not spk.ModelOutput.calculate_loss:
        return None
    constraints = list(output.constraints)
    if len(constraints) > 1 or any(type(one) is not spk.ConsiderOnlySelectedAtoms for one in constraints):
        return None
    loss = output.loss_fn
    reduction = getattr(loss, "reduction", None)
    if reduction not in {"mean", "sum"} or (constraints and reduction == "sum"):
        return None
    known = {nn.MSELoss: "mse", nn.L1Loss: "mae"}.get(type(loss))
    return LOSSES[known] if known else _elements(loss)


def _constrained_elsewhere(output: Any, outputs: Any) -> bool:
    """Whether another output's constraints change this one's prediction or labels too: they work in place, by name."""
    return any(
        other is not output
        and list(other.constraints)
        and (other.name == output.name or other.target_property == output.target_property)
        for other in outputs
    )


def _elements(loss: Any) -> PointwiseLoss | None:
    """A loss with ``reduction="none"``, where that gives the elements of which the loss is the mean or the sum."""
    if not isinstance(loss, nn.Module) or [*loss.parameters(), *loss.buffers()]:
        return None
    each: Any = copy.deepcopy(loss)
    each.reduction = "none"
    generator = torch.Generator().manual_seed(0)
    with isolated(loss, each), torch.no_grad():
        for shape in ((7,), (5, 3)):
            p, t = (0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
            try:
                elements, whole = each(p, t), loss(p, t)
            except Exception:  # it wants something else: classes, three arguments
                return None
            summed = elements.mean() if loss.reduction == "mean" else elements.sum()
            if elements.shape != p.shape or not torch.allclose(summed, whole, rtol=1e-12):
                return None
    evaluate: Callable[[Tensor, Tensor], Tensor] = each
    return PointwiseLoss(type(loss).__name__, lambda p, t: evaluate(p, t.expand_as(p)))


def _selection(output: Any, inputs: Named, value: Tensor) -> Tensor | None:
    """How often `ConsiderOnlySelectedAtoms` lets each atom count, broadcastable to the output; None without one."""
    for constraint in output.constraints:
        chosen = inputs[constraint.selection_name].detach() != 0
        counted = chosen.reshape(len(chosen), -1).sum(1)
        weights: Tensor = counted.reshape(-1, *(1,) * (value.ndim - 1)).to(value)
        return weights
    return None
