"""A PyG transform that rotates a graph as a whole: positions, and everything else that has a direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.schema import Schema
from equiv_probe_pyg.adapter import defined, require_whole_shifts_declared
from equiv_probe_pyg.graphs import Held, dense
from equiv_probe_pyg.owners import structures_of

if TYPE_CHECKING:
    from equiv_probe.schema.schema import Named


TELLING = 8
"""Nodes from which on the values of a graph tell what its attributes hold; of smaller ones each is looked at anew."""


@functional_transform("random_haar_rotation")
class RandomRotation(BaseTransform):  # type: ignore[misc]
    """Rotate a graph, each graph of a batch on its own, by a Haar rotation.

    Every quantity rotates: positions, velocities, cells, shifts of edges, edge vectors, and the labels: forces,
    dipoles, stresses. PyG's own ``RandomRotate`` rotates ``pos`` alone, by angles about axes, and leaves force labels
    stale.

    Args:
        schema: representations; inputs, outputs and targets alike are attributes here. What it does not name is
            inferred from names and shapes, which is printed once; what is ambiguous is an error.
        improper: rotate by rotations and, half of the time, improper ones.
        seed: of a generator of its own, which starts anew in every worker of a data loader; None draws from torch's
            global random state, as PyG's transforms do.
        center: of rotation: ``"centroid"`` of each graph's points, or ``"origin"``.

    >>> from torch_geometric.data import Data
    >>> data = Data(pos=torch.eye(3, dtype=torch.float64), force=2 * torch.eye(3, dtype=torch.float64))
    >>> rotated = RandomRotation(center="origin")(data)
    >>> torch.allclose(rotated.force, 2 * rotated.pos), torch.equal(rotated.pos, data.pos)
    (True, False)
    """

    def __init__(
        self, schema: Schema | None = None, *, improper: bool = False, seed: int | None = None, center: str = "centroid"
    ) -> None:
        if center not in {"centroid", "origin"}:
            raise EquivProbeError(f"center={center!r}", '"centroid" or "origin"')
        self.schema, self.improper, self.seed, self.center = schema, improper, seed, center
        self._generator: tuple[int, torch.Generator] | None = None
        self._known: dict[tuple[Any, ...], Schema] = {}

    def forward(self, data: Any) -> Any:
        """A rotated copy of a graph; the graph itself, its tensors and what a data set caches stay as they are.

        Raises:
            EquivProbeError: nothing rotates, something could rotate in several ways, or a declared input is missing.
        """
        held, values = Held.of(data, "data", {})
        inputs: Named = dict(sorted({**values, "<data>": held}.items(), key=lambda item: not item[0].endswith("pos")))
        schema = self._resolved(inputs)
        structures = structures_of(inputs, schema, self.center)
        generator = self._source()
        with torch.no_grad():
            g = draw(RotationPlan("haar", 1), generator, structures.count)[0, 0]
            if self.improper:
                coin = torch.rand(len(g), 1, 1, generator=generator, device=g.device, dtype=g.dtype)
                g = torch.where(coin < 0.5, -g, g)
            rotated = structures.rotate(inputs, schema, g[None])
        return held.rebuilt({**inputs, **{name: value[0] for name, value in rotated.items()}})

    def _resolved(self, inputs: Named) -> Schema:
        """Representations of all attributes, once for each kind of graph."""
        kind = tuple((name, v.dtype, v.ndim, v.shape[-1:]) for name, v in inputs.items() if dense(v))
        if kind in self._known:
            return self._known[kind]
        given = self.schema or Schema({}, {})
        missing = sorted(set(given.inputs) - set(inputs))
        if missing:
            raise EquivProbeError(f"a graph with {sorted(inputs)}", f"the schema's {missing}", "leave it out")
        declared = {**given.outputs, **given.targets, **given.inputs}
        known = {**defined(inputs, labels=False), **{n: rep for n, rep in declared.items() if n in inputs}}
        require_whole_shifts_declared(inputs, known)
        found = Schema.infer({n: v for n, v in inputs.items() if dense(v)}, {}, Schema(known, {}))
        worker = torch.utils.data.get_worker_info()
        if worker is None or worker.id == 0:
            found.announce()
        points = [inputs[name] for name, rep in found.inputs.items() if rep.is_affine]
        if all(len(value) >= TELLING for value in points):
            self._known[kind] = found
        return found

    def _source(self) -> torch.Generator:
        if self.seed is None:
            return torch.default_generator
        worker = torch.utils.data.get_worker_info()
        number = 0 if worker is None else worker.id + 1
        if self._generator is None or self._generator[0] != number:
            self._generator = number, RotationPlan("haar", seed=self.seed).generator(number, 5)
        return self._generator[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}

    def __repr__(self) -> str:
        options = {"improper": self.improper, "seed": self.seed, "center": self.center}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"
