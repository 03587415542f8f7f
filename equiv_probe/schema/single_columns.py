"""Whether a single column of a tensor was made of known arrows or places in a way that no rotation of columns follows.

Every column is compared with functions of one component (whatever their scale, in every structure of its own), with
monotone ones of it, with waves of it, and with all that is of degree two in the components and the direction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.schema.column_relations import FEWEST, SAME, Hidden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.schema.column_relations import Reference

FLAT = 0.1
"""Of the longest axis, the shortest one of arrows that is long enough: along a line, every order is that of an axis."""
LEVELS = 8
"""Different numbers in a structure from which their order tells something: fewer may be layers, tags or kinds."""
WAVES = [base * 2.0**power for base in (1.0, math.pi) for power in range(-3, 7)]
"""Wave numbers of Fourier features, per unit of length."""
_WHY_NOT = "no rotation of the columns gives those of the rotated structure"


def single_column(rows: Tensor, reference: Reference) -> Hidden | None:
    """The first column of ``(M, W)`` that was made of a reference's components; None where there is none."""
    arrows = reference.rows
    if len(rows) != len(arrows) or len(rows) < 2 * FEWEST or not bool(torch.isfinite(arrows).all()):
        return None
    owner, sizes = reference.owners()
    # A function of the length does not rotate, even where it grows with a component in what was given.
    asked = (~_is_monotone(rows, arrows.norm(dim=1), owner)).nonzero()[:, 0]
    if not len(asked):
        return None
    columns = rows[:, asked]
    found = [
        *_scaled(columns, arrows, owner, sizes),
        *_ordered(columns, arrows, owner, sizes),
        *_waves(columns, arrows),
    ]
    if not reference.is_place:  # about another place than the centre, a distance is a polynomial of the components
        found += _of_degree_two(columns, arrows)
    for column, feature in found[:1]:
        at = int(asked[column])
        return Hidden((at, at + 1), f"{feature} {reference.what}", None, _WHY_NOT)
    return None


def _features(arrows: Tensor) -> dict[str, Tensor]:
    """Functions of arrows that change as they rotate, ``(M,)`` each."""
    x, y, z = arrows.unbind(1)
    length, across = arrows.norm(dim=1).clamp_min(1e-300), arrows[:, :2].norm(dim=1).clamp_min(1e-300)
    angle = torch.atan2(y, x)
    return {
        "the polar angle of": torch.arccos((z / length).clamp(-1, 1)),
        "the azimuth of": angle,
        "the azimuth (from 0 to 2π) of": torch.where(angle < 0, angle + 2 * torch.pi, angle),
        "the sine of the azimuth of": y / across,
        "the cosine of the azimuth of": x / across,
        **{f"the {axis} of": own for axis, own in zip("xyz", (x, y, z), strict=True)},
        **{f"the size of the {axis} of": own.abs() for axis, own in zip("xyz", (x, y, z), strict=True)},
    }


def _scaled(rows: Tensor, arrows: Tensor, owner: Tensor, sizes: Tensor) -> Iterator[tuple[int, str]]:
    """Columns that are a feature, moved and scaled in every structure by its own numbers."""
    features = _features(arrows)
    if len(rows) - 2 * len(sizes) < FEWEST:  # two numbers for every structure fit anything
        owner, sizes = torch.zeros_like(owner), sizes.sum()[None]
    wanted, is_wanted = _standard(torch.stack(list(features.values())), owner, sizes)
    given, is_given = _standard(rows.T, owner, sizes)
    counted = (is_wanted * sizes) @ is_given.T
    similarity = (wanted @ given.T).abs() / counted.clamp_min(1)
    enough = counted >= max(2 * FEWEST, len(rows) / 2)
    for feature, column in ((similarity > 1 - SAME**2 * 10) & enough).nonzero().tolist():
        if int((_levels(rows[:, column], owner, len(sizes)) - 2).clamp_min(0).sum()) >= FEWEST:
            yield column, list(features)[feature]


