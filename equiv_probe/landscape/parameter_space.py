"""The weights of a model as one vector: to walk along a line in them, and to come back to the same bits.

The vector is float64 whatever the weights are (float32 where the device has no other), and lies on the device of the
first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor


class ParameterSpace:
    """Named parameters in a fixed order, and the vectors ``(size,)`` that run through them all.

    Args:
        parameters: a module, whose trainable parameters are taken, a mapping by name, pairs of a name and a tensor, or
            tensors; what does not require a gradient is left out, what comes twice is taken once.

    Raises:
        EquivProbeError: there are none, or some are not floating-point tensors.

    >>> space = ParameterSpace(nn.Linear(3, 2))
    >>> space.names, space.size
    (['weight', 'bias'], 8)
    """

    def __init__(self, parameters: nn.Module | Mapping[str, Tensor] | Iterable[Any]) -> None:
        unique: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in _named(parameters):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise EquivProbeError(f"a parameter {name!r} that is {type(tensor).__name__}", "floating-point tensors")
            if tensor.requires_grad:
                unique.setdefault(id(tensor), (name, tensor))
        if not unique:
            raise EquivProbeError("no parameter that requires a gradient", "the weights to move", "parameters=model")
        self.names = [name for name, _ in unique.values()]
        self.tensors = [tensor for _, tensor in unique.values()]
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self.size = sum(self.sizes)
        self.device = self.tensors[0].device
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64

    def flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector ``(size,)`` of tensors shaped as the parameters; None is zero."""
        parts = [
            torch.zeros(p.numel(), dtype=self.dtype, device=self.device)
            if t is None
            else t.detach().reshape(-1).to(self.device, self.dtype)
            for t, p in zip(tensors, self.tensors, strict=True)
        ]
        return torch.cat(parts)

    def parts(self, vector: Tensor) -> list[Tensor]:
        """A vector ``(size,)`` as tensors with the shapes, types and devices of the parameters."""
        pieces = torch.split(vector, self.sizes)
        return [v.reshape(p.shape).to(p.device, p.dtype) for v, p in zip(pieces, self.tensors, strict=True)]

    @property
    def here(self) -> Tensor:
        """The weights as they are now, ``(size,)``."""
        return self.flat(self.tensors)

    def of_names(self, named: Mapping[str, Any], *, missing: str) -> Tensor:
        """The vector of a state dict, or of any tensors by the names of the parameters.

        Args:
            named: by name; other names (buffers, frozen weights) are left out.
            missing: ``"error"``, or ``"zero"`` for parameters that are not there.

        Raises:
            EquivProbeError: a name is not there, or its tensor has another shape.
        """
        found: list[Tensor | None] = []
        for name, parameter in zip(self.names, self.tensors, strict=True):
            if name not in named and missing == "error":
                raise EquivProbeError(
                    f"weights without {name!r}",
                    f"the names {', '.join(self.names[:4])}, …",
                    "a state_dict of the model",
                )
            value = named.get(name)
            if value is not None and tuple(value.shape) != tuple(parameter.shape):
                raise EquivProbeError(f"{name!r} of shape {tuple(value.shape)}", f"{tuple(parameter.shape)}")
            found.append(value)
        if all(value is None for value in found):
            raise EquivProbeError("names of which none is a parameter", ", ".join(self.names[:4]))
        return self.flat(found)

    @property
    def precision(self) -> float:
        """The relative precision of the coarsest of the weights."""
        return max(torch.finfo(p.dtype).eps for p in self.tensors)

    def random(self, generator: torch.Generator) -> Tensor:
        """Independent normal numbers, ``(size,)``, drawn on the CPU so that a seed means the same on every device."""
        return torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

    def filter_normalised(self, direction: Tensor) -> Tensor:
        """A direction in which every filter is as long as the filter it moves.

        A filter is a row of a matrix (an entry of the first axis of what has more), and a vector (bias, gain) as a
        whole. So t = 1 moves every filter by its own length, and rescaling a layer changes nothing.
        Source: Li, Xu, Taylor, Studer & Goldstein, NeurIPS 2018 (arXiv:1712.09913), section 4; there vectors stay
        where they are.

        Args:
            direction: ``(size,)``.

        Returns:
            ``(size,)``; zero for filters that are zero.
        """
        scaled: list[Tensor | None] = []
        for given, parameter in zip(torch.split(direction, self.sizes), self.tensors, strict=True):
            if not parameter.numel():  # some layers keep empty weights
                scaled.append(None)
                continue
            rows = len(parameter) if parameter.ndim > 1 else 1
            d, p = given.reshape(rows, -1), parameter.detach().reshape(rows, -1).to(given)
            length = d.norm(dim=1, keepdim=True)
            scaled.append(torch.where(length > 0, d * (p.norm(dim=1, keepdim=True) / length), 0.0))
        return self.flat(scaled)

    @contextmanager
    def walking(self) -> Iterator[Walk]:
        """A context in which the weights may be moved; afterwards, whatever happened, they have their old bits.

        Gradients, version counters and buffers are not touched.
        """
        before = [tensor.detach().clone() for tensor in self.tensors]
        try:
            yield Walk(self, self.here)
        finally:
            for tensor, value in zip(self.tensors, before, strict=True):
                tensor.data.copy_(value)


class Walk:
    """Moves the weights to ``θ + t d``, with the sum in float64 and rounded once."""

    def __init__(self, space: ParameterSpace, start: Tensor) -> None:
        self.space, self.start = space, start

    def to(self, displacement: Tensor) -> None:
        """Put the weights at ``θ + displacement``, ``(size,)``."""
        for tensor, value in zip(self.space.tensors, self.space.parts(self.start + displacement), strict=True):
            tensor.data.copy_(value)  # .data: a graph of the user's own that holds these weights stays valid


def _named(parameters: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(parameters, nn.Module):
        yield from parameters.named_parameters()
    elif isinstance(parameters, Mapping):
        yield from parameters.items()
    else:
        for index, entry in enumerate(parameters):
            yield entry if isinstance(entry, tuple) else (str(index), entry)
