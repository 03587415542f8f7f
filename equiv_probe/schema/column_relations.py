"""What three columns of a tensor are of known arrows or places: the same, parallel, or linear.

Rows are compared with rows, ``(M, W)`` with ``(M, 3)``, all in float64 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.representations.representation import concat, irreps, point, scalar, vector

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

FEWEST = 4
"""Rows that must agree: by chance none does."""
SAME = 1e-4
"""Sine of the angle up to which two arrows are parallel, and relative difference up to which numbers are the same."""


@dataclass(frozen=True)
class Hidden:
    """Coordinates that were found in a tensor.

    Attributes:
        columns: the first and the one after the last.
        what: what they are, in words.
        representation: how the whole tensor rotates; None where no rotation of its columns is the rotated structure's.
        why_not: why there is none.
        rotation: the orthogonal matrix, row by row, by which they are rotated otherwise; empty for none.
    """

    columns: tuple[int, int]
    what: str
    representation: Representation | None = None
    why_not: str = ""
    rotation: tuple[float, ...] = ()

    def __str__(self) -> str:
        first, after = self.columns
        where = f"its column {first} is" if after == first + 1 else f"its columns {first} to {after - 1} are"
        return f"{where} {self.what}"


@dataclass(frozen=True)
class Reference:
    """Arrows or places of rows, ``(M, 3)``, that other tensors are compared with."""

    name: str
    rows: Tensor
    what: str
    is_place: bool
    tolerance: Tensor
    """How far rounding of the coordinates may rotate each arrow, as a sine."""
    is_periodic: bool = False
    """Whether some arrows may lead to another image of the cell, so that the rows that agree are not all."""
    owner: Tensor | None = None
    """The structure of each row, ``(M,)``; None where all are of one."""

    def owners(self) -> tuple[Tensor, Tensor]:
        """The structure of each row, ``(M,)``, counted from 0, and how many rows each has."""
        if self.owner is None:
            return torch.zeros(len(self.rows), dtype=torch.long), torch.tensor([float(len(self.rows))]).double()
        _, owner, counts = torch.unique(self.owner, return_inverse=True, return_counts=True)
        return owner, counts.double()

    def enough(self, agree: Tensor) -> Tensor:
        """Whether so many rows agree, of ``(M, ...)``, along the first axis."""
        if not self.is_periodic:
            return agree.all(0)
        return agree.sum(0) >= max(FEWEST, len(agree) / 10)


def first_window(rows: Tensor, reference: Reference) -> Hidden | None:
    """The first window of three columns that is the reference's, in some form."""
    arrows = reference.rows
    if rows.shape[1] < 3 or len(rows) != len(arrows) or not bool(torch.isfinite(arrows).all()):
        return None
    windows = rows.unfold(1, 3, 1)  # all at once, (M, W − 2, 3), since a tensor may be wide
    likely = torch.zeros(windows.shape[1], dtype=torch.bool)
    for origin in (torch.zeros_like(windows[0]), _origins(windows, arrows)):
        about = windows - origin
        size = about.norm(dim=2) * arrows.norm(dim=1)[:, None]
        off = torch.linalg.cross(about, arrows[:, None].expand_as(about)).norm(dim=2)
        likely = likely | reference.enough(off <= 2 * reference.tolerance[:, None] * size + SAME * SAME)
    if len(rows) >= 2 * FEWEST:
        design = torch.cat([arrows, torch.ones_like(arrows[:, :1])], 1)
        left = (design @ torch.linalg.lstsq(design, rows, driver="gelsd").solution - rows).abs().amax(0)
        linear = left <= SAME * (rows - rows.mean(0)).abs().amax(0)
        likely = likely | linear.unfold(0, 3, 1).all(1)
    found = (window(windows[:, start], reference, start) for start in likely.nonzero()[:, 0].tolist())
    return next((one for one in found if one is not None), None)


