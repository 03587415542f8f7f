"""Which random draws of a sampler have a direction, to which of its samples they belong, and how they rotate."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.representation import vector

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.schema.structures import Structures


@dataclass(frozen=True)
class Draw:
    """One draw of random numbers by a sampler.

    Attributes:
        call: the operator, such as ``"randn_like"``.
        shape: of what was drawn.
        where: file and line of the sampler's code.
    """

    call: str
    shape: tuple[int, ...]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.call} of shape {self.shape}{f' at {self.where}' if self.where else ''}"


class Frame:
    """A rotation for each sample, and which entries of a draw belong to which sample.

    Args:
        shape: of the initial noise.
        structures: its samples.
        rotations: ``(U, 3, 3)``; None for the unrotated frame.
        shared: whether all samples rotate alike, so that it need not be known to which of them a draw belongs.
        back: rotate there and back again, which leaves nothing but rounding.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        structures: Structures,
        rotations: Tensor | None,
        *,
        shared: bool = False,
        back: bool = False,
    ) -> None:
        self.shape, self.structures, self.rotations, self.back = shape, structures, rotations, back
        self.shared = shared or structures.count == 1
        self._owners = _owners(shape, structures)

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """Along which axis of a draw the samples (or their atoms) lie; -1: unclear which; None: it has no direction."""
        whole = self.shape
        if len(shape) < 2 or shape[-1] != 3:
            return None
        if shape[len(shape) - len(whole) :] == whole:
            return len(shape) - len(whole)
        if self.structures.layout == "one":
            return None
        if self._of_one(shape, all_alike=True):  # as many samples as atoms
            return -1
        if shape[0] in self._owners:
            return 0
        return -1 if self._of_one(shape, all_alike=False) else None

    def _of_one(self, shape: tuple[int, ...], *, all_alike: bool) -> bool:
        """Whether a draw may be one sample's: laid out like one of them, or like every one."""
        index, whole = self.structures.index, self.shape
        if index is None:
            return (
                len(whole) > 2 and (shape if all_alike else shape[max(0, len(shape) - len(whole) + 1) :]) == whole[1:]
            )
        same = torch.bincount(index) == shape[0]
        return len(shape) == 2 and bool(same.all() if all_alike else same.any())

    def disguised(self, shape: tuple[int, ...]) -> bool:
        """Whether a draw without direction has as many numbers as the noise: flattened, or its axes in other order."""
        return prod(shape) == prod(self.shape) and self.axis(shape) is None

    def rotate(self, values: Tensor, axis: int) -> Tensor:
        """A draw, rotated sample by sample along an axis as :meth:`axis` gives it, in its own precision."""
        if self.rotations is None:
            return values
        if self.shared:
            return self._there(values[None], self.rotations[:1])[0]
        own = self.rotations[self._owners[values.shape[axis]]]
        return self._there(values.movedim(axis, 0), own).movedim(0, axis)

    def _there(self, values: Tensor, rotations: Tensor) -> Tensor:
        """Rotated in float64, rounded once (and, there and back, once more); on the CPU, which has float64."""
        rotated = vector.rotate(values.cpu().double(), rotations).to(values.dtype)
        if self.back:
            rotated = vector.rotate_back(rotated.double(), rotations).to(values.dtype)
        return rotated.to(values.device)

    def along(self, rotations: Tensor) -> Tensor:
        """Random frames ``(R, n, U, 3, 3)`` of a twirled network, rotated with everything else: ``R g⁻¹``."""
        if self.rotations is None or self.back:
            return rotations
        own, count = self.rotations.to(rotations), rotations.shape[2]
        if self.shared:
            return rotations @ own[0].mT
        if self.structures.layout == "index" and count >= len(own):  # as many as there are nodes: an upper bound
            own = torch.cat([own, torch.eye(3).to(own).expand(count - len(own), 3, 3)])
        if count != len(own):
            raise EquivProbeError(
                f"a twirled network that draws frames for {count} structures in a sampler of {len(own)} samples",
                "one frame for each sample, or one rotation for all of them",
                "audit_sampler(..., per_sample=False)",
            )
        return rotations @ own.mT


def _owners(shape: tuple[int, ...], structures: Structures) -> dict[int, Tensor]:
    """The sample of each entry of an axis, by its length: of samples, of atoms, of the atoms that are there."""
    samples = torch.arange(structures.count)
    if structures.index is not None:
        return {structures.count: samples, len(structures.index): structures.index}
    atoms = samples.repeat_interleave(max(1, prod(shape[1:-1])))
    found = {len(atoms): atoms, structures.count: samples}
    mask = structures.mask
    if mask is not None and mask.shape == shape[:-1]:
        there = atoms[mask.flatten().cpu() != 0]
        found = {len(there): there, **found}
    return found
