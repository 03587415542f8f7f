"""Old spellings of public names and arguments: they keep working, and say what to write instead.

>>> import warnings
>>> @renamed(calc="calculator")
... def audit(calculator, repeats=1):
...     return calculator, repeats
>>> with warnings.catch_warnings(record=True) as heard:
...     warnings.simplefilter("always")
...     audit(calc="emt")
('emt', 1)
>>> print(heard[0].message)
equiv_probe: the argument calc of audit() is now called calculator
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for functions and methods some of whose keyword arguments have new names.

    The function itself, its signature and its documentation know the new names alone. A class is decorated at its
    ``__init__``.

    Args:
        new_names: the new name of each old one: ``@renamed(calc="calculator")``.

    Returns:
        The decorator. What it makes takes the old names too, with a ``DeprecationWarning`` at the line of the call, and
        raises :class:`EquivProbeError` where an argument comes under both its names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        unknown = set(new_names.values()) - set(parameters)
        if unknown:
            raise TypeError(f"{function.__qualname__} has no argument {', '.join(sorted(unknown))}")
        if set(new_names) & set(parameters):
            raise TypeError(f"{function.__qualname__} still has the arguments that are renamed")
        caller = function.__qualname__.rpartition("<locals>.")[2].removesuffix(".__init__")
        names = list(parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs or new in names[: len(args)]:
                    raise EquivProbeError(f"both {old} and {new} in a call of {caller}()", "one of them", new)
                warn(f"the argument {old} of {caller}() is now called {new}")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def warn(message: str, stacklevel: int = 2) -> None:
    """Warn, at the line that calls the caller of this function, that something still works under an old name.

    Args:
        message: what is called differently now, and how.
        stacklevel: more for each further function in between.
    """
    warnings.warn(f"equiv_probe: {message}", DeprecationWarning, stacklevel=stacklevel + 1)
