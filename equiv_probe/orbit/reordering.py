"""Another order of the atoms: the same structures, listed anew, and what a model says of them brought back.

Atoms stay with their structure. Indices of atoms, as in ``edge_index``, are counted anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.batch_layout import primary
from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel
    from equiv_probe.representations.representation import Representation

_PLACES = {"edge_index", "edge_idx", "idx_i", "idx_j", "idx_i_lr", "idx_j_lr"}
"""Inputs that count atoms by their places."""
_OF_STRUCTURES = {"ptr", "n_atoms", "natoms", "num_atoms"}
"""Inputs by structure, whatever their length."""


def reordered(model: RotatedModel, seed: int = 0) -> dict[str, Tensor]:
    """Outputs for the atoms of every structure in another order, brought back into the first, ``(*S)`` by name.

    Args:
        model: with its input; one evaluation.
        seed: of the order.

    Raises:
        EquivProbeError: there are no atoms to reorder, or inputs whose entries may be places of atoms.
    """
    name = primary(model.schema, model.inputs)
    rep, value = model.schema.inputs[name], model.inputs[name]
    if rep.is_whole:
        raise EquivProbeError(f"a grid {name!r}", "atoms, which could be listed in another order")
    if model.schema.mask is not None:
        raise EquivProbeError("a padded batch", "structures without padding: where it is says the order of the atoms")
    axis = value.ndim - len(rep.event_shape) - 1
    if axis < 0 or value.shape[axis] < 2:
        raise EquivProbeError(f"one atom, {name!r} of shape {tuple(value.shape)}", "structures of two atoms or more")
    order = _order(model, value.shape[axis], seed)
    back = order.argsort()
    lead = value.shape[: axis + 1]
    for other, counts in model.inputs.items():
        if isinstance(counts, torch.Tensor) and not counts.is_floating_point() and _may_count(other, counts):
            raise EquivProbeError(f"{other!r}, which may count atoms by their places", "edges under the usual names")

    def moved(given: Any, what: Representation | None, places: Tensor) -> Any:
        free = given.ndim - len(what.event_shape if what else ()) if isinstance(given, torch.Tensor) else 0
        by_atom = free > axis and given.shape[: axis + 1] == lead
        return given.index_select(axis, places.to(given.device)) if by_atom else given

    copies = {}
    for other, given in model.inputs.items():
        if not isinstance(given, torch.Tensor) or plain(other) in _OF_STRUCTURES:
            continue
        if plain(other) in _PLACES:
            anew = back.to(given.device)[given.long()].to(given.dtype)
        else:
            anew = moved(given.detach(), model.schema.inputs.get(other), order)
        copies[other] = anew[None]
    found = model.at(copies, 1)
    outputs = model.schema.outputs
    return {other: moved(outputs[other].within(v[0]), outputs[other], back) for other, v in found.items()}


def _order(model: RotatedModel, atoms: int, seed: int) -> Tensor:
    """An order of the atoms, those of a structure among themselves."""
    keys = torch.rand(atoms, generator=torch.Generator().manual_seed(seed))
    if model.schema.batch is not None:
        keys = keys + model.inputs[model.schema.batch].cpu()
    return keys.argsort()


def _may_count(name: str, value: Tensor) -> bool:
    return plain(name) not in _PLACES | {"batch"} and value.ndim == 2 and 2 in value.shape and value.numel() > 4