def _origins(windows: Tensor, arrows: Tensor) -> Tensor:
    """The b of each window for which ``T − b`` is most nearly parallel to the arrows, ``(M, W, 3) -> (W, 3)``.

    ``(T − b) × d = 0`` is linear in b: least squares over the rows, with the same matrix for all windows.
    """
    crossed = torch.linalg.cross(torch.eye(3).double()[:, None], arrows[None].expand(3, -1, -1))  # e_a × d, (3, M, 3)
    wanted = torch.linalg.cross(windows, arrows[:, None].expand_as(windows))
    matrix = torch.einsum("ami,bmi->ab", crossed, crossed)
    right = torch.einsum("ami,mwi->aw", crossed, wanted)
    found: Tensor = torch.linalg.lstsq(matrix, right, driver="gelsd").solution.T
    return found


def window(columns: Tensor, reference: Reference, start: int) -> Hidden | None:
    """What three columns are of a reference: itself, parallel to it, or linear in it in a way that does not rotate."""
    arrows = reference.rows
    if len(columns) != len(arrows) or not bool(torch.isfinite(arrows).all()):
        return None
    # Rows of nothing but zeros are padding; an arrow of none is like anything that is small.
    held = (columns.abs().amax(1) > 0) & ((arrows.abs().amax(1) > 0) | reference.is_place)
    if int(held.sum()) < FEWEST or torch.linalg.matrix_rank(arrows[held], rtol=1e-6) < 2:
        return None
    columns, arrows, tolerance = columns[held], arrows[held], reference.tolerance[held]
    place, scale = (start, start + 3), float(arrows.abs().max())
    bound = SAME * scale + tolerance * arrows.norm(dim=1)
    if bool(reference.enough((columns - arrows).abs().amax(1) <= bound)):
        return Hidden(place, reference.what, point if reference.is_place else vector)
    if not _parallel(columns, arrows, tolerance, reference):
        return _moved(columns, reference, held, place) or _linear(columns, arrows, reference, place)
    kind = "unit vectors along" if float(columns.norm(dim=1).std()) < SAME else "parallel to"
    if reference.is_place and float(arrows.mean(0).norm()) > SAME * scale:
        return Hidden(place, f"{kind} {reference.what}", None, "places and their multiples have not one centre")
    return Hidden(place, f"{kind} {reference.what}", vector)


def _moved(columns: Tensor, reference: Reference, held: Tensor, place: tuple[int, int]) -> Hidden | None:
    """Arrows, scaled row by row, about a place other than zero: with PyG's ``norm=True`` about (½, ½, ½)."""
    arrows = reference.rows[held]
    origin = _origins(columns[:, None], arrows)
    if reference.is_place or not _parallel(columns - origin, arrows, reference.tolerance[held], reference):
        return None
    what = f"{reference.what}, scaled row by row and moved by {tuple(round(b, 3) for b in origin[0].tolist())}"
    return Hidden(place, what, None, "rotating them is not what the rotated structure would give")


def _parallel(columns: Tensor, arrows: Tensor, tolerance: Tensor, reference: Reference) -> bool:
    """Whether the rows are positive multiples of their arrows, or negative ones."""
    sizes = columns.norm(dim=1) * arrows.norm(dim=1)
    some = sizes > 0
    if int(some.sum()) < FEWEST:
        return False
    sine = torch.linalg.cross(columns, arrows).norm(dim=1)[some] / sizes[some]
    along = (columns * arrows).sum(1)[some]
    is_parallel = sine <= tolerance[some]
    return bool(reference.enough(is_parallel & (along > 0)) | reference.enough(is_parallel & (along < 0)))


