"""Random rotations on the data's side: a transform that rotates one sample as a whole, labels and all.

>>> import torch, equiv_probe as ep
>>> schema = ep.Schema({"density": ep.grid(), "dipole": ep.vector}, {})
>>> transform = RandomRotation(schema)
>>> sample = {"density": torch.rand(1, 4, 4, 4), "dipole": torch.tensor([1.0, 2, 3]), "id": 7}
>>> rotated = transform(sample)
>>> sorted(rotated["dipole"].abs().tolist()), rotated["id"]  # grids without interpolation: by the rotations of the cube
([1.0, 2.0, 3.0], 7)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.augmentation.voxel_affine import plain, with_affine
from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.representation import Fixed
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.centers import box_center
from equiv_probe.schema.grid_plans import fitting_plan, one_of, require_fit
from equiv_probe.schema.inference import require_nothing_hidden
from equiv_probe.schema.schema import named, unnamed

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema


class RandomRotation:
    """Rotate everything that a schema names of one sample by one random rotation, another at every call.

    For a dataset, before samples are put into batches. Rotating the labels too, it is right for every loss; rather than
    in the model, as :func:`equiv_probe.augment` does it, the work is done by the data loader's workers.

    Args:
        schema: representations; inputs, outputs and targets alike are entries of the sample here: keys of a dict, or
            entries of a tuple in this order.
        plan: from which the one rotation is drawn. None is the rotations of the cube where a grid without
            interpolation rotates along (on a box that is no cube, those that keep it), and all rotations otherwise.
        seed: of generators of its own: one in this process, and one in each worker of a data loader, which goes on
            from torch's own seed for the worker, and so is another in every epoch.
        center: of rotation of points: ``"origin"``, ``"centroid"``, ``(3,)``, or ``"box"``, the middle of a grid as
            seen from its first sample; None is the origin, about which a grid rotates, if there is one, and the
            centroid otherwise.
    """

    def __init__(
        self,
        schema: Schema,
        plan: PlanLike | None = None,
        seed: int = 0,
        *,
        center: str | Tensor | None = None,
    ) -> None:
        self.schema, self.plan, self.seed = schema, rotation_plan(plan), seed
        declared = {**schema.inputs, **schema.outputs, **schema.targets}
        self.representations: dict[str, Representation] = declared
        if all(isinstance(rep, Fixed) for rep in declared.values()):
            raise EquivProbeError(
                str(schema), "something that rotates", 'ep.Schema(inputs={"x": ep.grid()}, outputs={})'
            )
        if isinstance(center, str) and center not in {"origin", "centroid", "box"}:
            raise EquivProbeError(f"center={center!r}", '"origin", "centroid", "box" or a tensor (3,)')
        if center is None:
            center = "origin" if any(rep.is_whole for rep in declared.values()) else "centroid"
        self.center: str | Tensor = center
        self._generator: tuple[int, torch.Generator] | None = None
        self._looked = False

    def __call__(self, sample: Any) -> Any:
        """A rotated copy of a sample; the sample itself stays as it is.

        What rotates comes back as a plain tensor, but for grids that say where their voxels are (MONAI's
        ``MetaTensor``): these keep their class and meta data, with the affine matrix of the rotated grid, by which the
        image stays where it is in the world, as with MONAI's own transforms.

        Raises:
            EquivProbeError: an entry that the schema names is missing or does not fit, or the plan does not; or an
                entry that it does not name holds coordinates, which the first sample shows; or an affine matrix that
                cannot be kept right.
        """
        entries = named(sample, list(self.representations))
        missing = [name for name in self.representations if name not in entries]
        if missing:
            raise EquivProbeError(f"a sample with {sorted(entries)}", f"the schema's {missing}", "ep.Schema(...)")
        arrays = {name for name, value in entries.items() if isinstance(value, np.ndarray)}
        tensors = {name: torch.as_tensor(v) if name in arrays else plain(v) for name, v in entries.items()}
        if not self._looked:
            require_nothing_hidden({n: v for n, v in tensors.items() if torch.is_tensor(v)}, self.representations)
            self._looked = True
        rotation = self._draw(tensors)
        rotated: dict[str, Any] = {}
        center = self._center(tensors)
        for name, rep in self.representations.items():
            value = tensors[name]
            if isinstance(rep, Fixed) or not isinstance(value, torch.Tensor) or not rep.moves(value):
                continue
            about = None if center is None or not rep.is_affine else center.to(value)
            moved = rep.rotate(value, rotation, about)
            rotated[name] = moved.numpy() if name in arrays else with_affine(moved, entries[name], rep, rotation)
        return unnamed({**entries, **rotated}, sample)

    def _draw(self, tensors: dict[str, Any]) -> Tensor:
        """One rotation, ``(3, 3)``."""
        schema = replace(self.schema, inputs=self.representations, outputs={})
        plan = self.plan or fitting_plan(RotationPlan("haar", 1), schema, tensors)
        require_fit(plan, schema, tensors, alone=True)
        generator = self._source()
        signed = one_of(plan).draws(1, generator)[0, 0]  # with improper rotations of a rotated plan, g and −g
        return signed[int(torch.randint(len(signed), (), generator=generator))]

    def _center(self, tensors: dict[str, Any]) -> Tensor | None:
        """The centre of rotation, ``(3,)``; None is the origin."""
        points = [rep.places(tensors[name]) for name, rep in self.representations.items() if rep.is_affine]
        if not isinstance(self.center, str):
            return self.center
        if self.center == "box":
            return box_center(replace(self.schema, inputs=self.representations), tensors)
        return None if self.center == "origin" or not points else points[0].double().reshape(-1, 3).mean(0)

    def _source(self) -> torch.Generator:
        """This process's generator. A forked worker would otherwise go on from a copy of the same state as the rest."""
        worker = torch.utils.data.get_worker_info()
        number = -1 if worker is None else int(worker.seed)
        if self._generator is None or self._generator[0] != number:
            key = () if worker is None else (number,)
            self._generator = number, RotationPlan("haar", seed=self.seed).generator(5, *key)
        return self._generator[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}

    def __repr__(self) -> str:
        shown = {"plan": self.plan, "seed": self.seed, "center": self.center}
        options = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({self.schema}{options})"
