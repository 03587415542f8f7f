"""What a step can write into: remembered, and put back in place before the step is run again.

A closure's variables, the globals and arguments that it names, what objects and containers among them hold, and the
tensors and arrays in these. Modules are kept by :mod:`equiv_probe.live.module_snapshot`, random generators by
:class:`equiv_probe.live.isolation.RandomState`.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from equiv_probe.live.generators import KINDS
from equiv_probe.live.kept_values import Cell, Contents, Numbers, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LOOKED_INTO = 256
"""Entries beyond which what a container holds is taken for data; the container itself is put back all the same."""
_DEEPEST = 6
"""Objects and containers within each other."""
_MOST = 20_000
"""Objects beyond which nothing more is remembered."""
_OTHERS = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "wandb", "hydra", "omegaconf"}
"""Packages whose objects are no data of a step's: trainers, optimizers, loaders, loggers."""


class Memory:
    """What some things hold now.

    Args:
        roots: what is reached from, with a name for messages.
        apart: ids of objects that somebody else takes care of.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], apart: Iterable[int] = ()) -> None:
        self._places: list[Place] = []
        self._seen: set[int] = set(apart)
        self._packages: set[str] = set()
        left = deque((name, value, 0) for name, value in roots)
        while left and len(self._seen) < _MOST:
            left.extend(self._remember(*left.popleft()))

    @classmethod
    def of_step(cls, step: Callable[..., Any], apart: Iterable[int] = ()) -> Memory:
        """What a step reaches; of a step that stands for another (``__wrapped__``), what that one reaches."""
        return cls([("", getattr(step, "__wrapped__", step))], apart)

    def now(self) -> Memory:
        """What the same places hold at this moment."""
        found = Memory([])
        found._places = [place.now() for place in self._places]
        return found

    def restore(self, *, surely: bool = False) -> None:
        """Put everything back, in place; the version counters of tensors too, for graphs that have saved them.

        Args:
            surely: also where nothing shows that it was written to.
        """
        for place in self._places:
            place.put_back(surely=surely)

    @property
    def changes(self) -> list[str]:
        """Names of what is not now what it was, as far as that shows without waiting for a device."""
        return list(dict.fromkeys(name for place in self._places for name in place.changes() if name))

    @property
    def lost(self) -> list[str]:
        """Names of what was written to and is too large to have been copied."""
        return [place.name for place in self._places if isinstance(place, Numbers) and place.lost]

    def _remember(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        """Keep one thing, and name what it holds."""
        if id(value) in self._seen or depth > _DEEPEST:
            return
        if isinstance(value, (nn.Module, type, types.ModuleType, str, bytes, int, float, *KINDS)):
            return
        self._seen.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            if Numbers.keeps(value):
                self._places.append(Numbers.of(name, value))
        elif isinstance(value, (list, dict, set, deque, tuple)):
            yield from self._contained(name, value, depth)
        elif isinstance(value, functools.partial):
            yield from (("", one, depth) for one in (value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            yield from (("", one, depth) for one in (value.__func__, value.__self__))
        elif isinstance(value, types.FunctionType):
            yield from self._named_in(value, depth)
        elif is_data(value):
            held = vars(value)
            self._places.append(Contents.of(name, held, form="{name}.{key}" if name else "{key}"))
            yield from ((f"{name}.{key}" if name else key, one, depth + 1) for key, one in list(held.items()))

    def _contained(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        if not isinstance(value, tuple):
            self._places.append(Contents.of(name, value))
        if isinstance(value, dict):
            entries = [(f"{name}[{key!r}]", one) for key, one in list(value.items())[:_LOOKED_INTO]]
        elif len(value) <= _LOOKED_INTO:
            entries = [(f"{name}[{k}]", one) for k, one in enumerate(list(iter(value)))]
        else:
            entries = []
        yield from ((label, one, depth + 1) for label, one in entries)

    def _named_in(self, function: types.FunctionType, depth: int) -> Iterator[tuple[str, Any, int]]:
        """The variables of a function's closure, and the globals that it names; of the step's own package."""
        package = str(function.__module__).partition(".")[0]
        if self._packages and package not in self._packages:
            return
        self._packages.add(package)
        for label, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            place = Cell(label, cell)
            self._places.append(place)
            yield from ((label, one, depth) for one in place.held)
        named = {name for code in _codes(function.__code__) for name in code.co_names}
        held = {name: function.__globals__[name] for name in named if name in function.__globals__}
        self._places.append(Contents.of("", function.__globals__, frozenset(named), "{key}"))
        yield from ((label, one, depth) for label, one in held.items())
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        yield from (("a default", one, depth) for one in defaults)


def is_data(value: Any) -> bool:
    """Whether an object is of a kind that a step keeps things in: of the user's own, or a batch of a framework's."""
    package = type(value).__module__.partition(".")[0]
    if isinstance(value, types.SimpleNamespace):
        return True
    if package in _OTHERS or package in sys.stdlib_module_names or package.startswith("equiv_probe"):
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions defined in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from _codes(one)
