"""The centre about which the points of one input rotate, and with them those of the outputs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.centers import box_center, centroids, dense_centroids, require_common_center

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema


@dataclass(frozen=True)
class InputCenters:
    """Centres in float64, broadcastable against the points of the input.

    Attributes:
        of_points: of every node where there is a batch index; None is the origin.
        of_structures: the centroid of every structure, ``(U, 3)``, where there is a batch index.
    """

    of_points: Tensor | None
    of_structures: Tensor | None = None

    @classmethod
    def of(cls, inputs: Mapping[str, Any], schema: Schema, center: str | Tensor) -> InputCenters:
        """The centres of one input; ``center`` as for :func:`equiv_probe.twirl`."""
        if not isinstance(center, str):
            return cls(torch.as_tensor(center).double())
        if center in {"origin", "box"}:
            return cls(None if center == "origin" else box_center(schema, inputs))
        if center != "centroid":
            raise EquivProbeError(f"center={center!r}", '"centroid", "origin", "box" or a tensor', 'center="centroid"')
        name = next((name for name, rep in schema.inputs.items() if rep.is_affine), None)
        if name is None:
            return cls(None)
        require_common_center(schema)
        points: Tensor = schema.inputs[name].places(inputs[name]).double()
        if schema.batch is None:
            return cls(dense_centroids(points, inputs[schema.mask] if schema.mask else None))
        index = inputs[schema.batch].long()
        of_structures = centroids(points, index, int(index.max()) + 1)
        return cls(of_structures[index], of_structures)

    def of_shape(self, shape: torch.Size) -> Tensor | None:
        """The centre for points of this shape ``(..., 3)``: of every node, or of every structure that has one point."""
        center = self.of_points
        if center is None:
            return None
        if self.of_structures is not None and len(shape) == 2 and shape[0] != len(center):
            center = self.of_structures
        while center.ndim > len(shape) and center.shape[-2] == 1:  # one point, not N, for each structure of a batch
            center = center.squeeze(-2)
        axes = zip(reversed(center.shape), reversed(shape), strict=False)
        if center.ndim > len(shape) or not all(length in {1, wanted} for length, wanted in axes):
            raise EquivProbeError(
                f"points of shape {tuple(shape)} and centres of shape {tuple(center.shape)}",
                "one point per node, or one per structure",
                'center="origin", or a tensor that broadcasts against all points',
            )
        return center

    def about(self, value: Tensor, rep: Representation) -> Tensor | None:
        """The centre for values of a representation, of their type; None is the origin, or none is needed."""
        center = self.of_shape(rep.places(value).shape) if rep.is_affine else None
        return None if center is None else center.to(value)

    def by_name(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The centre for every output that has the shape of points."""
        found = {}
        for name, value in outputs.items():
            with contextlib.suppress(EquivProbeError):
                center = self.of_shape(value.shape) if value.shape[-1:] == (3,) else None
                if center is not None:
                    found[name] = center
        return found
