r"""A step's one number, split into losses of the structures.

A weighted squared error of the network's output p, whatever its weights, masks and reductions,

    L = c + Σ_e w_e (p_e − y_e)²,    g_e = ∂L/∂p_e = 2 w_e (p_e − y_e),    H_e = (∂²L/∂p² · 1)_e = 2 w_e,

says by its gradient and one Hessian-vector product with ones what its weights and labels are: ``y_e = p_e − g_e/H_e``.
Then ``½ H_e (p_e − y_e)²`` is the loss of element e for any output p, and structures are sums of elements. What is left
of L there is c: a constant, a prior, a divergence that does not depend on the network's output. That it *is*
such a loss is not assumed: the losses that a step returned for other outputs, which no part of this was made from, must
come out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.objectives import reduction_of
from equiv_probe.live.capture import wide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.schema.structures import Structures

Owners = tuple[dict[str, tuple["Tensor", int]], ...]
"""For each call and output: the structure of each entry of the first axis, and how many structures there are."""

TOLERANCE = 1e-3
"""Of the check, relative, beside rounding: a loss that is another by less is split as well as that."""


@dataclass(frozen=True)
class SquaredError:
    """A weighted squared error by its elements.

    Attributes:
        curvature: ``H_e = 2 w_e`` by call and output, float64.
        labels: ``y_e`` likewise.
        convex: whether no weight is negative and no element without weight has a gradient, ``()``.
    """

    curvature: tuple[dict[str, Tensor], ...]
    labels: tuple[dict[str, Tensor], ...]
    convex: Tensor

    def losses(self, outputs: Sequence[Mapping[str, Tensor]], owners: Owners) -> Tensor:
        """The losses of all structures of all calls, ``(ΣU,)``, for these outputs."""

        def of(call: int, name: str, h: Tensor) -> Tensor:
            gap = wide(outputs[call][name]) - self.labels[call][name]
            return torch.where(h > 0, h * gap.square() / 2, 0.0)

        return torch.cat(self._summed(of, owners))

    def counts(self, owners: Owners) -> tuple[Tensor, Tensor]:
        """One for structures with an element that counts, else zero, ``(ΣU,)``; and how many of its call do."""
        there = [(one > 0).to(one) for one in self._summed(lambda _, __, h: (h > 0).to(h), owners)]
        return torch.cat(there), torch.cat([one.sum().expand(len(one)) for one in there])

    def _summed(self, of: Callable[[int, str, Tensor], Tensor], owners: Owners) -> list[Tensor]:
        """Elements summed by structure, ``(U,)`` for each call."""
        found = []
        for call, by_output in enumerate(self.curvature):
            sums = None
            for name, h in by_output.items():
                index, count = owners[call][name]
                sums = h.new_zeros(count) if sums is None else sums
                sums = sums.index_add(0, index, of(call, name, h).reshape(len(index), -1).sum(1))
            if sums is not None:
                found.append(sums)
        return found


def read_off(loss: Tensor, outputs: Sequence[Mapping[str, Tensor]]) -> SquaredError:
    """The weights and labels that a loss must have if it is a weighted squared error of the outputs.

    Args:
        loss: one number, with its graph.
        outputs: of the network, leaves of that graph.

    Raises:
        RuntimeError: the loss cannot be differentiated twice.
    """
    leaves = [value for one in outputs for value in one.values()]
    # A mean has gradients of one over its size, which half precision cannot hold: as if it were a sum.
    scale = float(min(sum(value.numel() for value in leaves), 2**12))
    seed = torch.full_like(loss, scale)
    first = torch.autograd.grad(loss, leaves, seed, create_graph=True, allow_unused=True)
    on = [g.sum() for g in first if g is not None and g.requires_grad]
    second = torch.autograd.grad(on, leaves, allow_unused=True, retain_graph=True) if on else [None] * len(leaves)
    curvature, labels, wrong = [], [], []
    rest = iter(zip(leaves, first, second, strict=True))
    for one in outputs:
        of_call: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        for name in one:
            p, g, h = (None if value is None else wide(value.detach()) for value in next(rest))
            assert p is not None
            g = torch.zeros_like(p) if g is None else g / scale
            h = torch.zeros_like(p) if h is None else h / scale
            wrong.append(((h < 0) | ((h == 0) & (g != 0)) | ~h.isfinite()).any())
            of_call[0][name] = h
            of_call[1][name] = torch.where(h > 0, p - g / torch.where(h > 0, h, 1.0), 0.0)
        curvature.append(of_call[0])
        labels.append(of_call[1])
    return SquaredError(tuple(curvature), tuple(labels), ~torch.stack(wrong).any())


def elsewhere(numbers: Mapping[str, Tensor], leaves: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Shifts of the outputs to where no network is, by call: by noise as large as the errors of the first number.

    Args:
        numbers: of a step, with their graph.
        leaves: the outputs, leaves of that graph.
    """
    labels: Sequence[Mapping[str, Tensor]] = [{} for _ in leaves]
    with suppress(RuntimeError, StopIteration):  # no number, or one that is differentiated once only
        labels = read_off(next(iter(numbers.values())), leaves).labels
    generator, found = torch.Generator().manual_seed(0), []
    for one, known in zip(leaves, labels, strict=True):
        shifts = {}
        for name, value in one.items():
            away = wide(value.detach()) - known.get(name, torch.zeros_like(value))
            size = away.square().mean().sqrt().nan_to_num()
            noise = torch.randn(value.shape, generator=generator).to(value.device, non_blocking=True)
            shifts[name] = (torch.where(size > 0, size, 1.0) * noise).to(value)
        found.append(shifts)
    return found


def agrees(
    parts: Sequence[Tensor], returned: Sequence[Tensor], precision: float, constant: Tensor | float = 0.0
) -> Tensor:
    """Whether losses by structure and a constant add up to the numbers that the step returned, ``()``.

    Args:
        parts: losses of the structures, ``(U,)`` for each output.
        returned: the step's number for each output.
        precision: spacing of numbers relative to one, in the coarsest type that took part.
        constant: what does not depend on the output.
    """
    found, wanted = torch.stack([one.sum() for one in parts]), torch.stack(list(returned))
    # Of the squared errors: beside a large constant anything would agree. That is known to rounding of the sum.
    allowed = TOLERANCE * found.abs().mean() + 16 * precision * wanted.abs().mean()
    return ((found + constant - wanted).abs() <= allowed).all()  # NaN agrees with nothing


def owners_of(outputs: Sequence[Mapping[str, Tensor]], structures: Sequence[Structures]) -> Owners:
    """Which structure every entry of the first axis of every output belongs to.

    Raises:
        EquivProbeError: an output that is neither by node nor by structure.
    """
    found = []
    for one, batch in zip(outputs, structures, strict=True):
        index = {}
        for name, value in one.items():
            rows, reduction = (len(value) if value.ndim else 1), reduction_of(batch, value, name)
            owner, count = reduction.index(rows, value.device)
            if count != batch.count:
                raise EquivProbeError(
                    f"an output {name!r} of shape {tuple(value.shape)} to a batch of {batch.count} structures",
                    "a first axis of structures or nodes",
                )
            index[name] = owner, count
        found.append(index)
    return tuple(found)
