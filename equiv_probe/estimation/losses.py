"""Convex losses, element by element, and their reduction to one value per structure.

A loss is *frame-independent* if rotating prediction and target together leaves it unchanged. Component-wise absolute
error or Huber on a vector is not; its norm-wise form is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch.nn import functional

from equiv_probe.errors import EquivProbeError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

AnyLoss = str | Callable[..., Any]


@dataclass(frozen=True)
class PointwiseLoss:
    """A loss that is a weighted mean over elements.

    Args:
        name: as written in reports.
        elements: prediction and target, each ``(..., *shape)``, to losses ``(..., *shape)`` or, norm-wise and for
            classes, ``(..., *shape[:-1])``.
        squared: whether it is in the output's units squared.
        normwise: whether it is of the norm of one event (a vector, a tensor, a number), not of its components.
    """

    name: str
    elements: Callable[[Tensor, Tensor], Tensor]
    squared: bool = False
    normwise: bool = False

    def of(self, prediction: Tensor, target: Tensor, event_axes: int) -> Tensor:
        """Loss elements for an output whose one event has so many trailing axes: 0 for scalars, 2 for rank 2.

        Args:
            prediction: ``(..., *event)``.
            target: broadcastable against it.
            event_axes: ``norm_axes`` of the output's representation; −4 for the channels of a grid.
        """
        if not self.normwise:
            return self.elements(prediction, target)
        if event_axes < 0:
            target = target.expand(prediction.shape[prediction.ndim - max(target.ndim, -event_axes) :])
            return self.elements(prediction.movedim(event_axes, -1), target.movedim(event_axes, -1))
        target = target.expand(prediction.shape[prediction.ndim - max(target.ndim, event_axes) :])
        if event_axes == 0:
            return self.elements(prediction[..., None], target[..., None])
        return self.elements(prediction.flatten(-event_axes), target.flatten(-event_axes))


def _norm(prediction: Tensor, target: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(prediction - target, dim=-1)
    return norm


def _huber(error: Tensor) -> Tensor:
    return torch.where(error.abs() <= 1, error.square() / 2, error.abs() - 0.5)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Classes on the last axis; the target is class indices or probabilities."""
    log_probabilities = functional.log_softmax(logits, dim=-1)
    if target.is_floating_point():
        return -(target * log_probabilities).sum(-1)
    index = target.long().expand(log_probabilities.shape[:-1])[..., None]
    return -log_probabilities.gather(-1, index)[..., 0]


LOSSES: dict[str, PointwiseLoss] = {
    loss.name: loss
    for loss in (
        PointwiseLoss("mse", lambda p, t: (p - t).square(), squared=True),
        PointwiseLoss("mae", lambda p, t: (p - t).abs()),
        PointwiseLoss("mae-norm", _norm, normwise=True),
        PointwiseLoss("huber", lambda p, t: _huber(p - t)),
        PointwiseLoss("huber-norm", lambda p, t: _huber(_norm(p, t)), normwise=True),
        PointwiseLoss("cross-entropy", _cross_entropy),
    )
}
_ALIASES = {"l2": "mse", "squared": "mse", "l1": "mae", "l1-norm": "mae-norm", "cross_entropy": "cross-entropy"}


def resolve(loss: AnyLoss) -> PointwiseLoss | Callable[..., Any]:
    """Find a loss by name (Huber has δ = 1 in the output's unit), or pass a callable through.

    Raises:
        EquivProbeError: no loss of that name.
    """
    if not isinstance(loss, str):
        return loss
    name = _ALIASES.get(loss, loss)
    if name not in LOSSES:
        names = ", ".join(LOSSES)
        raise EquivProbeError(
            f"loss {loss!r}", f"one of {names}, or a callable{did_you_mean(loss, LOSSES)}", 'loss="mse"'
        )
    return LOSSES[name]


def is_of_classes(loss: object) -> TypeGuard[PointwiseLoss]:
    """Whether it is cross-entropy, whose targets may be indices of classes."""
    return isinstance(loss, PointwiseLoss) and loss.name == "cross-entropy"


def of_voxels(loss: PointwiseLoss) -> PointwiseLoss:
    """The same loss of classes on the channels of grids, ``(..., C, D, H, W)``, rather than on the last axis."""

    def elements(logits: Tensor, target: Tensor) -> Tensor:
        return loss.elements(logits.movedim(-4, -1), target.movedim(-4, -1) if target.is_floating_point() else target)

    return replace(loss, elements=elements)


