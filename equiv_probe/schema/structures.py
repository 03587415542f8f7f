"""Which rotation belongs to which entry of a batch, and about which centre: one rotation for each structure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.representation import CartesianTensor, Fixed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema

_INDEX_NAMES = {"batch", "idx_m", "batch_idx", "batch_index", "graph_index"}
_MASK_NAMES = {"mask", "node_mask", "atom_mask", "atom37_mask", "atom14_mask", "res_mask", "residue_mask"}
_EDGE_NAMES = {"edge_index", "edge_idx"}
_SENDER_NAMES = {"idx_i"}


def resolve_batch(schema: Schema, inputs: Mapping[str, Any]) -> Schema:
    """The schema with the batch index and the mask that the inputs' names show, where it does not declare them."""
    shown = primary(schema, inputs)
    value = inputs[shown]
    atoms = value.shape[: value.ndim - len(schema.inputs[shown].event_shape)]
    if schema.inputs[shown].is_whole:
        return schema
    for name, other in inputs.items():
        if not isinstance(other, torch.Tensor) or other.is_floating_point():
            continue
        if schema.batch is None and len(atoms) == 1 and _plain(name) in _INDEX_NAMES and other.shape == atoms:
            schema = replace(schema, batch=name)
    if schema.mask is None and len(atoms) >= 2:
        masks = [(v.ndim, n) for n, v in inputs.items() if isinstance(v, torch.Tensor) and _is_mask(n, v, atoms)]
        if masks:  # the most detailed: of atoms rather than of residues
            schema = replace(schema, mask=max(masks, key=lambda found: found[0])[1])
    return schema


def _is_mask(name: str, value: Tensor, atoms: torch.Size) -> bool:
    """Whether an input says which of the atoms ``(B, N)`` or ``(B, N, A)`` are there, also as numbers 0 and 1."""
    return _plain(name) in _MASK_NAMES and value.ndim >= 2 and value.shape == atoms[: value.ndim]


def _plain(name: str) -> str:
    return name.rpartition(".")[2].lower().lstrip("_")


def primary(schema: Schema, inputs: Mapping[str, Any]) -> str:
    """The input that shows how the batch is laid out: the first point, else the first grid, else the first to rotate.

    Raises:
        EquivProbeError: there is none.
    """
    turning = [n for n, rep in schema.inputs.items() if rep.event_shape and isinstance(inputs.get(n), torch.Tensor)]
    if not turning:
        raise EquivProbeError(
            f"inputs {sorted(inputs)}, none of which rotates",
            f"one of {list(schema.inputs)}",
            "ep.Schema(inputs={...})",
        )
    by_rank = sorted(turning, key=lambda name: (not schema.inputs[name].is_affine, not schema.inputs[name].is_whole))
    return by_rank[0]


