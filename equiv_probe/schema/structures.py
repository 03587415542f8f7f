"""Which rotation belongs to which entry of a batch, and about which centre: one rotation for each structure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.representation import CartesianTensor, Fixed
from equiv_probe.schema.batch_layout import atoms_of, beside, edge_owners, leading, primary
from equiv_probe.schema.centers import box_center, centroids, dense_centroids, require_common_center

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema


@dataclass(frozen=True)
class Structures:
    """The structures of one batch, found without waiting for the device.

    Attributes:
        layout: ``"one"`` structure ``(N, 3)``, a dense batch with structures ``"leading"`` ``(B, N, 3)`` (of grids
            ``(C, D, H, W)`` and ``(B, C, D, H, W)``), or an ``"index"`` of the structure of each node.
        count: how many rotations are needed, U; for an index an upper bound (the number of nodes), since the exact
            number would have to be fetched from the device.
        index: structure of each node, ``(N,)``.
        edges: structure of each edge, ``(E,)``.
        owners: structure of each entry of the first axis of inputs and outputs by name, where an adapter knows better.
        center: centre of rotation of each structure, ``(U, 3)`` or ``(3,)`` float64; None is the origin.
        mask: true where a dense batch holds an atom, ``(B, N)``, or ``(B, N, A)`` for A atoms in each residue.
        atoms: likewise, of what rotates: padding does not.
    """

    layout: Literal["one", "leading", "index"]
    count: int
    index: Tensor | None = None
    edges: Tensor | None = None
    owners: Mapping[str, Tensor] = field(default_factory=dict)
    center: Tensor | None = None
    mask: Tensor | None = None
    atoms: Tensor | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Any], schema: Schema, center: str | Tensor = "centroid") -> Structures:
        """Look at the inputs of one call; ``center`` as for :func:`equiv_probe.twirl`."""
        name = primary(schema, inputs)
        value: Tensor = inputs[name].detach()
        mask = inputs[schema.mask].detach() if schema.mask else None
        if schema.batch is not None:
            index: Tensor = inputs[schema.batch].detach().long()
            found = cls("index", len(index), index=index, edges=edge_owners(inputs, index))
        elif (batch := leading(inputs, schema, name)) is not None:
            atoms = atoms_of(value, mask) if schema.inputs[name].is_affine else None
            found = cls("leading", batch, mask=mask, atoms=atoms)
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
            raise EquivProbeError(f"center={center!r}", '"centroid", "origin", "box" or a tensor', 'center="centroid"')
        require_common_center(schema)
        points = points if points.device.type == "mps" else points.double()
        if self.layout == "one":
            return points.mean(-2)
        if self.layout == "leading":
            mask = self.mask
            fits = mask is not None and mask.shape == points.shape[: mask.ndim] and mask.ndim < points.ndim
            return dense_centroids(points, mask if fits else None).reshape(len(points), 3)
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

    def is_of_the_only_one(self, rep: Representation, value: Tensor) -> bool:
        """Whether a value has no axis of structures, as the stress ``(3, 3)`` of a batch of one graph."""
        may_be_one = self.layout == "index" or self.count == 1
        return may_be_one and not rep.is_whole and 0 < value.ndim == len(rep.event_shape)

    def _apply(self, name: str, rep: Representation, values: Tensor, rotations: Tensor, *, back: bool) -> Tensor:
        """Rotate copies ``(C, *S)`` of one tensor."""
        if isinstance(rep, Fixed) or rep == CartesianTensor(0) or not rep.moves(values):
            return values
        if rotations.ndim == 3:
            own = rotations
        elif self.layout == "one" or self.is_of_the_only_one(rep, values[0]):
            own = rotations[:, 0]
        elif rep.is_whole:
            if self.layout == "leading" and values.shape[1] != self.count:
                raise EquivProbeError(
                    f"{name!r} of shape {tuple(values.shape[1:])} declared as ep.{rep}, in a batch of {self.count}",
                    "one grid for each structure, on the first axis",
                    "declare it ep.fixed, leave it out, or probe a module inside whose outputs are laid out so",
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
        held = beside(self.atoms, values[0], rep) if rep.is_affine else None
        return moved if held is None else torch.where(held, moved, values)

    def rotate(self, inputs: Mapping[str, Any], schema: Schema, rotations: Tensor) -> dict[str, Tensor]:
        """Copies of the inputs that rotate, rotated, ``(C, *S)`` by name; differentiable.

        Rotations are those of each copy, ``(C, U, 3, 3)``, or ``(C, 3, 3)`` for all structures the same.
        """
        return {
            name: self._apply(name, rep, value.expand(len(rotations), *value.shape), rotations, back=False)
            for name, rep in schema.inputs.items()
            if not isinstance(rep, Fixed) and isinstance(value := inputs.get(name), torch.Tensor) and rep.moves(value)
        }

    def rotate_back(self, outputs: Mapping[str, Tensor], schema: Schema, rotations: Tensor) -> dict[str, Tensor]:
        """Outputs ``(C, *S)`` of each copy rotated back, by name; rotations as for :meth:`rotate`."""
        return {name: self._apply(name, schema.outputs[name], v, rotations, back=True) for name, v in outputs.items()}
