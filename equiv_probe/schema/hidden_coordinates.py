"""Coordinates in tensors that nobody called so: columns that are positions, arrows between them, or made of them.

What a network is given beside its positions, PyG's ``edge_attr`` after ``T.Cartesian`` or ``x = cat([pos, z])``, must
rotate with them, or the network is shown two orientations at once and looks invariant. Values tell: a window of three
columns that is parallel to the positions (about the origin or their centroid), to their differences along edges, or to
another array of vectors, row by row, is no accident in more than a few rows.

>>> import torch, equiv_probe as ep
>>> pos = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
>>> print(Evidence({"pos": pos}, {"pos": ep.point}).of("x", torch.cat([torch.ones(9, 1), pos], 1)).representation)
concat(1, ep.point)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from equiv_probe.representations.representation import CartesianTensor, Fixed, concat, irreps, scalar
from equiv_probe.schema.column_relations import (
    SAME,
    Hidden,
    Reference,
    beside_its_length,
    first_window,
    harmonics,
    harmonics_alone,
    window,
)
from equiv_probe.schema.single_columns import single_column
from equiv_probe.schema.usual_names import BATCH_INDICES, CELLS, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation

ROWS = 2048
"""Rows that are compared, at most."""
WIDEST = 512
"""Columns that are searched, at most."""
_EDGES = {"edge_index", "edge_idx", "edges", "edge_list", "pairs", "neighbors"}


class Evidence:
    """What the values of known coordinates say about other tensors.

    Args:
        values: everything that was given, by name.
        known: the representations that are known, of some of them.
    """

    def __init__(self, values: Mapping[str, Any], known: Mapping[str, Representation]) -> None:
        self._values, self._known = values, known
        self._by_rows: dict[tuple[int, ...], list[Reference]] | None = None

    def of(self, name: str, value: Tensor, *, alone: bool = True) -> Hidden | None:
        """The coordinates in a tensor ``(..., W)``; None where there are none, or where values cannot be read.

        ``alone``: also those that the tensor tells by itself, as arrows beside their lengths do.
        """
        if counts := _are_whole(value):
            value = value.double()
        if not readable(value) or value.ndim < 2 or not 1 <= value.shape[-1] <= WIDEST:
            return None
        if self._by_rows is None:
            self._by_rows = {}
            for lead, reference in self._references():
                self._by_rows.setdefault(lead, []).append(reference)
        rows = _rows(value)
        if not bool(torch.isfinite(rows).all()):
            return None
        if laid_out := self._laid_out(name, value):
            return laid_out
        references = [
            one
            for one in self._by_rows.get(tuple(value.shape[:-1]), [])
            # Whole numbers of cells make shifts, and are no coordinates: only those of places are.
            if one.name != name and not (counts and not self._is_place(one.name))
        ]
        for reference in references:
            if found := first_window(rows, reference):
                return self._whole(rows, found, [reference, *references])
        single = (single_column(rows, each) for each in references)
        if not alone:
            return next(filter(None, single), None)
        return harmonics_alone(rows) or next(filter(None, single), None) or beside_its_length(rows)

    def _laid_out(self, name: str, value: Tensor) -> Hidden | None:
        """Coordinates that do not lie along the last axis: all atoms one after the other, or components first."""
        assert self._by_rows is not None
        shape = tuple(value.shape)
        if shape in self._by_rows and shape[-1] == 3:
            return None
        for lead, references in self._by_rows.items():
            views = []
            if lead == (*shape[:-2], shape[-1]):
                views.append((value.mT, "components before atoms, (..., 3, N)"))
            if shape == (*lead[:-1], 3 * lead[-1]):
                views.append((value.reshape(*lead, 3), "flat, (..., N · 3)"))
                views.append((value.reshape(*lead[:-1], 3, lead[-1]).mT, "flat, (..., 3 · N)"))
            for view, how in views:
                for reference in references:
                    if reference.name != name and (found := first_window(_rows(view), reference)):
                        why = "components that do not lie along the last axis cannot be rotated"
                        return Hidden((0, shape[-1]), f"{found.what}, {how}", None, why)
        return None

    def _whole(self, rows: Tensor, first: Hidden, references: list[Reference]) -> Hidden:
        """All windows of a tensor, as one representation; one that has none is returned."""
        parts: list[tuple[int, Representation]] = [(first.columns[0], scalar)] if first.columns[0] else []
        what: list[str] = []
        start, end, hit = first.columns[0], first.columns[1], first
        while start < rows.shape[1]:
            if start != first.columns[0]:
                hits = (window(rows[:, start : start + 3], one, start) for one in references)
                hit = next((one for one in hits if one is not None), None) if start + 3 <= rows.shape[1] else None  # type: ignore[assignment]
            if hit is None:
                parts.append((1, scalar))
                start += 1
                continue
            if hit.representation is None:
                return hit
            degree = harmonics(rows, start)
            kinds = "+".join(f"1x{one}{'eo'[one % 2]}" for one in range(1, degree + 1))
            parts.append((1, irreps(kinds) if degree > 1 else hit.representation))
            what.append(f"spherical harmonics of {hit.what}" if degree > 1 else hit.what)
            start = end = start + ((degree + 1) ** 2 - 1 if degree > 1 else 3)
        joined = _merged(parts)
        whole = joined[0][1] if len(joined) == 1 and joined[0][0] == 1 else concat(*joined)
        return Hidden((first.columns[0], end), ", then ".join(dict.fromkeys(what)), whole)

    def _references(self) -> Iterator[tuple[tuple[int, ...], Reference]]:
        """Places, vectors, and the differences of places along edges and in all pairs; with their leading shapes."""
        places: dict[str, Tensor] = {}
        for name, rep in self._known.items():
            value = self._values.get(name)
            if not readable(value) or rep.is_whole or isinstance(rep, Fixed) or value.ndim < 2:
                continue
            if rep.is_affine:
                places[name] = own = rep.places(value).detach().cpu().double()
                owner = _some(self._owner(own))
                yield tuple(own.shape[:-1]), Reference(name, _rows(own), repr(name), True, _exact(own), owner=owner)
                centred = self._centred(own)
                what, bound = f"{name!r} about its centroid", _rounding(centred, own, value.dtype)
                yield tuple(own.shape[:-1]), Reference(name, _rows(centred), what, False, bound, owner=owner)
            elif isinstance(rep, CartesianTensor) and rep.rank == 1 and value.shape[-2:] != (3, 3):
                yield tuple(value.shape[:-1]), Reference(name, _rows(value), repr(name), False, _exact(value))
        for edges, first, second, index in self._edges(places):
            arrows = places[second][index[1]] - places[first][index[0]]
            what = f"the differences of {first!r} along {edges!r}"
            bound = _rounding(arrows, places[first], self._values[first].dtype)
            owner = _some(self._owner(places[first])[index[0]])
            yield (len(arrows),), Reference("", _rows(arrows), what, False, bound, self._is_periodic(), owner)
        for name, value in places.items():
            if value.ndim in {2, 3} and value.shape[-2] <= 256:
                pairs = value[..., :, None, :] - value[..., None, :, :]
                what, bound = f"the differences of {name!r} in pairs", _rounding(pairs, value, self._values[name].dtype)
                yield tuple(pairs.shape[:-1]), Reference("", _rows(pairs), what, False, bound)

    def _is_place(self, name: str) -> bool:
        return name in self._known and self._known[name].is_affine

    def _is_periodic(self) -> bool:
        """Whether there is a cell, or shifts of edges."""
        return any(
            plain(name) in CELLS or "shift" in name or "offset" in name or "image" in name for name in self._values
        )

    def _owner(self, places: Tensor) -> Tensor:
        """The structure of each place: by a batch index, by entries of a dense batch, or one and the same."""
        index = next((v for n, v in self._values.items() if _is_index(n, v) and v.shape == places.shape[:-1]), None)
        if index is not None and places.ndim == 2:
            owner: Tensor = index.detach().cpu().long()
            return owner
        count = places.shape[0] if places.ndim > 2 else 1
        return torch.arange(count).repeat_interleave(places[..., 0].numel() // max(count, 1))

    def _centred(self, places: Tensor) -> Tensor:
        """Places about the centroid of their structure."""
        if places.ndim != 2:
            return places - places.mean(-2, keepdim=True)
        own = self._owner(places)
        sums = places.new_zeros(int(own.max()) + 1, 3).index_add_(0, own, places)
        centred: Tensor = places - (sums / torch.bincount(own).clamp_min(1)[:, None])[own]
        return centred

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
    return is_whole_numbers and value.ndim == 1 and value.numel() > 0 and plain(name) in BATCH_INDICES


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


def _are_whole(value: Any) -> bool:
    """Whether a tensor holds whole numbers along three axes, perhaps after an index, as the voxels of points are."""
    kinds = {torch.int16, torch.int32, torch.int64}
    is_read = isinstance(value, torch.Tensor) and value.dtype in kinds and value.device.type != "meta"
    return is_read and value.ndim > 1 and value.shape[-1] in {3, 4}


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
    return _some(value.detach().reshape(-1, value.shape[-1])).cpu().double()


def _some(flat: Tensor) -> Tensor:
    """Entries of the first axis, evenly taken."""
    some: Tensor = flat[:: 1 + (len(flat) - 1) // ROWS]
    return some


def _exact(value: Tensor) -> Tensor:
    return _rows(value).new_full((len(_rows(value)),), SAME)


def _rounding(arrows: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding of the places makes of the direction of their differences, as a sine, ``(M,)``."""
    size = float(places.abs().max()) if places.numel() else 0.0
    bound: Tensor = SAME + 8 * torch.finfo(dtype).eps * size / _rows(arrows).norm(dim=1).clamp_min(1e-300)
    return bound


def _merged(parts: list[tuple[int, Representation]]) -> list[tuple[int, Representation]]:
    """Neighbours of a kind as one part."""
    found: list[tuple[int, Representation]] = []
    for count, rep in parts:
        if found and found[-1][1] == rep:
            found[-1] = (found[-1][0] + count, rep)
        else:
            found.append((count, rep))
    return found