@dataclass(frozen=True)
class Reduction:
    """The weighted mean over the elements of each structure, as the loss has it.

    Args:
        structures: None, the whole output is one structure; ``"leading"``, the first axis counts structures; or the
            index of the structure of every entry of the first axis, ``(N,)`` long (an output with one entry per
            structure is recognised by its length).
        weights: of the elements, broadcastable to the loss elements; None is one.
        mask: true where an element counts, broadcastable likewise.
        count: how many structures an index speaks of, or more, for those who know and must not wait for the device;
            structures that are not there get weight zero.
        counted: true where an element can count at all: in the ball of a grid.
    """

    structures: str | Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None
    count: int | None = None
    counted: Tensor | None = None

    def index(self, length: int, device: torch.device) -> tuple[Tensor, int]:
        """Structure of every entry of the first axis ``(length,)``, and how many structures there are."""
        if self.structures is None:
            return torch.zeros(length, dtype=torch.long, device=device), 1
        if isinstance(self.structures, str):
            if self.structures != "leading":
                raise EquivProbeError(
                    f"structures={self.structures!r}", 'None, "leading" or an index tensor', 'structures="leading"'
                )
            return torch.arange(length, device=device), length
        index = self.structures.to(device)
        count = int(index.max()) + 1 if self.count is None else self.count
        if len(index) == length:
            return index, count
        if length == count or (self.count is not None and length < count):
            return torch.arange(length, device=device), count
        raise EquivProbeError(
            f"an output with {length} entries, and structures of {len(index)} entries in {count} structures",
            "one entry per node or one per structure",
            'structures="leading" if the first axis counts structures',
        )

    def __call__(self, elements: Tensor, lead: int) -> tuple[Tensor, Tensor]:
        """Reduce loss elements ``(*L, *S)``, where L has ``lead`` axes, to ``(*L, U)`` means and ``(U,)`` weights."""
        shape = elements.shape[lead:]
        # On a device, where steps are cheap, torch has no deterministic sum in the order of the general way.
        if self.counts_all and elements.is_cpu and elements.dtype.itemsize >= 4 and shape.numel():
            return self._plain(elements, lead)
        weights = self.element_weights(shape, elements)
        rows = shape[0] if shape else 1
        index, count = self.index(rows, elements.device)
        # What does not count may be NaN (a missing label, padding) and must not bring the NaN along.
        weighted = torch.where(weights != 0, elements * weights, elements.new_zeros(()))
        flat = weighted.reshape(*elements.shape[:lead], rows, -1).sum(-1)
        sums = flat.new_zeros(*flat.shape[:-1], count).index_add_(-1, index, flat)
        weight = flat.new_zeros(count).index_add_(-1, index, weights.reshape(rows, -1).sum(-1))
        return sums / weight.clamp_min(torch.finfo(weight.dtype).tiny), weight

    @property
    def counts_all(self) -> bool:
        """Whether every element counts the same, in one structure or in the structures along the first axis."""
        given = (self.weights, self.mask, self.counted)
        one_or_leading = self.structures is None or (isinstance(self.structures, str) and self.structures == "leading")
        return one_or_leading and all(factor is None for factor in given)

    def _plain(self, elements: Tensor, lead: int) -> tuple[Tensor, Tensor]:
        """What is left to do where every element counts: the same sums in the same order, in a fifth of the steps."""
        shape = elements.shape[lead:]
        rows = shape[0] if shape else 1
        each = shape.numel() // rows
        sums = elements.reshape(*elements.shape[:lead], rows, each).sum(-1)
        if self.structures is None:
            sums, each = sums.cumsum(-1)[..., -1:], shape.numel()
        weight = sums.new_full(sums.shape[-1:], each)
        return sums / weight, weight

    def element_weights(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Weights times mask, expanded to the shape of the loss elements."""
        weights = like.new_ones(shape)
        for factor in (self.weights, self.mask, self.counted):
            if factor is not None:
                values = torch.as_tensor(factor).to(like)
                try:
                    weights = weights * _broadcast(values, shape)
                except RuntimeError:
                    raise EquivProbeError(
                        f"weights or mask of shape {tuple(values.shape)}",
                        f"something that broadcasts to {tuple(shape)}",
                    ) from None
        return weights


def _broadcast(values: Tensor, shape: torch.Size) -> Tensor:
    """Broadcast as torch does, from the last axis; values per node ``(N,)`` also fit elements ``(N, 3)``."""
    if values.ndim == len(shape) + 1 and values.shape[-1] == 1:  # (N, 1), where the norm has taken the last axis
        values = values[..., 0]
    try:
        return values.broadcast_to(shape)
    except RuntimeError:
        return values.reshape(*values.shape, *(1,) * max(0, len(shape) - values.ndim)).broadcast_to(shape)


def frame_dependence(
    loss: PointwiseLoss | Callable[..., Any],
    reduction: Reduction,
    prediction: Tensor,
    target: Tensor,
    *,
    representations: tuple[Representation, Representation],
    rotations: Tensor,
) -> float:
    """How much the loss changes, relatively, when prediction and target rotate together.

    Args:
        loss: the loss.
        reduction: weights, masks and structures.
        prediction: ``(*S)``.
        target: ``(*S)``, of the same structure in the same frame.
        representations: of the prediction and of the target.
        rotations: ``(K, 3, 3)`` to try.

    Returns:
        ``max_g |ℓ(ρ(g) p, ρ(g) t) − ℓ(p, t)| / ℓ(p, t)``: round-off for a frame-independent loss.
    """

    def evaluate(p: Tensor, t: Tensor) -> Tensor:
        if isinstance(loss, PointwiseLoss):
            values, weight = reduction(loss.of(p, t, representations[0].norm_axes), 0)
            return (values * weight).sum() / weight.sum()
        return torch.as_tensor(loss(p, t)).double().mean()

    reference = evaluate(prediction, target)
    rotated = [
        evaluate(
            representations[0].rotate(prediction, g),
            representations[1].rotate(target, g) if target.is_floating_point() else target,
        )
        for g in rotations
    ]
    change = (torch.stack(rotated) - reference).abs().max()
    return float(change / reference.abs().clamp_min(torch.finfo(torch.float64).tiny))
