"""A decomposed loss as a sum over data: all at once, in pieces that fit in memory, or in independent blocks."""

from __future__ import annotations

import copy
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.orbit_parts import BatchPart, Decomposed, Part
from equiv_probe.landscape.parameter_groups import parameters_of
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.chunking import in_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from torch import Tensor, nn

Range = tuple[Part, int, int]
"""The structures of a part from one up to another."""


class OrbitSum:
    """``L_total = L_mean + L_equiv`` as a mean over the structures of some parts, a function of the weights.

    Args:
        parts: what the loss is a mean over.
        parameters: by name; None is those of the modules.
        chunk: structures of a dense batch whose graph is held at a time by :meth:`accumulate`.
        modules: to protect.
        per_structure: whether every structure is rotated by rotations of its own.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        parameters: Mapping[str, Tensor] | None,
        chunk: int,
        modules: Sequence[nn.Module],
        *,
        per_structure: bool,
    ) -> None:
        self._parameters = parameters_of(modules) if parameters is None else dict(parameters)
        self.chunk, self._modules = chunk, modules
        self.per_structure = per_structure
        self._ranges: list[Range] = [(part, 0, part.count) for part in parts]
        self._replicates: Sequence[int] | None = None
        self._weigh()

    def _weigh(self) -> None:
        """Sum up the weights by loss, of which the loss is a mean."""
        weights: dict[str, Any] = {}
        for part, start, stop in self._ranges:
            for name, values in part.weights.items():
                weights[name] = weights.get(name, 0.0) + values[start:stop].sum()
        self._weight = weights

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those that require a gradient now, by name, each once."""
        return {name: value for name, value in self._parameters.items() if value.requires_grad}

    @property
    def structures(self) -> int:
        """How many structures (or whole batches, where they cannot be split) the loss is a mean over."""
        return sum(stop - start for _, start, stop in self._ranges)

    @property
    def replicates(self) -> int:
        """How many replicates the estimate is made from."""
        return len(self._chosen(self._ranges[0][0]))

    def _chosen(self, part: Part) -> Sequence[int]:
        return range(part.replicates) if self._replicates is None else self._replicates

    def __call__(self) -> Decomposed:
        """The three losses now, ``()`` each."""
        return self._sum(part.sums(start, stop, self._chosen(part)) for part, start, stop in self._ranges)

    def _sum(self, sums: Iterable[Mapping[str, Decomposed]]) -> Decomposed:
        """Weighted sums of ranges of structures, by loss, as what they are in the mean."""
        scaled = [
            [value * (part.factors[name] / self._weight[name]) for value in values]
            for (part, _, _), own in zip(self._ranges, sums, strict=True)
            for name, values in own.items()
        ]
        return Decomposed(*(torch.stack(values).sum(0) for values in zip(*scaled, strict=True)))

    def pieces(self, structures: int | None = None) -> Iterator[Self]:
        """Functions whose values add up to the loss, each of some structures under all rotations.

        Args:
            structures: of a dense batch, in a piece, at most; None is :attr:`chunk`.
        """
        size = self.chunk if structures is None else structures
        for part, start, stop in self._ranges:
            for a in range(start, stop, size):
                yield self._piece(part, a, min(a + size, stop))

    def _piece(self, part: Part, start: int, stop: int) -> Self:
        found = copy.copy(self)
        found._ranges = [(part, start, stop)]  # and the weight of the whole
        return found

    def outputs(self) -> list[Tensor]:
        """The outputs, rotated back, that the losses of a piece are functions of.

        Raises:
            EquivProbeError: a user's step, whose loss is not known.
        """
        ((part, start, stop),) = self._ranges
        if not isinstance(part, BatchPart):
            raise EquivProbeError("a user's own step", "a loss of known outputs: OrbitLoss(model, inputs, targets)")
        return list(part.outputs(start, stop, self._chosen(part)).values())

    def of_outputs(self, outputs: Sequence[Tensor]) -> Decomposed:
        """The three losses of a piece if its outputs were these."""
        ((part, start, stop),) = self._ranges
        assert isinstance(part, BatchPart)
        named = dict(zip(part.live.known_schema.outputs, outputs, strict=True))
        return self._sum([part.sums_of(named, start, stop, self._chosen(part))])

    def accumulate(self, of: Callable[[Decomposed], Sequence[Tensor]]) -> list[Tensor]:
        """Sum over pieces of something that is linear in the loss: gradients, Hessian-vector products.

        A piece whose graph does not fit in memory is halved, down to one structure (for batches that cannot be split,
        down to the batch).

        Args:
            of: from the losses of a piece to tensors, of the same shapes for all pieces.

        >>> model = torch.nn.Linear(3, 3, bias=False).double()
        >>> import equiv_probe as ep
        >>> schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
        >>> x = torch.ones(6, 5, 3).double()
        >>> loss = ep.analysis.OrbitLoss(model, x, x, schema, chunk=4)
        >>> by_pieces, = loss.accumulate(lambda piece: torch.autograd.grad(piece.mean, loss.parameters.values()))
        >>> at_once, = torch.autograd.grad(loss().mean, loss.parameters.values())
        >>> torch.allclose(by_pieces, at_once)
        True
        """
        sums: list[Tensor] | None = None
        # What is checkpointed is evaluated again in a backward pass, batch norm and all.
        with isolated(*self._modules):
            for part, start, stop in self._ranges:
                rows = in_chunks(
                    lambda a, b, part=part, start=start: list(of(self._piece(part, start + a, start + b)())),  # type: ignore[misc]
                    stop - start,
                    self.chunk,
                )
                for row in rows:
                    sums = row if sums is None else [one + more for one, more in zip(sums, row, strict=True)]
        assert sums is not None
        return sums

    @renamed(over="of")
    def blocks(self, count: int, of: str = "rotations") -> list[Self]:
        """Independent estimates of the same loss, each from a part of the rotations or of the structures.

        Args:
            count: how many.
            of: ``"rotations"``: each from at least two replicates of its own, on all data; ``"structures"``: each
                from its own structures, rotated by rotations of their own.

        Raises:
            EquivProbeError: there are too few replicates or structures, or structures share their rotations.
        """
        if of not in {"rotations", "structures"}:
            raise EquivProbeError(f"of={of!r}", '"rotations" or "structures"')
        by_rotation = of == "rotations"
        if not by_rotation and not self.per_structure:
            raise EquivProbeError(
                "structures that all rotate by the same rotations: their estimates are not independent",
                "rotations of its own for every structure",
                "OrbitLoss(..., per_structure=True)",
            )
        what, have, need = ("replicates", self.replicates, 2 * count) if by_rotation else (of, self.structures, count)
        if count < 2 or have < need:
            raise EquivProbeError(
                f"{count} blocks of {have} {what}",
                f"at least two blocks, and {need} {what} for so many",
                "RotationPlan(..., replicates=8)" if by_rotation else "more data, or fewer blocks",
            )
        pairs = list(pairwise(have * k // count for k in range(count + 1)))
        if by_rotation:
            chosen = list(self._chosen(self._ranges[0][0]))
            return [self._with(self._ranges, chosen[a:b]) for a, b in pairs]
        units = iter([(part, k) for part, start, stop in self._ranges for k in range(start, stop)])
        return [self._with(_joined(list(islice(units, b - a))), self._replicates) for a, b in pairs]

    def redrawn(self, generator: torch.Generator) -> Self:
        """The same loss with other rotations of the same plan, of all its replicates.

        Args:
            generator: source of the rotations.
        """
        parts = {id(part): part.redrawn(generator) for part in {id(p): p for p, _, _ in self._ranges}.values()}
        return self._with([(parts[id(part)], start, stop) for part, start, stop in self._ranges], self._replicates)

    def _with(self, ranges: list[Range], replicates: Sequence[int] | None) -> Self:
        found = copy.copy(self)
        found._ranges, found._replicates = ranges, replicates
        found._weigh()
        return found


def _joined(units: list[tuple[Part, int]]) -> list[Range]:
    """Single structures joined to ranges."""
    found: list[Range] = []
    for part, k in units:
        if found and found[-1][0] is part and found[-1][2] == k:
            found[-1] = part, found[-1][1], k + 1
        else:
            found.append((part, k, k + 1))
    return found