def _linear(columns: Tensor, arrows: Tensor, reference: Reference, place: tuple[int, int]) -> Hidden | None:
    """Columns that are ``A x + b`` of the reference: moved (a point), or scaled, stretched and mixed (nothing)."""
    design = torch.cat([arrows, torch.ones_like(arrows[:, :1])], 1)
    if len(design) < 2 * FEWEST or torch.linalg.matrix_rank(design, rtol=1e-6) < 4:
        return None
    solution = torch.linalg.lstsq(design, columns).solution
    left = (design @ solution - columns).abs().amax(0)
    spread = (columns - columns.mean(0)).abs().amax(0)
    if not bool(((left <= SAME * spread) & (spread > 0)).all()):
        return None
    linear = solution[:3].T
    size = float(linear.diagonal().mean())
    isotropic = float((linear - size * torch.eye(3).double()).abs().max()) <= 10 * SAME * abs(size)
    if isotropic and reference.is_place and abs(size - 1) <= 10 * SAME:
        return Hidden(place, f"{reference.what}, moved", point)
    gram = linear @ linear.T
    is_rotation = float((gram - gram.diagonal().mean() * torch.eye(3).double()).abs().max()) <= 1e-3 * float(gram.max())
    mixed = "rotated by another rotation" if is_rotation else "stretched or mixed, axis by axis"
    how = f"{reference.what}, {'scaled and moved' if isotropic else mixed}"
    why = "rotating them is not what the rotated structure would give"
    rotation = tuple((linear / gram.diagonal().mean().sqrt()).flatten().tolist()) if is_rotation else ()
    return Hidden(place, how, None, why, rotation)


def harmonics_alone(rows: Tensor) -> Hidden | None:
    """Columns that are spherical harmonics from degree zero on, whatever the arrows are; None where they are none."""
    width = rows.shape[1]
    if (
        width < 4
        or len(torch.unique(rows.round(decimals=6), dim=0)) < FEWEST
        or bool(((rows == 0) | (rows == 1)).all())
    ):
        return None
    degree = harmonics(rows, 1)
    is_constant = float(rows[:, 0].std()) <= SAME * float(rows[:, 0].abs().max())
    if not (is_constant and ((degree == 1 and width == 4) or degree > 1)):
        return None
    kinds = "+".join(f"1x{one}{'eo'[one % 2]}" for one in range(degree + 1))
    after = (degree + 1) ** 2
    whole = irreps(kinds) if width == after else concat(irreps(kinds), width - after)
    return Hidden((0, after), f"like spherical harmonics up to degree {degree}, in e3nn's basis", whole)


def beside_its_length(rows: Tensor) -> Hidden | None:
    """Three columns beside one that is their length."""
    width = rows.shape[1]
    if width < 4 or len(rows) < FEWEST or bool(((rows == 0) | (rows == 1)).all()):
        return None
    for start in range(width - 2):
        norm = rows[:, start : start + 3].norm(dim=1)
        for column in (start - 1, start + 3):
            if not 0 <= column < width or float(norm.std()) <= SAME * float(norm.max()):
                continue
            if float((rows[:, column] - norm).abs().max()) <= SAME * float(norm.max()):
                parts = [(start, scalar), (1, vector), (width - start - 3, scalar)]
                whole = concat(*[one for one in parts if one[0]])
                return Hidden((start, start + 3), f"an arrow whose length is column {column}", whole)
    return None


def harmonics(rows: Tensor, start: int) -> int:
    """The degree up to which the columns from ``start`` on are spherical harmonics of the first three, in e3nn's basis.

    Whatever their normalisation: 1 for unit vectors followed by something else, 0 for what are no unit vectors.
    """
    arrows = rows[:, start : start + 3]
    length = arrows.norm(dim=1)
    if arrows.shape[1] < 3 or float(length.std()) > SAME * float(length.max()) or float(arrows.std(0).max()) == 0.0:
        return 0
    degree, start = 1, start + 3
    try:
        from e3nn import o3
    except ImportError:
        return degree
    while start + 2 * degree + 3 <= rows.shape[1]:
        block = rows[:, start : start + 2 * degree + 3]
        wanted = o3.spherical_harmonics(degree + 1, arrows, normalize=True, normalization="norm")
        scale = float((block * wanted).sum() / wanted.square().sum())
        if not abs(scale) > 0 or float((block - scale * wanted).abs().max()) > 10 * SAME * abs(scale):
            break
        degree, start = degree + 1, start + 2 * degree + 3
    return degree
