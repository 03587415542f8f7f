"""The losses in what a step returned: numbers, and tensors with one entry for each structure."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import wide
from equiv_probe.schema.schema import named

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.schema.structures import Structures


def entries_of(result: Any) -> dict[str, Any]:
    """What a step returned by name, key or field; one thing alone is ``"loss"``."""
    if dataclasses.is_dataclass(result) and not isinstance(result, (Mapping, type)):
        return {one.name: getattr(result, one.name) for one in dataclasses.fields(result)}
    return named(result) if isinstance(result, (Mapping, tuple, list)) else {"loss": result}


def scalars_of(result: Any, structures: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The numbers that a step returned, by name, detached and in float64; one alone is ``"loss"``.

    Args:
        result: what it returned.
        structures: losses by structure in it: their mean is a number too.

    Raises:
        EquivProbeError: there is none.
    """
    found = {}
    for name, value in entries_of(result).items():
        if structures and name in structures:
            found[name] = structures[name].mean()
        elif isinstance(value, torch.Tensor) and value.numel() == 1 and value.dtype != torch.bool:
            found[name] = wide(value.detach().reshape(()))
        elif isinstance(value, (numbers.Real, np.generic)) and not isinstance(value, bool):
            found[name] = torch.tensor(float(value), dtype=torch.float64)
    if not found:
        raise EquivProbeError(
            f"a step that returned {type(result).__name__} without a number",
            "its loss, or a dict of losses; or one loss for each structure, (B,)",
            "return loss",
        )
    return found


def losses_of_structures(result: Any, batch: Structures, *, named_too: bool) -> dict[str, Tensor]:
    """Tensors with as many entries as there are structures, or nodes of an index, detached and in float64, by name.

    They count where a step returned no number beside them.

    Args:
        result: what a step returned.
        batch: the structures of the network's call. Of an index of nodes the host knows only that there are no more
            structures than nodes.
        named_too: also those beside numbers whose name says that they are losses.
    """
    entries = entries_of(result)
    alone = not any(isinstance(v, torch.Tensor) and v.numel() == 1 for v in entries.values()) and not any(
        isinstance(v, (numbers.Real, np.generic)) for v in entries.values()
    )
    found = {}
    for name, value in entries.items():
        if not (isinstance(value, torch.Tensor) and value.ndim == 1 and value.is_floating_point()):
            continue
        of_nodes = batch.index is not None and len(value) == len(batch.index)
        fits = len(value) == batch.count or of_nodes or (batch.layout == "index" and 1 < len(value) < batch.count)
        if fits and (alone or len(value) == 1 or (named_too and "loss" in name.lower())):
            found[name] = wide(value.detach())
    return found


def attached_to_a_graph(result: Any) -> dict[str, Tensor]:
    """The numbers that a step returned with the graph they were computed by."""
    return {
        name: value.reshape(())
        for name, value in entries_of(result).items()
        if isinstance(value, torch.Tensor) and value.numel() == 1 and value.requires_grad
    }


def precision_of(result: Any, name: str) -> float:
    """Spacing of numbers relative to one, in the type of one number that a step returned."""
    value = entries_of(result)[name]
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return float(torch.finfo(value.dtype if floating else torch.float64).eps)
