"""The states of all random generators that a step may draw from: the global ones, and those that modules hold."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.live.held_by_modules import INTERNAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

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


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context; asking does not make one."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class RandomState:
    """The global random states of Python, NumPy, torch on the CPU and torch on every CUDA device in use.

    Attributes:
        own: generators of the user's own, and their states.
    """

    python: object
    numpy: Any
    cpu: Tensor
    cuda: tuple[Tensor, ...]
    own: tuple[tuple[Any, Any], ...] = ()

    @classmethod
    def now(cls, generators: Iterable[Any] = ()) -> RandomState:
        """The present states, and those of generators; a CUDA context is not created for it."""
        cuda = torch.cuda.get_rng_state_all() if cuda_in_use() else []
        own = tuple((one, state_of(one)) for one in generators)
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), tuple(cuda), own)  # noqa: NPY002

    def moved(self, *, numpy: bool = True) -> bool:
        """Whether something has drawn from one of these since; ``numpy`` asks for NumPy's and Python's too."""
        after = RandomState.now(generator for generator, _ in self.own)
        tensors = [(self.cpu, after.cpu), *zip(self.cuda, after.cuda, strict=False)]
        pairs = [(a, b) for (_, a), (_, b) in zip(self.own, after.own, strict=True) if isinstance(a, torch.Tensor)]
        if any(not torch.equal(a, b) for a, b in (*tensors, *pairs)):
            return True
        others = self.python != after.python
        return numpy and (others or any(not np.array_equal(a, b) for a, b in zip(self.numpy, after.numpy, strict=True)))

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self.python)  # type: ignore[arg-type]
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        for device, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, device)
        for generator, state in self.own:
            put_back(generator, state)
