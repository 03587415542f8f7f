"""What a step's code can reach beside the network, to be kept from replays: metrics, heads, teachers, generators."""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

from torch import nn

from equiv_probe.live.random_state import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

_MANY = 256
"""Entries beyond which a container is taken for data."""


def modules_of(step: Callable[..., Any]) -> list[nn.Module]:
    """Modules that a function names: in its closure, among its globals, as its ``self``, in containers of these.

    Functions of the same package that it names are looked through in the same way, and of any other object what it
    holds itself.

    >>> metric, layer = nn.Identity(), nn.Identity()
    >>> def evaluate():
    ...     return metric
    >>> set(modules_of(functools.partial(lambda one: (evaluate(), one), {"head": layer}))) == {metric, layer}
    True
    """
    return [one for one in _reached(step) if isinstance(one, nn.Module)]


def generators_in(step: Callable[..., Any]) -> list[Any]:
    """Random generators that a function names, likewise; those that modules hold are found with the modules."""
    return [one for one in _reached(step) if isinstance(one, KINDS)]


def _reached(step: Callable[..., Any]) -> list[Any]:
    """Modules and generators."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    packages: set[str] = set()
    left: list[tuple[Any, bool]] = [(step, True)]
    while left:
        value, look_inside = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (nn.Module, *KINDS)):
            found[id(value)] = value
        elif isinstance(value, functools.partial):
            left += [(one, True) for one in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, types.MethodType):
            left += [(value.__func__, True), (value.__self__, True)]
        elif isinstance(value, types.FunctionType):
            package = str(value.__module__).partition(".")[0]
            if not packages or package in packages:
                packages.add(package)
                left += [(one, True) for one in _named_in(value)]
        elif isinstance(value, (list, tuple, dict, set)):
            entries = value.values() if isinstance(value, dict) else value
            left += [(one, False) for one in entries] if len(value) <= _MANY else []
        elif look_inside and not isinstance(value, (type, types.ModuleType)):
            left += [(one, False) for one in getattr(value, "__dict__", {}).values()]
    return list(found.values())


def _named_in(function: types.FunctionType) -> list[Any]:
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    try:
        names = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return defaults
    return [*names.nonlocals.values(), *names.globals.values(), *defaults]
