"""What a step can write into: remembered, and put back in place before the step is run again.

A closure's variables, the globals and arguments that it names, what objects and containers among them hold, and the
tensors and arrays in these. Modules are kept by :mod:`equiv_probe.live.module_snapshot`, random generators by
:class:`equiv_probe.live.random_state.RandomState`.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import logging
import types
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from equiv_probe.live.data_objects import FRAMEWORKS, is_data, is_of_the_user, is_own, package_of
from equiv_probe.live.kept_attributes import Attributes
from equiv_probe.live.kept_numbers import Numbers
from equiv_probe.live.kept_values import (
    NOTHING,
    WRITABLE,
    Contents,
    Place,
    cell,
    environment,
    is_of_c,
    of_c,
    shown,
    variable,
)
from equiv_probe.live.positions import Position
from equiv_probe.live.random_state import KINDS
from equiv_probe.live.unrepeatable import Crowd, Watched, is_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LOOKED_INTO = 256
"""Entries beyond which what a container holds is taken for data; the container itself is put back all the same."""
_DEEPEST = 16
"""Objects and containers within each other."""
LEARNING = 2
"""Times that all places are looked at, to see which are written into: after the ordinary run, and after another."""
_MOST = 20_000
"""Objects beyond which nothing more is remembered."""


class Memory:
    """What some things hold now.

    Args:
        roots: what is reached from, with a name for messages.
        apart: ids of objects that somebody else takes care of.
        packages: whose functions are looked through beside those of the user's own; none for that of the first.
    """

    def __init__(
        self, roots: Iterable[tuple[str, Any]], apart: Iterable[int] = (), packages: Iterable[str] = ()
    ) -> None:
        self._places: list[Place] = []
        self._scans = 0
        self._written: dict[int, Place] = {}
        self._seen: set[int] = set(apart)
        self._packages = set(packages)
        left = deque((name, value, 0) for name, value in roots)
        while left and len(self._seen) < _MOST:
            left.extend(self._remember(*left.popleft()))

    @classmethod
    def of_step(cls, step: Callable[..., Any], apart: Iterable[int] = ()) -> Memory:
        """What a step reaches; of a step that stands for another (``__wrapped__``), what that one reaches."""
        found = cls([("", getattr(step, "__wrapped__", step))], apart)
        found._places.append(environment())
        return found

    def now(self) -> Memory:
        """What the same places hold at this moment."""
        found = Memory([])
        found._places = [place.now() for place in self._places]
        return found

    def restore(self, *, surely: bool = False) -> None:
        """Put everything back, in place; the version counters of tensors too, for graphs that have saved them.

        A step writes into few of the thousands of places that it reaches, and run again into the same: after a few
        times only these are looked at, and those where writing may not show, until it is to be sure.

        Args:
            surely: also where nothing shows that it was written to.
        """
        learning = surely or self._scans < LEARNING
        for place in self._places if learning else list(self._written.values()):
            if place.put_back(surely=surely):
                self._written[id(place)] = place
        self._scans += not surely

    @property
    def changes(self) -> list[str]:
        """Names of what is not now what it was, as far as that shows without waiting for a device."""
        return list(dict.fromkeys(name for place in self._places for name in place.changes() if name))

    @property
    def lost(self) -> list[str]:
        """Names of what was written to and is too large to have been copied."""
        return [place.name for place in self._places if isinstance(place, Numbers) and place.lost]

    @property
    def tensors(self) -> list[Tensor]:
        """Those that were copied; of an array of floating-point numbers one that shares its memory."""
        kept = [place.value for place in self._places if isinstance(place, Numbers) and place.copy is not None]
        arrays = (one for one in kept if isinstance(one, np.ndarray) and one.dtype.kind == "f")
        shared = [torch.from_numpy(one) for one in arrays if one.dtype.isnative and min(one.strides, default=0) >= 0]
        return [*(one for one in kept if isinstance(one, Tensor)), *shared]

    @property
    def watched(self) -> list[Watched]:
        """What cannot be put back: files, iterators, queues."""
        return [place for place in self._places if isinstance(place, Watched)]

    def _remember(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        """Keep one thing, and name what it holds."""
        if id(value) in self._seen or depth > _DEEPEST:
            return
        if isinstance(value, (nn.Module, str, bytes, int, float, *KINDS)):
            return
        self._seen.add(id(value))
        by_kind: tuple[tuple[Any, Callable[[str, Any, int], Iterator[tuple[str, Any, int]]]], ...] = (
            ((Tensor, np.ndarray), self._numbers),
            ((*WRITABLE, tuple), self._contained),
            ((type, types.ModuleType), self._of_own_code),
            (types.FunctionType, self._named_in),
            (types.MethodType, self._of_method),
        )
        for kinds, remember in by_kind:
            if isinstance(value, kinds):
                yield from remember(name, value, depth)
                return
        yield from self._of_other(name, value, depth)

    def _numbers(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        if Numbers.keeps(value):
            self._places.append(Numbers.of(name, value))
        elif isinstance(value, np.ndarray) and value.dtype == object:
            yield from ((name, one, depth + 1) for one in islice(value.flat, _LOOKED_INTO))

    def _of_other(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        """Something that hands on to others, has a position, cannot be put back, or is an object with attributes."""
        parts = _parts_of(value)
        if parts is not None:
            yield from ((name, one, depth) for one in parts)
        elif Position.keeps(value):
            self._places.append(Position(name, value))
        elif isinstance(value, contextvars.ContextVar):
            self._places.append(variable(value))
        elif is_of_c(value):
            self._places.append(of_c(name, value))
        elif is_watched(value) and not is_own(value):
            self._places.append(Watched(name, value))
        elif is_data(value):
            yield from self._of_object(name, value, depth)

    def _looks_into(self, package: str) -> bool:
        return package in self._packages or is_of_the_user(package)

    def _of_object(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        """The attributes of an object, and what they hold; of a framework's, only what the user put there."""
        place = Attributes(name, value, plain=package_of(value) in FRAMEWORKS)
        self._places.append(place)
        held = {f"{name}.{key}" if name else key: one for key, one in place.held.items()}
        if place.plain:
            for key, one in held.items():
                if isinstance(one, WRITABLE):
                    entries = list(islice(one.values() if isinstance(one, dict) else one, _LOOKED_INTO))
                    # Of an optimizer's groups what stands in them, the rate for one, and none of its tensors.
                    held_there = [one, *(each for each in entries if isinstance(each, WRITABLE))]
                    self._places += [Contents.of(key, each) for each in held_there]
                    yield from ((key, each, depth + 1) for each in entries if is_own(each))
                elif isinstance(one, optim.Optimizer):  # whose rates a scheduler writes
                    yield key, one, depth + 1
            return
        if isinstance(value, logging.Filterer):  # whose files get nothing while a step is run again
            minded = [getattr(value, name, None) for name in ("stream", "filters", "parent", "manager")]
            held = {key: one for key, one in held.items() if all(one is not each for each in minded)}
        yield from ((key, one, depth + 1) for key, one in held.items())
        yield f"{name}'s class", type(value), depth + 1

    def _of_own_code(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        """What a class or a module of the user's own holds, and what the methods of the class name."""
        if isinstance(value, type):
            for one in [one for one in value.__mro__ if self._looks_into(one.__module__.partition(".")[0])]:
                place = Attributes(name or one.__name__, one)
                self._places.append(place)
                yield from ((f"{place.name}.{key}", held, depth + 1) for key, held in place.held.items())
                functions = (getattr(held, "__func__", getattr(held, "fget", held)) for held in vars(one).values())
                yield from (("", held, depth + 1) for held in functions if isinstance(held, types.FunctionType))
        elif self._looks_into(value.__name__.partition(".")[0]):
            held = {n: v for n, v in vars(value).items() if not (n.startswith("__") or callable(v))}
            self._places.append(Contents.of(name, vars(value), frozenset(held)))
            yield from ((f"{name}.{key}", one, depth + 1) for key, one in held.items())

    def _of_method(self, name: str, method: types.MethodType, depth: int) -> Iterator[tuple[str, Any, int]]:
        """A method's function, and its object; of a module its class, since its attributes are kept elsewhere."""
        owner = method.__self__
        yield name, method.__func__, depth
        yield name, type(owner) if isinstance(owner, nn.Module) else owner, depth

    def _contained(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Any, int]]:
        if not isinstance(value, tuple):
            self._places.append(Contents.of(name, value))
        if isinstance(value, (list, dict)) and len(value) > _LOOKED_INTO and Crowd.is_one(value):
            self._places.append(Crowd(name, value))
        if isinstance(value, dict):
            entries = [(f"{name}[{shown(key)}]", one) for key, one in islice(value.items(), _LOOKED_INTO)]
        elif isinstance(value, (list, tuple, set, deque)) and len(list(iter(value))) <= _LOOKED_INTO:
            entries = [(f"{name}[{k}]", one) for k, one in enumerate(list(iter(value)))]
        else:
            entries = []
        yield from ((label, one, depth + 1) for label, one in entries)

    def _named_in(self, name: str, function: types.FunctionType, depth: int) -> Iterator[tuple[str, Any, int]]:
        """The variables of a function's closure, and the globals that it names; of the step's own package."""
        del name
        package = str(function.__module__).partition(".")[0]
        if package in FRAMEWORKS or (self._packages and not self._looks_into(package)):
            return
        self._packages.add(package)
        if function.__dict__:
            self._places.append(Contents.of(function.__name__, function.__dict__))
            yield from ((f"{function.__name__}.{key}", one, depth) for key, one in function.__dict__.items())
        for label, own in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            place = cell(label, own)
            self._places.append(place)
            if place.held is not NOTHING:
                yield label, place.held, depth
        named = {name for code in _codes(function.__code__) for name in code.co_names}
        held = {name: function.__globals__[name] for name in named if name in function.__globals__}
        self._places.append(Contents.of("", function.__globals__, frozenset(named)))
        yield from ((label, one, depth) for label, one in held.items())
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        yield from (("a default", one, depth) for one in defaults)


def _parts_of(value: Any) -> tuple[Any, ...] | None:
    """What a callable, a writer of CSV, or a view of memory hands on to; None for anything else."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, types.ModuleType):
        return (value.__self__,)
    if isinstance(value, memoryview):
        return (value.obj,)
    if type(value).__module__ == "multiprocessing.sharedctypes":
        return (value.get_obj(),)
    if type(value).__module__ == "_csv":
        return tuple(gc.get_referents(value))
    return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions defined in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from _codes(one)
