"""One loss of one output, or of all together: what is compared with what, and how the elements make structures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.losses import PointwiseLoss, Reduction, is_of_classes, of_voxels, resolve
from equiv_probe.representations.grids import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.representations.representation import Representation


@dataclass(frozen=True)
class Objective:
    """One loss of one output, or of all together: predictions by output to one value per structure."""

    outputs: tuple[str, ...]
    loss: PointwiseLoss | Callable[..., Any]
    targets: Mapping[str, Tensor]
    reduction: Reduction
    labelled: bool
    event_axes: int = 0
    """Axes of one event of the output: 0 for scalars, 1 for vectors, 2 for rank-2 tensors, −4 for channels of grids."""

    @classmethod
    def of(
        cls,
        orbit: Orbit,
        targets: Any,
        loss: AnyLoss | Mapping[str, AnyLoss],
        *,
        structures: Any,
        weights: Any,
        mask: Any,
    ) -> dict[str, Objective]:
        """One objective per output that has a target (all, without targets); a single one for a callable of dicts."""
        names = list(orbit.identity)
        for what, given in (("targets", targets), ("loss", loss), ("weights", weights), ("mask", mask)):
            require_outputs(what, given, names)
        if targets is not None and not isinstance(targets, Mapping) and len(names) > 1:
            raise EquivProbeError(
                f"one target for outputs {names}", "targets by output", 'targets={"' + names[0] + '": ...}'
            )
        labels = {name: _pick(targets, name) for name in names}
        found = {name: _like(label, orbit.identity[name]) for name, label in labels.items() if label is not None}
        if callable(loss) and len(names) > 1:
            if not found:
                raise EquivProbeError(
                    "no targets for a loss of several outputs",
                    "a dict of targets",
                    "decompose(orbit, targets, loss=...)",
                )
            return {"loss": cls(tuple(names), loss, found, Reduction(structures), labelled=True)}
        objectives = {}
        for name in found if targets is not None else names:
            own = resolve(loss.get(name, "mse") if isinstance(loss, Mapping) else loss)
            if targets is None and not is_squared(own):
                raise EquivProbeError(
                    f"no target for {name!r}",
                    "a target: only squared error has an L_equiv that does not depend on the labels",
                    "decompose(orbit, targets, loss=...)",
                )
            rep, identity = orbit.schema.outputs[name], orbit.identity[name]
            own = loss_on(own, rep)
            reduction = Reduction(structures, _pick(weights, name), _pick(mask, name), counted=rep.counted(identity))
            target = found.get(name, identity)
            _require_same_shape(name, own, identity, target, -4 if rep.is_whole else -1)
            comparable = isinstance(own, PointwiseLoss) or target.shape == identity.shape
            if rep.is_whole and target.is_floating_point() and comparable:
                target = rep.within(target.expand(identity.shape))
            objectives[name] = cls((name,), own, {name: target}, reduction, targets is not None, rep.norm_axes)
        if not objectives:
            raise EquivProbeError("no usable target", f"targets for outputs among {names}", "a dict by output")
        return objectives

    def about(self, values: Mapping[str, Tensor]) -> Objective:
        """The same objective, label-free, with these values in the place of the targets."""
        return replace(self, targets={name: values[name] for name in self.outputs}, labelled=False)

    @property
    def label(self) -> str:
        """The loss's name, for reports."""
        if isinstance(self.loss, PointwiseLoss):
            return self.loss.name
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    def __call__(self, predictions: Mapping[str, Tensor], lead: int) -> tuple[Tensor, Tensor]:
        """Losses ``(*L, U)`` and weights ``(U,)`` of predictions ``(*L, *S)`` with ``lead`` leading axes."""
        if isinstance(self.loss, PointwiseLoss):
            (name,) = self.outputs
            elements = self.loss.of(predictions[name], self.targets[name], self.event_axes)
            return self.reduction(elements, lead)
        shape = next(iter(predictions.values())).shape[:lead]
        flat = {name: values.reshape(-1, *values.shape[lead:]) for name, values in predictions.items()}
        rows = [self._call({name: values[k] for name, values in flat.items()}) for k in range(shape.numel())]
        values = torch.stack(rows)
        return values.reshape(*shape, -1), values.new_ones(values.shape[-1])

    def _call(self, prediction: Mapping[str, Tensor]) -> Tensor:
        """The user's own loss on one prediction, ``(U,)``."""
        assert callable(self.loss)  # pointwise losses do not come here
        if len(self.outputs) == 1:
            (name,) = self.outputs
            value = self.loss(prediction[name], self.targets[name])
        else:
            value = self.loss(dict(prediction), dict(self.targets))
        value = torch.as_tensor(value).double().reshape(-1)
        # Of the prediction's graph alone: a loss may have parameters of its own.
        return value if any(given.requires_grad for given in prediction.values()) else value.detach()


def loss_on(loss: PointwiseLoss | Callable[..., Any], rep: Representation) -> PointwiseLoss | Callable[..., Any]:
    """The loss of such an output: of grids, cross-entropy has its classes on the axis of channels."""
    if not (isinstance(rep, Grid) and is_of_classes(loss)):
        return loss
    if not rep.channel_axis:
        raise EquivProbeError(f"the loss 'cross-entropy' on ep.{rep}", "one channel for each class", "ep.grid()")
    return of_voxels(loss)


def is_squared(loss: object) -> bool:
    """Whether ``L_equiv`` of a loss is the variance of the orbit, whatever the labels."""
    return isinstance(loss, PointwiseLoss) and loss.squared


def _pick(values: Any, name: str) -> Any:
    """The entry for one output of a dict by output, or the one value given for all."""
    return values.get(name) if isinstance(values, Mapping) else values


def require_outputs(what: str, given: Any, names: list[str]) -> None:
    """Raise EquivProbeError if a dict by output names an unknown output: a misspelt name would change nothing."""
    unknown = sorted(set(given) - set(names)) if isinstance(given, Mapping) else []
    if unknown:
        raise EquivProbeError(f"{what} for {unknown}", f"outputs among {names}")


def _require_same_shape(name: str, loss: object, prediction: Tensor, target: Tensor, class_axis: int) -> None:
    """Raise if the target would broadcast the prediction: energies (B,) against (B, 1) would compare all with all."""
    if not isinstance(loss, PointwiseLoss):
        return
    expected = prediction.shape
    if is_of_classes(loss) and not target.is_floating_point():
        expected = prediction.select(class_axis, 0).shape
    axes = zip(reversed(target.shape), reversed(expected), strict=False)
    fits = target.ndim <= len(expected) and all(length in {1, wanted} for length, wanted in axes)
    if not fits and target.numel() != 1:
        raise EquivProbeError(
            f"a target of shape {tuple(target.shape)} for {name!r}",
            f"the prediction's {tuple(expected)}",
            "reshape the target",
        )


def _like(target: Any, prediction: Tensor) -> Tensor:
    values = torch.as_tensor(target, device=prediction.device)
    return values.to(prediction.dtype) if values.is_floating_point() else values
