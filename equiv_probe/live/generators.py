"""Random generators of the user's own: those that modules hold, which a step that is run again draws from once more."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.live.contents import INTERNAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def generators_of(modules: Iterable[nn.Module]) -> list[Any]:
    """The generators in the attributes of modules and of all that is in them.

    Containers are looked through, and the attributes of plain objects: a sampler of noise that is no module.
    """
    found: dict[int, Any] = {}
    seen: set[int] = set()
    for root in modules:
        for module in root.modules():
            if id(module) not in seen:
                seen.add(id(module))
                for name, value in vars(module).items():
                    if name not in INTERNAL:
                        found.update((id(one), one) for one in _within(value, seen))
    return list(found.values())


def _within(value: Any, seen: set[int], *, deeper: bool = True) -> Iterator[Any]:
    if isinstance(value, KINDS):
        yield value
    elif isinstance(value, (torch.Tensor, torch.nn.Module, str, int, float, type)) or id(value) in seen:
        return
    elif isinstance(value, (list, tuple, dict, set, deque)):
        seen.add(id(value))
        # iter(): a tuple of somebody's own (e3nn's Irrep) may have no length, and list() asks for it.
        for entry in list(iter(value.values() if isinstance(value, dict) else value)):
            yield from _within(entry, seen, deeper=deeper)
    elif deeper and hasattr(value, "__dict__"):
        seen.add(id(value))
        yield from (entry for entry in list(vars(value).values()) if isinstance(entry, KINDS))


def state_of(generator: Any) -> Any:
    """What :func:`put_back` needs."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()


def put_back(generator: Any, state: Any) -> None:
    """Undo what a generator was asked for since :func:`state_of`."""
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)
