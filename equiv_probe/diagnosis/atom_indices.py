"""Inputs that count atoms by their places: edges, neighbour lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.subject import Subject

_NAMES = re.compile(r"(^|_)(idx_?[ijk]|index_?[ijk]|edges?|senders?|receivers?|neighbou?rs?|nbrs?|src|dst)(_|$)")


def atom_indices(subject: Subject) -> list[str]:
    """Names of the inputs that hold places of atoms in the list of all atoms: by their names, or shape ``(2, E)``."""
    return [name for name, value in subject.inputs.items() if name != subject.schema.batch and _is_index(name, value)]


def _is_index(name: str, value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        return False
    return (value.ndim == 2 and len(value) == 2) or _NAMES.search(plain(name)) is not None
