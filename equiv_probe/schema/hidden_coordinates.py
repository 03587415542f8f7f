"""Coordinates in tensors that nobody called so: columns that are positions, arrows between them, or made of them.

What a network is given beside its positions, PyG's ``edge_attr`` after ``T.Cartesian`` or ``x = cat([pos, z])``, must
rotate with them, or the network is shown two orientations at once and looks invariant. Values tell: a window of three
columns that is parallel to the positions (about the origin or their centroid), to their differences along edges, or to
another array of vectors, row by row, is no accident in more than a few rows.

>>> import torch
>>> pos = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
>>> print(Evidence({"pos": pos}, {"pos": point}).of("x", torch.cat([torch.ones(9, 1), pos], 1)).representation)
concat(1, ep.point)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from equiv_probe.representations.representation import CartesianTensor, Fixed, concat, irreps, point, scalar, vector
from equiv_probe.schema.usual_names import CELLS, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation

ROWS = 2048
"""Rows that are compared, at most."""
FEWEST = 4
"""Rows that must agree: by chance none does."""
SAME = 1e-4
"""Sine of the angle up to which two arrows are parallel, and relative difference up to which numbers are the same."""
WIDEST = 512
"""Columns that are searched, at most."""
_INDICES = {"batch", "idx_m", "batch_idx", "batch_index", "graph_index"}
_EDGES = {"edge_index", "edge_idx", "edges", "edge_list", "pairs", "neighbors"}


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
class _Reference:
    """Arrows or places of rows, ``(M, 3)``, that other tensors are compared with."""

    name: str
    rows: Tensor
    what: str
    is_place: bool
    tolerance: Tensor
    """Of each arrow, as a sine: what rounding of the coordinates makes of its direction."""
    is_periodic: bool = False
    """Whether some arrows may lead to another image of the cell, so that the rows that agree are not all."""

    def enough(self, agree: Tensor) -> Tensor:
        """Whether so many rows agree, of ``(M, ...)``, along the first axis."""
        if not self.is_periodic:
            return agree.all(0)
        return agree.sum(0) >= max(FEWEST, len(agree) / 10)


class Evidence:
    """What the values of known coordinates say about other tensors.

    Args:
        values: everything that was given, by name.
        known: the representations that are known, of some of them.
    """

    def __init__(self, values: Mapping[str, Any], known: Mapping[str, Representation]) -> None:
        self._values, self._known = values, known
        self._by_rows: dict[tuple[int, ...], list[_Reference]] | None = None

    def of(self, name: str, value: Tensor) -> Hidden | None:
        """The coordinates in a tensor ``(..., W)``; None where there are none, or where values cannot be read."""
        if not readable(value) or value.ndim < 2 or not 1 <= value.shape[-1] <= WIDEST:
            return None
        if self._by_rows is None:
            self._by_rows = {}
            for lead, reference in self._references():
                self._by_rows.setdefault(lead, []).append(reference)
        rows = _rows(value)
        if not bool(torch.isfinite(rows).all()):
            return None
        references = [one for one in self._by_rows.get(tuple(value.shape[:-1]), []) if one.name != name]
        for reference in references:
            if found := _windows(rows, reference):
                return self._whole(rows, found, [reference, *references])
        return next((one for one in (_single(rows, each) for each in references) if one), None) or _alone(rows)

    def _whole(self, rows: Tensor, first: Hidden, references: list[_Reference]) -> Hidden:
        """All windows of a tensor, as one representation; one that has none is the answer."""
        parts: list[tuple[int, Representation]] = [(first.columns[0], scalar)] if first.columns[0] else []
        what: list[str] = []
        start, end, hit = first.columns[0], first.columns[1], first
        while start < rows.shape[1]:
            if start != first.columns[0]:
                hits = (_window(rows[:, start : start + 3], one, start) for one in references)
                hit = next((one for one in hits if one is not None), None) if start + 3 <= rows.shape[1] else None  # type: ignore[assignment]
            if hit is None:
                parts.append((1, scalar))
                start += 1
                continue
            if hit.representation is None:
                return hit
            degree = _harmonics(rows, start)
            kinds = "+".join(f"1x{one}{'eo'[one % 2]}" for one in range(1, degree + 1))
            parts.append((1, irreps(kinds) if degree > 1 else hit.representation))
            what.append(f"spherical harmonics of {hit.what}" if degree > 1 else hit.what)
            start = end = start + ((degree + 1) ** 2 - 1 if degree > 1 else 3)
        joined = _merged(parts)
        whole = joined[0][1] if len(joined) == 1 and joined[0][0] == 1 else concat(*joined)
        return Hidden((first.columns[0], end), ", then ".join(dict.fromkeys(what)), whole)

    def _references(self) -> Iterator[tuple[tuple[int, ...], _Reference]]:
        """Places, vectors, and the differences of places along edges and in all pairs; with their leading shapes."""
        places: dict[str, Tensor] = {}
        for name, rep in self._known.items():
            value = self._values.get(name)
            if not readable(value) or rep.is_whole or isinstance(rep, Fixed) or value.ndim < 2:
                continue
            if rep.is_affine:
                places[name] = own = rep.places(value).detach().cpu().double()
                yield tuple(own.shape[:-1]), _Reference(name, _rows(own), repr(name), True, _exact(own))
                centred = self._centred(own)
                what, bound = f"{name!r} about its centroid", _rounding(centred, own, value.dtype)
                yield tuple(own.shape[:-1]), _Reference(name, _rows(centred), what, False, bound)
            elif isinstance(rep, CartesianTensor) and rep.rank == 1 and value.shape[-2:] != (3, 3):
                yield tuple(value.shape[:-1]), _Reference(name, _rows(value), repr(name), False, _exact(value))
        for edges, first, second, index in self._edges(places):
            arrows = places[second][index[1]] - places[first][index[0]]
            what = f"the differences of {first!r} along {edges!r}"
            bound = _rounding(arrows, places[first], self._values[first].dtype)
            yield (len(arrows),), _Reference("", _rows(arrows), what, False, bound, self._is_periodic())
        for name, value in places.items():
            if value.ndim in {2, 3} and value.shape[-2] <= 256:
                pairs = value[..., :, None, :] - value[..., None, :, :]
                what, bound = f"the differences of {name!r} in pairs", _rounding(pairs, value, self._values[name].dtype)
                yield tuple(pairs.shape[:-1]), _Reference("", _rows(pairs), what, False, bound)

    def _is_periodic(self) -> bool:
        """Whether there is a cell, or shifts of edges."""
        return any(
            plain(name) in CELLS or "shift" in name or "offset" in name or "image" in name for name in self._values
        )

    def _centred(self, places: Tensor) -> Tensor:
        """Places about the centroid of their structure: of a batch index, of each entry of a dense batch, or of all."""
        index = next((v for n, v in self._values.items() if _is_index(n, v) and v.shape == places.shape[:-1]), None)
        if index is None or places.ndim != 2:
            return places - places.mean(-2, keepdim=True)
        own = index.detach().cpu().long()
        sums = places.new_zeros(int(own.max()) + 1, 3).index_add_(0, own, places)
        return places - (sums / torch.bincount(own).clamp_min(1)[:, None])[own]

    def _edges(self, places: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str, Tensor]]:
        """Edges ``(2, E)`` with the places at their ends, as far as the numbers fit."""
        flat = {name: value for name, value in places.items() if value.ndim == 2}
        pairs = [(name, value) for name, value in self._values.items() if _is_edges(name, value)]
        senders, receivers = (self._column(key) for key in ("idx_i", "idx_j"))
        if senders is not None and receivers is not None and senders[1].shape == receivers[1].shape:
            pairs.append((senders[0], torch.stack([senders[1], receivers[1]])))
        for name, value in pairs:
            index = value.detach().cpu().long()
            if not index.numel():
                continue
            ends = index.amax(1).tolist()
            for first, second in itertools.product(flat, flat):
                if ends[0] < len(flat[first]) and ends[1] < len(flat[second]) and _joins(name, first, second):
                    yield name, first, second, index

    def _column(self, key: str) -> tuple[str, Tensor] | None:
        """An index ``(E,)`` of that name."""
        found = ((n, v) for n, v in self._values.items() if plain(n) == key and isinstance(v, torch.Tensor))
        return next(((n, v) for n, v in found if v.ndim == 1 and not v.is_floating_point()), None)


def _is_index(name: str, value: Any) -> bool:
    is_whole_numbers = isinstance(value, torch.Tensor) and not value.is_floating_point() and value.device.type != "meta"
    return is_whole_numbers and value.ndim == 1 and value.numel() > 0 and plain(name) in _INDICES


def _is_edges(name: str, value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.device.type != "meta"
        and not value.is_floating_point()
        and value.ndim == 2
        and len(value) == 2
        and plain(name) in _EDGES
    )


def _joins(edges: str, first: str, second: str) -> bool:
    """Whether edges are between these kinds of nodes: of a heterogeneous graph, ``a__near__b`` joins ``a`` to ``b``."""
    kinds = edges.rpartition(".")[0].split("__")
    if len(kinds) < 3:
        return first == second
    return (first.rpartition(".")[0], second.rpartition(".")[0]) == (kinds[0], kinds[-1])


def readable(value: Any) -> TypeGuard[Tensor]:
    """Whether a tensor's numbers are there to be read: floating, of a real device, outside of function transforms."""
    return (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type != "meta"
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and type(value).__name__ != "FakeTensor"
    )