@dataclass(frozen=True)
class Structures:
    """The structures of one batch, found without waiting for the device.

    Attributes:
        layout: ``"one"`` structure ``(N, 3)``, a dense batch with structures ``"leading"`` ``(B, N, 3)`` (of grids
            ``(C, D, H, W)`` and ``(B, C, D, H, W)``), or an
            ``"index"`` of the structure of each node.
        count: how many rotations are needed, U; for an index an upper bound (the number of nodes), since the exact
            number would have to be fetched from the device.
        index: structure of each node, ``(N,)``.
        edges: structure of each edge, ``(E,)``.
        owners: structure of each entry of the first axis of inputs and outputs by name, where an adapter knows better.
        center: centre of rotation of each structure, ``(U, 3)`` or ``(3,)`` float64; None is the origin.
        mask: true where a dense batch holds an atom, ``(B, N)``, or ``(B, N, A)`` for A atoms in each residue.
    """

    layout: Literal["one", "leading", "index"]
    count: int
    index: Tensor | None = None
    edges: Tensor | None = None
    owners: Mapping[str, Tensor] = field(default_factory=dict)
    center: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Any], schema: Schema, center: str | Tensor = "centroid") -> Structures:
        """Look at the inputs of one call; ``center`` as for :func:`equiv_probe.twirl`."""
        name = primary(schema, inputs)
        value: Tensor = inputs[name].detach()
        mask = inputs[schema.mask].detach() if schema.mask else None
        if schema.batch is not None:
            index: Tensor = inputs[schema.batch].detach().long()
            found = cls("index", len(index), index=index, edges=_edges(inputs, index))
        elif (batch := _leading(inputs, schema, name)) is not None:
            found = cls("leading", batch, mask=mask)
        else:
            found = cls("one", 1)
        if center == "box" or not isinstance(center, str):
            about = box_center(schema, inputs) if isinstance(center, str) else center.detach()
            return replace(found, center=about.to(value.device))
        if not schema.inputs[name].is_affine:
            return found
        return replace(found, center=found._center(schema.inputs[name].places(value), center, schema))

    def _center(self, points: Tensor, center: str, schema: Schema) -> Tensor | None:
        if center == "origin":
            return None
        if center != "centroid":
            raise EquivProbeError(f"center={center!r}", '"centroid", "origin", "box" or a tensor')
        require_common_center(schema)
        points = points if points.device.type == "mps" else points.double()
        if self.layout == "one":
            return points.mean(-2)
        if self.layout == "leading":
            mask = self.mask
            if mask is None or mask.shape != points.shape[: mask.ndim] or mask.ndim == points.ndim:
                return points.flatten(1, -2).mean(1)
            held = mask.to(points).reshape(*mask.shape, *(1,) * (points.ndim - mask.ndim))
            held = held.expand(*points.shape[:-1], 1).flatten(1, -2)
            # Padding may hold anything, also NaN (atoms that a residue does not have).
            flat = torch.where(held != 0, points.flatten(1, -2), 0.0)
            return (flat * held).sum(1) / held.sum(1).clamp_min(1)
        assert self.index is not None
        return centroids(points, self.index, self.count)

    def owner(self, value: Tensor, name: str = "") -> Tensor | None:
        """Structure of each entry of the first axis of ``value``; None where that axis counts the structures."""
        if name in self.owners and len(self.owners[name]) == len(value):
            return self.owners[name]
        candidates = [self.index, self.edges, *self.owners.values()]
        if "edge" in name.lower():  # as many edges as nodes: a ring
            candidates[:2] = [self.edges, self.index]
        return next((one for one in candidates if one is not None and len(one) == len(value)), None)

    def spread(self, per_structure: Tensor, value: Tensor, name: str = "") -> Tensor:
        """Values of each structure, ``(U, *X)``, to each entry of the first axis of ``value``."""
        owner = self.owner(value, name)
        if owner is not None:
            return per_structure[owner]
        if len(value) > len(per_structure) or (self.layout == "leading" and len(value) != len(per_structure)):
            raise EquivProbeError(
                f"{name} of shape {tuple(value.shape)} in a batch of {len(per_structure)} structures",
                "a first axis of structures, nodes or edges",
                "declare it ep.fixed, or name the batch index: ep.Schema(..., batch=...)",
            )
        return per_structure[: len(value)]

    def _apply(self, name: str, rep: Representation, values: Tensor, rotations: Tensor, *, back: bool) -> Tensor:
        """Rotate copies ``(C, *S)`` of one tensor."""
        if isinstance(rep, Fixed) or rep == CartesianTensor(0) or not rep.moves(values):
            return values
        if rotations.ndim == 3:
            own = rotations
        elif self.layout == "one":
            own = rotations[:, 0]
        elif rep.is_whole:
            if self.layout == "leading" and values.shape[1] != self.count:
                raise EquivProbeError(
                    f"{name!r} of shape {tuple(values.shape[1:])} declared as ep.{rep}, in a batch of {self.count}",
                    "one grid for each structure, on the first axis",
                    "declare it ep.fixed, leave it out, or probe a module inside that answers so",
                )
            own = rotations[:, : values.shape[1]]
        else:
            own = self.spread(rotations.transpose(0, 1), values[0], name).transpose(0, 1)
        center = None
        if rep.is_affine and self.center is not None:
            center = self.center
            if center.ndim == 2 and self.layout != "one":
                center = self.spread(center, values[0], name)
                center = center.reshape(len(center), *(1,) * (values.ndim - 2 - len(rep.event_shape)), 3)
            center = center.to(values)
        moved = rep.rotate_back(values, own, center) if back else rep.rotate(values, own, center)
        held = self._held(values[0], rep) if rep.is_affine else None
        return moved if held is None else torch.where(held, moved, values)

    def _held(self, value: Tensor, rep: Representation) -> Tensor | None:
        """Where points are no padding, which stays where it is; None where there is no mask of them."""
        mask, lead = self.mask, value.shape[: value.ndim - len(rep.event_shape)]
        if mask is None or lead[: mask.ndim] != mask.shape:
            return None
        return (mask != 0).reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)).to(value.device)

    def rotate(self, inputs: Mapping[str, Any], schema: Schema, rotations: Tensor) -> dict[str, Tensor]:
        """Copies of the inputs that rotate, rotated, ``(C, *S)`` by name; differentiable.

        Args:
            inputs: of one call, ``(*S)`` by name.
            schema: representations.
            rotations: of each copy, ``(C, U, 3, 3)``, or ``(C, 3, 3)`` for all structures alike.
        """
        return {
            name: self._apply(name, rep, value.expand(len(rotations), *value.shape), rotations, back=False)
            for name, rep in schema.inputs.items()
            if not isinstance(rep, Fixed) and isinstance(value := inputs.get(name), torch.Tensor) and rep.moves(value)
        }

    def rotate_back(self, outputs: Mapping[str, Tensor], schema: Schema, rotations: Tensor) -> dict[str, Tensor]:
        """Outputs ``(C, *S)`` of each copy pulled back, by name; rotations as for :meth:`rotate`."""
        return {name: self._apply(name, schema.outputs[name], v, rotations, back=True) for name, v in outputs.items()}


