"""SchNetPack's batches: one dict of flat tensors, in which indices count through the whole batch.

>>> import torch
>>> batch = {"_positions": torch.randn(3, 3), "_n_atoms": torch.tensor([1, 2]), "_idx_m": torch.tensor([0, 1, 1])}
>>> stacked, part = BatchAdapter(torch.nn.Identity()).stack(batch, {"_positions": torch.randn(2, 3, 3)})
>>> stacked["_idx_m"]
tensor([0, 1, 1, 2, 3, 3])
>>> part({"forces": torch.zeros(6, 3)})["forces"].shape
torch.Size([2, 3, 3])
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapters import Adapter
from equiv_probe.live.capture import cloned
from equiv_probe.live.cutting import GraphNames, cut_graphs
from equiv_probe.schema.centers import centroids
from equiv_probe.schema.structures import Structures
from equiv_probe_schnetpack.quantities import INPUTS, PROPERTIES, about_the_origin, finds_pairs, predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.live.adapters import Arguments, Part, Rebuild
    from equiv_probe.schema.schema import Named, Schema
    from equiv_probe_schnetpack.quantities import Quantity

POSITIONS, STRUCTURE_OF_ATOM, SIZES, PAIRS, PERIODIC = "_positions", "_idx_m", "_n_atoms", "_idx_j", "_pbc"
ATOM_INDICES = ("_idx_i", "_idx_j", "_idx_i_lr", "_idx_j_lr", "_idx_i_triples")
PAIR_INDICES = ("_idx_j_triples", "_idx_k_triples")


def adapter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BatchAdapter | None:
    """The adapter of a call with one of SchNetPack's batches, or None."""
    if "schnetpack" not in sys.modules:
        return None
    return BatchAdapter(module) if sum(map(is_batch, (*args, *kwargs.values()))) == 1 else None


def is_batch(value: Any) -> bool:
    """Whether something is what SchNetPack's loader gives to a model."""
    keys = (POSITIONS, STRUCTURE_OF_ATOM, SIZES, "_atomic_numbers")
    return isinstance(value, Mapping) and all(isinstance(value.get(key), torch.Tensor) for key in keys)


class BatchAdapter(Adapter):
    """Reads and writes SchNetPack's batches; see :class:`equiv_probe.live.adapters.Adapter`.

    The neighbour lists of a batch are kept for its rotated copies: what is measured is the model, not the list.

    Args:
        module: the network.
        outputs: what is known of its outputs beyond what its modules and SchNetPack's names say.
    """

    optional = frozenset(INPUTS) - {POSITIONS}
    """Inputs that a batch may lack."""

    def __init__(self, module: nn.Module, outputs: Mapping[str, Quantity] | None = None) -> None:
        self._outputs = {**PROPERTIES, **predicted(module), **(outputs or {})}
        # A batch that was used before holds what the model wrote into it: that is no input.
        self._written = frozenset({"_Rij", "_Rij_lr"}) if finds_pairs(module) else frozenset()
        self._origin = about_the_origin(module)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """The batch's entries by name, and how to make a batch of such entries."""
        batch = next(value for value in (*args, *kwargs.values()) if is_batch(value))

        def rebuild(values: Named) -> Arguments:
            fresh = dict(values)
            return (
                tuple(fresh if value is batch else value for value in args),
                {name: fresh if value is batch else value for name, value in kwargs.items()},
            )

        return {name: value for name, value in batch.items() if name not in self._written}, rebuild

    def stack(self, inputs: Named, rotated: Mapping[str, Tensor]) -> tuple[Named, Part]:
        """One batch that holds all copies, one after the other."""
        copies = len(next(iter(rotated.values())))
        atoms, structures = len(inputs[POSITIONS]), len(inputs[SIZES])
        steps = {STRUCTURE_OF_ATOM: structures, **dict.fromkeys(ATOM_INDICES, atoms)}
        if PAIRS in inputs:
            steps |= dict.fromkeys(PAIR_INDICES, len(inputs[PAIRS]))
        stacked: Named = {}
        for name, value in inputs.items():
            if not isinstance(value, torch.Tensor) or value.ndim == 0:
                stacked[name] = cloned(value)
            elif name in rotated:
                stacked[name] = rotated[name].detach().flatten(0, 1).clone()
            else:
                stacked[name] = value.detach().repeat(copies, *(1,) * (value.ndim - 1))
                if name in steps:
                    which = torch.arange(copies, device=value.device, dtype=value.dtype)
                    stacked[name] += (which * steps[name]).repeat_interleave(len(value))

        def part(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: _parted(name, value, copies) for name, value in outputs.items()}

        return stacked, part

    def cut(self, inputs: Named, structures: Structures, chosen: Tensor) -> Named:
        """See :class:`equiv_probe.live.adapters.Adapter`."""
        assert structures.index is not None
        pairs = tuple(name for name in ATOM_INDICES[:4] if name in inputs)
        names = GraphNames(frozenset({STRUCTURE_OF_ATOM}), pairs, repeated={PERIODIC: 3})
        return cut_graphs(inputs, chosen, names, structures.index)

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures:
        """How many structures there are is the length of ``_n_atoms``: nothing waits for the device."""
        count = len(inputs[SIZES])
        index = inputs[STRUCTURE_OF_ATOM].detach().long()
        per = {"structure": torch.arange(count, device=index.device), "atom": index}
        for kind, senders in (("pair", "_idx_i"), ("far pair", "_idx_i_lr")):
            if isinstance(inputs.get(senders), torch.Tensor):
                per[kind] = index[inputs[senders].detach().long()]
        owners = {name: per[INPUTS[name].per] for name in schema.inputs if name in INPUTS and INPUTS[name].per in per}
        for name in schema.outputs:
            known = self._outputs.get(name)
            if known is not None and known.per in per:
                owners[name] = per[known.per]
        return Structures("index", count, index=index, owners=owners, center=self._center(inputs, index, count, center))

    def _center(self, inputs: Named, index: Tensor, count: int, center: str | Tensor) -> Tensor | None:
        positions = inputs[POSITIONS].detach()
        if not isinstance(center, str):
            return center.detach().to(positions.device)
        if center not in {"centroid", "origin"}:
            raise EquivProbeError(f"center={center!r}", '"centroid", "origin" or a tensor')
        if center == "origin" or self._origin:
            return None
        return centroids(positions if positions.device.type == "mps" else positions.double(), index, count)


def _parted(name: str, value: Tensor, copies: int) -> Tensor:
    if value.ndim == 0 or len(value) % copies:
        raise EquivProbeError(
            f"an output {name!r} of shape {tuple(value.shape)} from {copies} copies of a batch in one",
            "a first axis that counts structures or atoms",
            "leave it out of the schema: ep.Schema(inputs={...}, outputs={...})",
        )
    return value.reshape(copies, -1, *value.shape[1:])
