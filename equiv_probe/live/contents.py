"""Copies of what a module's attributes hold, for a step that writes into them: containers, arrays and plain tensors."""

from __future__ import annotations

import array
import copy
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

INTERNAL = frozenset(vars(nn.Module()))
"""Parameters, buffers, submodules and hooks, which are kept otherwise."""

_WRITABLE = (Tensor, np.ndarray, list, dict, set, deque, bytearray, array.array)


def lend(modules: list[nn.Module], buffers: Mapping[int, Tensor], apart: Iterable[object] = ()) -> None:
    """Put copies in the place of what the attributes of modules hold; who kept the originals puts them back.

    Things that are held in several places are copied once, so that they are still the same thing. Containers inside
    containers are copied, too; parameters, modules and all other objects in them are not.

    Args:
        modules: whose attributes are replaced.
        buffers: the clones that already stand for buffers, by ``id`` of the buffer.
        apart: objects that somebody else takes care of, and that must stay the same.
    """
    known: dict[int, Any] = {**buffers, **{id(one): one for one in apart}}
    for module in modules:
        here = vars(module)
        for name in [name for name in here if name not in INTERNAL]:
            here[name] = copied(here[name], known)


def copied(value: Any, known: dict[int, Any]) -> Any:
    """A copy of something that can be written into, with copies of these in it; anything else itself.

    Args:
        value: to copy.
        known: copies by ``id`` of the original, to be filled.
    """
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Tensor):
        if value.requires_grad and value.grad_fn is None:
            return value  # parameters and inputs: a step may differentiate by them, and torch lets nobody write there
        # A total within the user's graph stays part of it, and its own memory is not written to.
        with torch.inference_mode(False), torch.enable_grad():
            made: Any = value.clone()
    elif isinstance(value, np.ndarray):
        made = value.copy()
    elif isinstance(value, _WRITABLE):
        made = copy.copy(value)
    else:
        return value
    known[id(value)] = made
    if isinstance(made, (list, dict, deque)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for place, entry in [(place, entry) for place, entry in pairs if isinstance(entry, _WRITABLE)]:
            made[place] = copied(entry, known)
    return made


def held(module: nn.Module) -> Iterator[nn.Module]:
    """Modules in the plain containers of a module, which torch does not know as its children: metrics in a dict."""
    left = [value for name, value in vars(module).items() if name not in INTERNAL]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, (list, tuple, dict, set, deque)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(iter(value.values() if isinstance(value, dict) else value))  # some tuples have no length
