r"""Is a sampler equivariant in distribution? Its samples against those of rotated noise, of independent runs.

Paths need not rotate for the distribution to: a sampler may draw rotations of its own, or meet its noise in another
order. With ``F`` the sampler and ``g`` a rotation of each sample's noise, ``F(ε)`` and ``g⁻¹ F(g ε')`` have one law if
it is equivariant in distribution, whatever ``g``: here one of two fixed rotations by 120°, about axes at right angles,
so that no direction is left alone by both. They are compared sample by sample (the same molecule, another draw), by the
energy distance of what a rotation moves, never of invariants, which do not know of a preferred direction:

* all positions as they are listed, which sees any difference of the joint law;
* their mean, and their second moments about it, which see a shift or a squeeze where the order of atoms means nothing.

The energy distances, each in units of its mean distance, are added. Under equivariance ``F(ε)`` and ``g⁻¹F(gε')`` can
be swapped in any pair: over random swaps the p-value is exact. Where samples of one run are not independent (one
rotation drawn for all of them) whole runs are swapped.

Source: Székely and Rizzo, J. Stat. Plan. Inference 143 (2013) 1249 (energy distance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.rotations.designs import group
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.grids import Grid
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.structures import Structures

LEVEL = 0.01
"""Below this p-value a sampler is called broken in distribution."""
SAMPLES = 256
"""Of each kind, where a number is not asked for."""
RUNS = 32
"""At most, of each kind, where a number is not asked for."""
BLOCKS = 16
"""Runs of each kind, at least, where these are what is swapped: 2¹⁶ ways."""
_SWAPS = 999
_RESOLVED = 1e-4


@dataclass(frozen=True)
class Law:
    """What the test of equivariance in distribution found: ``distance`` is the sum of energy distances.

    ``samples`` are of each kind; ``swapped`` units were swapped, samples or, ``by_run``, whole runs.
    """

    p_value: float
    distance: float
    samples: int
    swapped: int
    by_run: bool

    @property
    def differs(self) -> bool:
        """Whether the distribution is not equivariant, at the level of one in a hundred."""
        return self.p_value < LEVEL

    def __str__(self) -> str:
        found = "differ" if self.differs else "no difference found"
        units = f", swapped by {self.swapped} runs" if self.by_run else ""
        return f"p = {self.p_value:.2g} in distribution, {found} ({self.samples} samples of each kind{units})"


@dataclass(frozen=True)
class Block:
    """Some features of each sample, ``(U, d)``, and how large the numbers are that they are made of."""

    values: Tensor
    size: float


def features(values: Tensor, rep: Representation, structures: Structures) -> list[Block]:
    """What a rotation moves of each sample of end points ``(*S)``."""
    size = float(values.square().mean().sqrt())
    if rep.is_whole:
        fields = values[None] if structures.layout == "one" else values
        return [
            Block(fields.flatten(1), size),
            *(Block(m, size * fields[0].numel()) for m in _moments_of_grids(fields)),
        ]
    atoms, held = _by_sample(values.flatten(values.ndim - len(rep.event_shape)), structures)
    count = held.sum(1).clamp_min(1)
    mean = (atoms * held).sum(1) / count
    about = (atoms - mean[:, None]) * held
    second = torch.einsum("una,unb->uab", about, about) / count[..., None]
    upper = torch.triu_indices(atoms.shape[2], atoms.shape[2])
    blocks = [Block((atoms * held).flatten(1), size), Block(mean, size)]
    return [*blocks, Block(second[:, upper[0], upper[1]], size**2)] if atoms.shape[1] > 1 else blocks


def _by_sample(values: Tensor, structures: Structures) -> tuple[Tensor, Tensor]:
    """Atoms of each sample ``(U, N, d)``, zero where there are none, and where there are some, ``(U, N, 1)``."""
    if structures.layout == "index":
        owner = structures.owner(values)
        if owner is None:
            return values[:, None].flatten(2), torch.ones_like(values[:, None, :1])
        counts = torch.bincount(owner.cpu(), minlength=structures.count)
        order = owner.cpu().argsort(stable=True)
        atoms = torch.nn.utils.rnn.pad_sequence(list(torch.split(values[order], counts.tolist())), batch_first=True)
        return atoms, (torch.arange(atoms.shape[1]) < counts[:, None])[..., None].to(values)
    leading = values[None] if structures.layout == "one" else values
    atoms = leading.flatten(1, -2) if leading.ndim > 2 else leading[:, None]
    mask = structures.mask
    if mask is not None and tuple(leading.shape[: mask.ndim]) == tuple(mask.shape):
        held = (mask.cpu() != 0).reshape(*mask.shape, *(1,) * (leading.ndim - mask.ndim))
        held = held.expand(*leading.shape[:-1], 1).flatten(1, -2).to(values)
        return torch.where(held != 0, atoms, 0.0), held
    return atoms, torch.ones_like(atoms[..., :1])


def _moments_of_grids(fields: Tensor) -> list[Tensor]:
    """First and second moments of each channel about the centre of the box, ``(U, 9 C)``."""
    if len(set(fields.shape[-3:])) > 1:
        return []
    line = torch.linspace(-1, 1, fields.shape[-1], dtype=fields.dtype)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"))
    upper = torch.triu_indices(3, 3)
    powers = torch.cat([places, (places[:, None] * places[None])[upper[0], upper[1]]])
    return [torch.einsum("u...xyz,pxyz->u...p", fields, powers).flatten(1)]


def energy_test(
    plain: list[Block],
    rotated: list[Block],
    runs: Tensor,
    groups: Tensor,
    *,
    by_run: bool,
    seed: int = 0,
    swaps: int = _SWAPS,
) -> Law:
    """Test whether paired samples, n of each kind, can be swapped.

    With ``D`` the distances between all samples and ``s = ±1`` for the two kinds, the energy distance is
    ``−sᵀ D s / n²``; a swap changes the signs of a pair. Only samples of one rotation are compared (``groups``);
    ``runs``, ``(n,)``, says of which run each pair is, and ``by_run`` swaps whole runs.
    """
    count = len(runs)
    signed = torch.zeros(count, count, dtype=torch.float64)
    for one, other in zip(plain, rotated, strict=True):
        a, b = one.values, other.values
        aa, bb, ab = torch.cdist(a, a), torch.cdist(b, b), torch.cdist(a, b)
        scale = float((aa.mean() + bb.mean() + 2 * ab.mean()) / 4)
        if scale > _RESOLVED * max(one.size, other.size):  # what is fixed but for rounding tells of rounding
            signed += (ab + ab.mT - aa - bb) / scale
    signed *= groups[:, None] == groups
    labels = runs if by_run else torch.arange(count)
    units = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (swaps, units), generator=generator).double() - 1
    signs = torch.cat([torch.ones(1, units, dtype=torch.float64), signs])[:, labels]
    found = ((signs @ signed) * signs).sum(1) / count**2
    # Equal distances, of a sampler that draws nothing, must not differ by their last digits.
    margin = 1e-9 * max(float(found.abs().max()), 1.0)
    p_value = float((found[1:] >= found[0] - margin).sum() + 1) / (swaps + 1)
    return Law(p_value, float(found[0]), count, units, by_run)


def two_rotations(generator: torch.Generator, *, grid: Grid | None = None, is_cube: bool = True) -> Tensor:
    """By 120° about two random axes at right angles, ``(2, 3, 3)`` float64.

    Of a grid in a cube, about two of its diagonals; of a box, by 180°.
    """
    if grid is not None:
        if not is_cube:
            return torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1]], dtype=torch.float64))
        elements = group("octahedral")
        first = elements[elements.diagonal(dim1=-2, dim2=-1).sum(-1) == 0][0]  # its axis is a diagonal of the cube
        quarter = next(g for g in elements if g.diagonal().sum() == 1)
        return torch.stack([first, quarter @ first @ quarter.mT])
    frame = haar(1, generator)[0]
    third = torch.tensor([[-0.5, -(0.75**0.5), 0], [0.75**0.5, -0.5, 0], [0, 0, 1]], dtype=torch.float64)
    other = third.roll((1, 1), (0, 1))  # about x
    return frame @ torch.stack([third, other]) @ frame.mT


def runs_needed(samples_per_run: int, asked: int | None, *, by_run: bool) -> int:
    """How many runs of each kind, of so many samples each; ``asked`` is a number of samples."""
    needed = math.ceil((asked or SAMPLES) / samples_per_run)
    needed = needed if asked else min(needed, RUNS if samples_per_run > 1 else 2 * RUNS)
    return max(needed, BLOCKS) if by_run else needed