def _rows(value: Tensor) -> Tensor:
    """Some rows, ``(M, W)``, evenly taken; on the CPU in float64."""
    flat = value.detach().reshape(-1, value.shape[-1])
    return flat[:: 1 + (len(flat) - 1) // ROWS].cpu().double()


def _exact(value: Tensor) -> Tensor:
    return _rows(value).new_full((len(_rows(value)),), SAME)


def _rounding(arrows: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding of the places makes of the direction of their differences, as a sine, ``(M,)``."""
    size = float(places.abs().max()) if places.numel() else 0.0
    bound: Tensor = SAME + 8 * torch.finfo(dtype).eps * size / _rows(arrows).norm(dim=1).clamp_min(1e-300)
    return bound


def _windows(rows: Tensor, reference: _Reference) -> Hidden | None:
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
    found = (_window(windows[:, start], reference, start) for start in likely.nonzero()[:, 0].tolist())
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


def _window(columns: Tensor, reference: _Reference, start: int) -> Hidden | None:
    """What three columns are of a reference: itself, parallel to it, or linear in it in a way that does not rotate."""
    arrows = reference.rows
    if len(columns) != len(arrows) or not bool(torch.isfinite(arrows).all()):
        return None
    held = columns.abs().amax(1) > 0  # rows of nothing but zeros are padding
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


def _moved(columns: Tensor, reference: _Reference, held: Tensor, place: tuple[int, int]) -> Hidden | None:
    """Arrows, scaled row by row, about a place other than zero: with PyG's ``norm=True`` about (½, ½, ½)."""
    arrows = reference.rows[held]
    origin = _origins(columns[:, None], arrows)
    if reference.is_place or not _parallel(columns - origin, arrows, reference.tolerance[held], reference):
        return None
    what = f"{reference.what}, scaled row by row and moved by {tuple(round(b, 3) for b in origin[0].tolist())}"
    return Hidden(place, what, None, "rotating them is not what the rotated structure would give")


def _parallel(columns: Tensor, arrows: Tensor, tolerance: Tensor, reference: _Reference) -> bool:
    """Whether the rows are positive multiples of their arrows, or negative ones."""
    sizes = columns.norm(dim=1) * arrows.norm(dim=1)
    some = sizes > 0
    if int(some.sum()) < FEWEST:
        return False
    sine = torch.linalg.cross(columns, arrows).norm(dim=1)[some] / sizes[some]
    along = (columns * arrows).sum(1)[some]
    is_parallel = sine <= tolerance[some]
    return bool(reference.enough(is_parallel & (along > 0)) | reference.enough(is_parallel & (along < 0)))


def _linear(columns: Tensor, arrows: Tensor, reference: _Reference, place: tuple[int, int]) -> Hidden | None:
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


def _single(rows: Tensor, reference: _Reference) -> Hidden | None:
    """Single columns that are a component of the reference, or one of its polar angles, however scaled."""
    arrows = reference.rows
    if len(rows) != len(arrows) or len(rows) < 2 * FEWEST or not bool(torch.isfinite(arrows).all()):
        return None
    x, y, z = arrows.unbind(1)
    angle = torch.atan2(y, x)
    features = {
        "the polar angle of": torch.arccos((z / arrows.norm(dim=1).clamp_min(1e-300)).clamp(-1, 1)),
        "the azimuth of": angle,
        "the azimuth (from 0 to 2π) of": torch.where(angle < 0, angle + 2 * torch.pi, angle),
        "the x of": x,
        "the y of": y,
        "the z of": z,
    }
    wanted = torch.stack([_standard(one) for one in features.values()])
    given = torch.stack([_standard(one) for one in rows.unbind(1)])
    alike = (wanted @ given.T).abs() / len(rows)
    hits = (alike > 1 - SAME**2 * 10).nonzero()
    if not len(hits):
        return None
    feature, column = hits[0].tolist()
    what = f"{list(features)[feature]} {reference.what}"
    return Hidden((column, column + 1), what, None, "no rotation of the columns gives those of the rotated structure")


def _standard(values: Tensor) -> Tensor:
    """Mean zero and unit variance; zeros for a constant."""
    centred = values - values.mean()
    size = centred.square().mean().sqrt()
    return centred / size if float(size) > 1e-9 * float(values.abs().max()) else torch.zeros_like(values)


def _alone(rows: Tensor) -> Hidden | None:
    """What a tensor says by itself: a distance beside the three components it belongs to, or spherical harmonics."""
    width = rows.shape[1]
    if width < 4 or len(rows) < FEWEST or bool(((rows == 0) | (rows == 1)).all()):
        return None
    degree = _harmonics(rows, 1)
    is_constant = float(rows[:, 0].std()) <= SAME * float(rows[:, 0].abs().max())
    if is_constant and ((degree == 1 and width == 4) or degree > 1):
        kinds = "+".join(f"1x{one}{'eo'[one % 2]}" for one in range(degree + 1))
        after = (degree + 1) ** 2
        whole = irreps(kinds) if width == after else concat(irreps(kinds), width - after)
        return Hidden((0, after), f"like spherical harmonics up to degree {degree}, in e3nn's basis", whole)
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


def _harmonics(rows: Tensor, start: int) -> int:
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


def _merged(parts: list[tuple[int, Representation]]) -> list[tuple[int, Representation]]:
    """Neighbours of a kind as one part."""
    found: list[tuple[int, Representation]] = []
    for count, rep in parts:
        if found and found[-1][1] == rep:
            found[-1] = (found[-1][0] + count, rep)
        else:
            found.append((count, rep))
    return found
