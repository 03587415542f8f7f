"""Objects of compiled classes that hold a structure, or the values of an output: metatomic's and metatensor's.

Python sees no attributes of these; they are known by the names of their classes, whose package is not imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLASSES = "__torch__.torch.classes."
_SYSTEM, _MAP = "metatomic.System", "metatensor.TensorMap"
_ARROWS = "edge_vec"
"""Vectors from atoms to their neighbours, ``(E, 3)``, of the k-th list of neighbours."""


def script_entries(value: Any) -> dict[str, Any] | None:
    """The tensors in a system, or in a map of tensors, by name; None of anything else."""
    kind = _kind(value)
    if kind == _SYSTEM:
        given = {name: getattr(value, name) for name in ("positions", "cell", "types", "pbc")}
        blocks = [value.get_neighbor_list(one) for one in value.known_neighbor_lists()]
        return given | {f"{_ARROWS}_{k}": one.values.squeeze(-1) for k, one in enumerate(blocks)}
    if kind == _MAP:
        return _named_by_properties(value.blocks())
    return None


def _named_by_properties(blocks: list[Any]) -> dict[str, Any]:
    """The values of blocks, by the names of their properties where these differ."""
    names = ["_".join(one.properties.names) for one in blocks]
    if len(set(names)) < len(names):
        names = [f"{name}_{place}" for place, name in enumerate(names)]
    return {name: one.values for name, one in zip(names, blocks, strict=True)}


def script_refilled(like: Any, made: Mapping[str, Any]) -> Any:
    """An object of the same class with other tensors; None of what :func:`script_entries` does not read."""
    kind = _kind(like)
    if kind == _SYSTEM:
        return _system(like, made)
    if kind == _MAP:
        blocks = [_block(one, value) for one, value in zip(like.blocks(), made.values(), strict=True)]
        return _new(_MAP, like.keys(), blocks)
    return None


def _system(like: Any, made: Mapping[str, Any]) -> Any:
    cell = torch.where(made["pbc"][:, None], made["cell"], 0.0)  # metatomic wants nothing else where none is periodic
    fresh = _new(_SYSTEM, made["types"], made["positions"], cell, made["pbc"])
    for k, options in enumerate(like.known_neighbor_lists()):
        values = made[f"{_ARROWS}_{k}"].detach().unsqueeze(-1)  # whose gradients are the positions' in metatomic, too
        fresh.add_neighbor_list(options, _block(like.get_neighbor_list(options), values))
    for name in like.known_data():
        fresh.add_data(name, like.get_data(name))
    return fresh


def _block(like: Any, values: torch.Tensor) -> Any:
    return _new("metatensor.TensorBlock", values, like.samples, like.components, like.properties)


def _new(name: str, *args: Any) -> Any:
    package, _, kind = name.partition(".")
    return getattr(getattr(torch.classes, package), kind)(*args)


def _kind(value: Any) -> str:
    """The name of a compiled class, empty of what is of none."""
    if not isinstance(value, torch.ScriptObject):
        return ""
    return value._type().qualified_name().removeprefix(_CLASSES)