def _levels(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """How many different numbers ``(M,)``, rounding aside, there are in each structure, ``(S,)``."""
    pairs = torch.unique(torch.stack([owner.double(), _rounded(values)], 1), dim=0)
    return torch.bincount(pairs[:, 0].long(), minlength=count)


def _standard(values: Tensor, owner: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """``(F, M)`` with mean zero and unit variance in every structure, and where that is not constant, ``(F, S)``."""
    start = values.new_zeros(len(values), len(sizes))
    centred = values - (start.index_add(1, owner, values) / sizes)[:, owner]
    spread = (start.index_add(1, owner, centred.square()) / sizes).sqrt()
    varies = spread > 1e-9 * values.abs().amax(1, keepdim=True).clamp_min(1e-300)
    return centred * torch.where(varies, 1 / spread, 0.0)[:, owner], varies.double()


def _rounded(values: Tensor) -> Tensor:
    """Values as whole numbers, to about the digits of single precision."""
    return (values / (SAME * SAME * values.abs().amax(0)).clamp_min(1e-300)).round()


def _ordered(rows: Tensor, arrows: Tensor, owner: Tensor, sizes: Tensor) -> Iterator[tuple[int, str]]:
    """Columns that rise (or fall) with a component, or its size, in every structure: ranks, indices of voxels, tanh."""
    if not _is_solid(arrows):
        return
    for name, feature in _features(arrows).items():
        if name.endswith(("the x of", "the y of", "the z of")):
            for column in _is_monotone(rows, feature, owner).nonzero()[:, 0].tolist():
                if float(_levels(rows[:, column], owner, len(sizes)).double().mean()) >= LEVELS:
                    yield column, f"in the order of {name}"


def _is_monotone(rows: Tensor, feature: Tensor, owner: Tensor) -> Tensor:
    """Whether each column is a function of a feature ``(M,)`` that rises in every structure, or falls in every one."""
    order = feature.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    steps, own = _rounded(rows)[order].diff(dim=0), _rounded(feature)[order].diff()
    within = owner[order].diff() == 0
    rises = steps[within & (own > 1)]
    same = steps[within & (own <= 1)].abs() <= 1
    return ((rises >= 0).all(0) | (rises <= 0).all(0)) & same.all(0)


def _waves(rows: Tensor, arrows: Tensor) -> Iterator[tuple[int, str]]:
    """Columns that are a sine or cosine of a component, of one of the usual wave lengths."""
    if len(rows) < 4 * FEWEST or not _is_solid(arrows):
        return
    centred = rows - rows.mean(0)
    spread = centred.abs().amax(0)
    for axis, component in zip("xyz", arrows.unbind(1), strict=True):
        if len(torch.unique(component)) < 4 * FEWEST:  # as the layers of a crystal: a wave goes through any numbers
            continue
        phases = torch.tensor(WAVES, dtype=rows.dtype)[:, None] * component
        basis = torch.stack([phases.sin(), phases.cos(), torch.ones_like(phases)], 2)  # (waves, M, 3)
        basis, _ = torch.linalg.qr(basis)
        left = centred.square().sum(0) - (basis.mT @ centred).square().sum(1)  # (waves, W)
        for wave, column in ((left <= SAME * centred.square().sum(0)) & (spread > 0)).nonzero().tolist():
            rest = centred[:, column] - basis[wave] @ (basis[wave].mT @ centred[:, column])
            if float(rest.abs().max()) <= SAME * float(spread[column]):
                yield column, f"a wave along the {axis} of"


def _of_degree_two(rows: Tensor, arrows: Tensor) -> Iterator[tuple[int, str]]:
    """Columns in the span of components, directions and their products that are no functions of the length."""
    length = arrows.norm(dim=1, keepdim=True)
    direction = arrows / length.clamp_min(1e-300)
    invariant = torch.cat([torch.ones_like(length), length, length.square()], 1)
    first = torch.cat([invariant, arrows, direction], 1)
    distinct = len(torch.unique((arrows / length.max().clamp_min(1e-300)).round(decimals=5), dim=0))
    spread = (rows - rows.mean(0)).abs().amax(0)
    changes = (_left(rows, invariant) > 0.01 * spread) & (spread > 0)
    for design in (first, torch.cat([first, _products(direction), _products(arrows)], 1)):
        if distinct >= 2 * design.shape[1] and torch.linalg.matrix_rank(design, rtol=1e-9) == design.shape[1]:
            for column in ((_left(rows, design) <= SAME * spread) & changes).nonzero()[:, 0].tolist():
                if len(torch.unique(_rounded(rows[:, column]))) >= LEVELS:
                    yield column, "made of the components and the direction of"


def _left(rows: Tensor, design: Tensor) -> Tensor:
    """The largest residue of each column."""
    left: Tensor = (rows - design @ torch.linalg.lstsq(design, rows, driver="gelsd").solution).abs().amax(0)
    return left


def _products(arrows: Tensor) -> Tensor:
    """The traceless products of components, ``(M, 5)``."""
    x, y, z = arrows.unbind(1)
    return torch.stack([x * y, y * z, x * z, x * x - y * y, 3 * z * z - arrows.square().sum(1)], 1)


def _is_solid(arrows: Tensor) -> bool:
    """Whether arrows spread in all three directions."""
    sizes = torch.linalg.svdvals(arrows - arrows.mean(0))
    return float(sizes[-1]) > FLAT * float(sizes[0])
