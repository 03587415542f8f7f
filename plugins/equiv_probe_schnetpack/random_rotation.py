"""Random-rotation augmentation of SchNetPack's data: every quantity of a structure rotates, labels too.

>>> import torch
>>> from equiv_probe_schnetpack import RandomRotation
>>> sample = {"_positions": torch.eye(3), "forces": torch.eye(3), "energy": torch.ones(1)}
>>> rotated = RandomRotation()(sample)
>>> torch.equal(rotated["_positions"], rotated["forces"]), torch.equal(sample["forces"], torch.eye(3))
(True, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from schnetpack.transform import CachedNeighborList, Transform

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations import representation as reps
from equiv_probe.representations.spelling import representation
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.schema import Schema
from equiv_probe_schnetpack.quantities import INPUTS, PROPERTIES

REPRESENTED = {"_idx_i": reps.fixed, "_idx_j": reps.fixed, **{name: one.representation for name, one in INPUTS.items()}}
"""What a sample's geometry is, beside which its other entries are looked at."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation


class RandomRotation(Transform):  # type: ignore[misc]  # SchNetPack is untyped
    """Rotate a structure and everything that is known about it by one Haar rotation about the origin.

    Positions, cell, cell offsets, pair vectors, fields and labels rotate; the sample that comes in, which a dataset may
    keep, is left as it is. For ``train_transforms``, after `SubtractCenterOfMass` if there is one; before or after a
    neighbour list, but after one that is cached on disk. The rotation is drawn from torch's global random state, which
    the workers of a loader seed, each differently.

    Args:
        quantities: how properties of names that are not SchNetPack's rotate, by name: ``scalar``, ``vector``,
            ``axial``, ``point``, ``tensor`` (3×3), ``voigt`` (ASE's order), ``concat(point, 2)``, ``fixed`` and so on.
        improper: rotate by rotations and, half of the time, by improper ones.

    Raises:
        EquivProbeError: at the first sample, if it holds something of which it is not known how it rotates.
    """

    is_preprocessor = True
    is_postprocessor = False

    def __init__(self, quantities: Mapping[str, str] | None = None, improper: bool = False) -> None:
        super().__init__()
        self.improper = improper
        self._declared = {name: representation(word) for name, word in (quantities or {}).items()}

    def datamodule(self, value: Any) -> None:
        """See that no neighbour list is cached behind a rotation: it would be that of another orientation."""
        for stage in ("train", "val", "test"):
            order = list(getattr(value, f"{stage}_transforms", None) or [])
            behind = order[order.index(self) :] if self in order else []
            if any(isinstance(one, CachedNeighborList) for one in behind):
                raise EquivProbeError(
                    "RandomRotation before CachedNeighborList, whose cell offsets are those of one orientation",
                    "the cached list first",
                    "put RandomRotation behind it in the transforms",
                )

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sample in another orientation.

        Args:
            inputs: one sample by property name, ``(N, 3)`` per atom and ``(1, ...)`` per structure.

        Returns:
            A new dict; what rotates is new, the rest is shared.
        """
        g = haar(1, torch.default_generator)[0]  # torch seeds it anew in every worker and epoch
        if self.improper and torch.rand(()) < 0.5:
            g = -g
        return rotated(inputs, g, self._declared)


def rotated(
    sample: Mapping[str, Tensor], rotation: Tensor, declared: Mapping[str, Representation] | None = None
) -> dict[str, Tensor]:
    """A sample rotated about the origin by a rotation ``(3, 3)``; what rotates is new.

    Args:
        sample: by property name.
        rotation: proper or improper.
        declared: how names rotate that are not SchNetPack's.
    """
    found = dict(sample)
    for name, value in sample.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            own = representation_of(name, value, declared or {}, sample)
            if not isinstance(own, reps.Fixed) and own != reps.scalar:
                # In double precision: the rounding of a rotation in single precision would not be orthogonal.
                found[name] = own.rotate(value.double(), rotation).to(value.dtype)
    return found


def representation_of(
    name: str, value: Tensor, declared: Mapping[str, Representation], sample: Mapping[str, Any] | None = None
) -> Representation:
    """How one entry of a sample rotates: as declared, by SchNetPack's names, by the field's usual names and its shape.

    What it is in the sample counts, too: features among which are the positions, or the vectors of pairs.

    Raises:
        EquivProbeError: it could rotate in several ways.
    """
    if name in declared:
        return declared[name]
    known = INPUTS.get(name) or PROPERTIES.get(name)
    if known is not None:
        if known.representation.fits(value.shape):
            return known.representation
        if value.numel() == 1:
            return reps.scalar  # the magnitude of a dipole, an isotropic polarizability
    try:
        given = sample or {"_positions": torch.zeros(2, 3)}
        beside = {key: given[key] for key in ("_positions", "_cell", "_offsets", "_idx_i", "_idx_j") if key in given}
        geometry = Schema({key: REPRESENTED[key] for key in beside}, {})
        return Schema.infer({**beside, name: value}, {}, geometry).inputs[name]
    except EquivProbeError as error:
        raise EquivProbeError(
            f"{name!r} of shape {tuple(value.shape)}, of which it is not known how it rotates",
            "a declaration",
            f'RandomRotation(quantities={{"{name}": "vector"}}), or "fixed", "scalar", "axial", "tensor", "voigt"',
        ) from error