def require_common_center(schema: Schema) -> None:
    """Raise EquivProbeError for points that would rotate about their centroid beside grids, which do about their box's.

    The atoms would be elsewhere in the box once both were rotated.
    """
    if any(rep.is_whole for rep in schema.inputs.values()):
        raise EquivProbeError(
            "points beside a voxel grid among the inputs, rotated about their centroid",
            "the centre of the box, about which the grid rotates, so that both stay together",
            'center="origin" for points that are given from the centre of the box, "box" for those that are given from '
            "its first sample, or a tensor: where it is",
        )


def box_center(schema: Schema, inputs: Mapping[str, Any]) -> Tensor:
    """The middle of the box of the first grid among the inputs, as seen from its first sample, ``(3,)``.

    Raises:
        EquivProbeError: there is no grid.
    """
    for name, rep in schema.inputs.items():
        if isinstance(rep, Grid) and isinstance(inputs.get(name), torch.Tensor):
            return rep.middle(inputs[name].shape[-3:])
    raise EquivProbeError(
        'center="box" without a grid among the inputs', "a grid, whose middle is the centre", "center=torch.tensor(...)"
    )


def _leading(inputs: Mapping[str, Any], schema: Schema, name: str) -> int | None:
    """How many structures a dense batch has; None where there is one structure. A grid shows it by itself."""
    grids = [n for n, rep in schema.inputs.items() if rep.is_whole and isinstance(inputs.get(n), torch.Tensor)]
    shown = inputs[grids[0] if grids else name]
    axes = len(schema.inputs[grids[0]].event_shape) + 1 if grids else len(schema.inputs[name].event_shape) + 2
    return len(shown) if shown.ndim >= axes else None


def centroids(points: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of the points ``(N, 3)`` of each structure, ``(count, 3)``; zero where there are none."""
    sums = points.new_zeros(count, 4)
    sums.index_add_(0, index, torch.cat([points, points.new_ones(len(points), 1)], 1))
    return sums[:, :3] / sums[:, 3:].clamp_min(1)


def _edges(inputs: Mapping[str, Any], index: Tensor) -> Tensor | None:
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            if _plain(name) in _EDGE_NAMES and value.ndim == 2 and len(value) == 2:
                return index[value[0].long()]
            if _plain(name) in _SENDER_NAMES and value.ndim == 1:
                return index[value.long()]
    return None
