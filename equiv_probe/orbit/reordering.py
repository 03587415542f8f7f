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
    """Outputs for the atoms of every structure in two other orders, brought back into the first, ``(C, *S)`` by name.

    Every atom gets another place, in a cycle of all of them, and then two atoms each other's: together these make
    all orders, where a single one drawn at random may be the one that was. An exchange of what is alike is left out.

    Args:
        model: with its input; two evaluations.
        seed: of the orders.

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
    for other, counts in model.inputs.items():
        if isinstance(counts, torch.Tensor) and not counts.is_floating_point() and _may_count(other, counts):
            raise EquivProbeError(f"{other!r}, which may count atoms by their places", "edges under the usual names")
    orders = _orders(model, value.shape[axis], seed)
    each = [one for order in orders if (one := _in_order(model, order, value.shape[: axis + 1])) is not None]
    if not each:
        raise EquivProbeError("atoms that are all alike and in one place", "atoms that another order exchanges")
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def _in_order(model: RotatedModel, order: Tensor, lead: torch.Size) -> dict[str, Tensor] | None:
    """Outputs for atoms in an order, brought back; None if the inputs are what they were. ``lead`` is the atoms'."""
    axis, back = len(lead) - 1, order.argsort()

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
    if all(torch.equal(v[0], model.inputs[other]) for other, v in copies.items()):
        return None
    outputs = model.schema.outputs
    return {n: moved(outputs[n].within(v[0]), outputs[n], back) for n, v in model.at(copies, 1).items()}


def _orders(model: RotatedModel, atoms: int, seed: int) -> tuple[Tensor, Tensor]:
    """Orders of the atoms, those of a structure among themselves: one cycle of all, and an exchange of two."""
    owner = torch.zeros(atoms) if model.schema.batch is None else model.inputs[model.schema.batch].cpu()
    drawn = (torch.rand(atoms, generator=torch.Generator().manual_seed(seed)) + owner).argsort()
    cycle, exchange = torch.empty_like(drawn), torch.arange(atoms)
    for structure in owner.unique():
        mine = drawn[owner[drawn] == structure]
        cycle[mine] = mine.roll(1)
        exchange[mine[:2]] = mine[:2].flip(0)
    return cycle, exchange


def _may_count(name: str, value: Tensor) -> bool:
    return plain(name) not in _PLACES | {"batch"} and value.ndim == 2 and 2 in value.shape and value.numel() > 4
