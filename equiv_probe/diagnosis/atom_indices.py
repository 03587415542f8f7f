"""Inputs that count atoms by their places: edges, neighbour lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.subject import Subject

_NAMES = re.compile(r"(^|_)(idx_?[ijk]|index_?[ijk]|edges?|senders?|receivers?|neighbou?rs?|nbrs?|src|dst)(_|$)")

_ENDS = re.compile(r"(^|_)(idx_?[ij]|index_?[ij]|senders?|receivers?|src|dst)(_|$)")


def atom_indices(subject: Subject) -> list[str]:
    """Names of the inputs that hold places of atoms in the list of all atoms: by their names, or shape ``(2, E)``."""
    return [name for name, value in subject.inputs.items() if name != subject.schema.batch and _is_index(name, value)]


def edges_of(subject: Subject) -> dict[str, torch.Tensor]:
    """Those that hold both ends of edges, ``(2, E)``, or one of them, ``(E,)``; what edges are of is none."""
    found = {name: subject.inputs[name] for name in atom_indices(subject)}
    return {name: value for name, value in found.items() if value.ndim == 2 or _ENDS.search(plain(name))}


def _is_index(name: str, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        return False
    return (value.ndim == 2 and len(value) == 2) or _NAMES.search(plain(name)) is not None
