"""Which random draws of a sampler have a direction, to which of its samples they belong, and how they rotate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.representation import vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.layout import Layout
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.structures import Structures


@dataclass(frozen=True)
class Draw:
    """A draw of random numbers: the operator, such as ``"randn_like"``, the shape, and the line of code."""

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
        rep: of the noise, but for a centre: vectors, or grids.
        layout: of draws that are not ``(..., N, 3)``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        structures: Structures,
        rotations: Tensor | None,
        *,
        shared: bool = False,
        back: bool = False,
        rep: Representation = vector,
        layout: Layout | None = None,
    ) -> None:
        self.shape, self.structures, self.rotations, self.back = shape, structures, rotations, back
        self.rep, self.layout = rep, layout
        self.shared = shared or structures.count == 1
        self._owners = _owners(shape, structures, rep)
        self._signs = torch.Generator().manual_seed(0)

    @property
    def only_moves(self) -> bool:
        """Whether rotating noise moves its numbers and changes none, so that it need not be normal."""
        return isinstance(self.rep, Grid) and self.rep.channels.are_scalars

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """Along which axis of a draw the samples (or their atoms) lie; -1: unclear which; None: it has no direction."""
        if isinstance(self.rep, Grid):
            return self._axis_of_grids(self.rep, shape)
        return self._axis_of_atoms(self.layout.usual_shape(shape) if self.layout else shape)

    def _axis_of_atoms(self, shape: tuple[int, ...]) -> int | None:
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

    def _axis_of_grids(self, rep: Grid, shape: tuple[int, ...]) -> int | None:
        """As :meth:`axis`: grids like the noise, and if its channels are scalars, of other channels or resolution."""
        whole = self.shape
        if shape[len(shape) - len(whole) :] == whole:
            return len(shape) - len(whole)
        if shape == whole[1:]:
            return -1
        if not rep.channels.are_scalars or self.structures.layout == "one" or len(shape) < 4:
            return None
        alike = shape[-3:] == whole[-3:] or len(set(shape[-3:])) == len(set(whole[-3:])) == 1 < shape[-1]
        return 0 if alike and shape[0] == whole[0] else None

    def axis_of_matrices(self, shape: tuple[int, ...]) -> int | None:
        """Along which axis of rotations ``(..., 3, 3)`` the samples (or their atoms) lie; None: they do not."""
        lead, whole = shape[:-2], self.shape[:-1]
        if self.shared:
            return 0
        if len(whole) > 1 and lead[len(lead) - len(whole) :] == whole:
            return len(lead) - len(whole)
        if lead and lead[0] == self.structures.count:
            return 0
        lengths = [place for place, length in enumerate(lead) if length in self._owners]
        return lengths[0] if lengths else None

    def carried(self, matrices: Tensor, axis: int, way: Way) -> Tensor:
        """Rotations R that were drawn as they go with the frame: ``g R g⁻¹``, ``g R``, ``R g⁻¹``, or as they are."""
        if self.rotations is None or way == "same":
            return matrices

        def move(own: Tensor, g: Tensor) -> Tensor:
            moved = _carried(own, g, way)
            return _carried(moved, g.mT, way) if self.back else moved

        return self._by_sample(matrices, axis, move)

    def _of_one(self, shape: tuple[int, ...], *, all_alike: bool) -> bool:
        """Whether a draw may be one sample's: laid out like one of them, or like every one."""
        index, whole = self.structures.index, self.shape
        if index is None:
            return (
                len(whole) > 2 and (shape if all_alike else shape[max(0, len(shape) - len(whole) + 1) :]) == whole[1:]
            )
        same = torch.bincount(index) == shape[0]
        return len(shape) == 2 and bool(same.all() if all_alike else same.any())

    def has_own(self, shape: tuple[int, ...]) -> bool:
        """Whether a draw may hold numbers of its own for each sample: some axis is as long as that of the samples."""
        return any(length in self._owners for length in shape)

    def disguised(self, shape: tuple[int, ...]) -> bool:
        """Whether a draw without direction has as many numbers as the noise: flattened, or its axes in other order."""
        return prod(shape) == prod(self.shape) and self.axis(shape) is None

    def rotate(self, values: Tensor, axis: int) -> Tensor:
        """A draw, rotated sample by sample along an axis as :meth:`axis` gives it, in its own precision."""
        if self.rotations is None:
            return values
        if self.layout and self.layout.fits(tuple(values.shape)):
            return self.layout.back(self._by_sample(self.layout.usual(values), axis, self._there))
        return self._by_sample(values, axis, self._there)

    def _by_sample(self, values: Tensor, axis: int, move: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What moves by the rotation of its sample, where the samples, or what belongs to them, lie along an axis."""
        assert self.rotations is not None
        if self.shared:
            return move(values[None], self.rotations[:1])[0]
        return move(values.movedim(axis, 0), self.rotations[self._owners[values.shape[axis]]]).movedim(0, axis)

    def _there(self, values: Tensor, rotations: Tensor) -> Tensor:
        """Rotated in float64, rounded once (and, there and back, once more); on the CPU, which has float64."""
        rep: Representation = self.rep
        if isinstance(rep, Grid):
            if self.back:
                return self.in_the_last_digit(values)
            rep = replace(rep, fields=(), channel_axis=False) if self.only_moves else rep  # of any channels
        wide = values.cpu() if self.only_moves else values.cpu().double()
        rotated = rep.rotate(wide, rotations).to(values.dtype)
        if self.back:
            rotated = rep.rotate_back(rotated.double(), rotations).to(values.dtype)
        return rotated.to(values.device)

    def in_the_last_digit(self, values: Tensor) -> Tensor:
        """Values that differ by one rounding: what moves voxels onto voxels, there and back, rounds nothing itself."""
        if not values.is_floating_point():
            return values
        signs = 2.0 * torch.randint(0, 2, values.shape, generator=self._signs) - 1
        eps = torch.finfo(values.dtype).eps
        return (values.cpu().double() * (1 + eps * signs.double())).to(values)

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


def _carried(matrices: Tensor, g: Tensor, way: Way) -> Tensor:
    """Rotations ``(U, ..., 3, 3)`` and those of their samples ``(U, 3, 3)``, rounded once."""
    wide = matrices.cpu().double()
    if way in {"right", "conjugate"}:
        wide = vector.rotate(wide, g)
    if way in {"left", "conjugate"}:
        wide = vector.rotate(wide.mT, g).mT
    return wide.to(matrices)


def _owners(shape: tuple[int, ...], structures: Structures, rep: Representation) -> dict[int, Tensor]:
    """The sample of each entry of an axis, by its length: of samples, of atoms, of the atoms that are there."""
    samples = torch.arange(structures.count)
    if rep.is_whole:
        return {structures.count: samples}
    if structures.index is not None:
        return {structures.count: samples, len(structures.index): structures.index}
    atoms = samples.repeat_interleave(max(1, prod(shape[1:-1])))
    found = {len(atoms): atoms, structures.count: samples}
    mask = structures.mask
    if mask is not None and mask.shape == shape[:-1]:
        there = atoms[mask.flatten().cpu() != 0]
        found = {len(there): there, **found}
    return found
