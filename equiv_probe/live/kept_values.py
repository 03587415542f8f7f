"""Single places that can be written into, and what they held: containers and variables."""

from __future__ import annotations

import array
import contextvars
import ctypes
import operator
import os
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

_BYTES = (bytearray, array.array)
WRITABLE = (list, dict, set, deque, *_BYTES)
"""Containers that can be written into."""
_OF_C = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure, ctypes.Union)


class Place(Protocol):
    """Something that can be written into."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def now(self) -> Place:
        """The same place, and what it holds now."""
        ...

    def changes(self) -> list[str]:
        """Names of what it holds that is not what it was, as far as that shows without waiting for a device."""
        ...

    def put_back(self, *, surely: bool = False) -> bool:
        """Let it hold again what it held; surely, also where nothing shows that it was written to.

        Returns:
            Whether it was written to, or may have been.
        """
        ...


@dataclass(frozen=True)
class Contents:
    """A container, or the globals of a module.

    Attributes:
        name: for messages.
        container: list, dict, set, deque or array of bytes.
        held: a shallow copy.
        only: keys of a dict that matter; None for all.
    """

    name: str
    container: Any
    held: Any
    only: frozenset[str] | None = None

    @classmethod
    def of(cls, name: str, container: Any, only: frozenset[str] | None = None) -> Contents:
        """A container and what it holds now."""
        return cls(name, container, _shallow(container, only), only)

    def now(self) -> Contents:
        """See :class:`Place`."""
        return replace(self, held=_shallow(self.container, self.only))

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        here, held = _shallow(self.container, self.only), self.held
        if isinstance(here, dict):
            keys = [key for key in {**here, **held} if here.get(key, here) is not held.get(key, held)]
            moved = not keys and self.only is None and list(here) != list(held)
            return [self.name] if moved else [f"{self.name}[{shown(key)}]" if self.name else str(key) for key in keys]
        if isinstance(here, set):
            return [self.name] if here != held else []
        same = len(here) == len(held) and all(a is b for a, b in zip(here, held, strict=True))
        return [] if same or (isinstance(self.container, _BYTES) and here == held) else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        del surely
        if not self.changes():
            return False
        if self.only is not None:
            for key in self.only & set(self.container):
                del self.container[key]
            self.container.update(self.held)
        elif isinstance(self.container, _BYTES):
            self.container[:] = self.held
        else:
            # By the methods of the kind itself: a class of the user's own may do more in its.
            kind: Any = next(one for one in (OrderedDict, *WRITABLE) if isinstance(self.container, one))
            kind.clear(self.container)
            (kind.extend if kind in {list, deque} else kind.update)(self.container, self.held)
        return True


def shown(key: Any) -> str:
    """A key in a message: others than these may be anything, and large."""
    return repr(key) if isinstance(key, (str, int, float)) else type(key).__name__


def _shallow(container: Any, only: frozenset[str] | None) -> Any:
    if isinstance(container, dict):
        return dict(container) if only is None else {key: container[key] for key in only if key in container}
    if isinstance(container, _BYTES):
        return container[:]
    return set(container) if isinstance(container, set) else list(container)


@dataclass(frozen=True)
class Kept:
    """One thing that holds one value.

    Attributes:
        name: for messages.
        read: what it holds.
        write: lets it hold a value that was read.
        held: what it held.
        alike: whether two values that were read are the same.
        always: let it hold that again whether it was written to or not.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    held: Any
    alike: Callable[[Any, Any], bool] = operator.is_
    always: bool = False

    def now(self) -> Kept:
        """See :class:`Place`."""
        return replace(self, held=self.read())

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        return [] if self.alike(self.read(), self.held) else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        del surely
        changed = self.always or bool(self.changes())
        if changed:
            self.write(self.held)
        return changed


NOTHING = object()
"""What a variable of a closure holds that is not assigned yet."""


def cell(name: str, of: types.CellType) -> Kept:
    """A variable of a closure, which may not be assigned yet."""

    def read() -> Any:
        try:
            return of.cell_contents
        except ValueError:
            return NOTHING

    def write(value: Any) -> None:
        if value is not NOTHING:
            of.cell_contents = value
        elif read() is not NOTHING:
            del of.cell_contents

    return Kept(name, read, write, read(), always=True)


def is_of_c(value: Any) -> bool:
    """Whether a value is a number, an array or a structure of C."""
    return isinstance(value, _OF_C)


def of_c(name: str, value: Any) -> Kept:
    """The bytes of a number, an array or a structure of ``ctypes``."""

    def write(held: bytes) -> None:
        ctypes.memmove(ctypes.addressof(value), held, len(held))

    return Kept(name, lambda: bytes(value), write, bytes(value), operator.eq)


def variable(of: contextvars.ContextVar[Any]) -> Kept:
    """A variable of the context; one that had no value before cannot be without one again."""

    def read() -> Any:
        return contextvars.copy_context().get(of, of)

    return Kept(of.name, read, lambda held: None if held is of else of.set(held), read())


def environment() -> Kept:
    """The variables of the environment."""

    def write(held: dict[str, str]) -> None:
        os.environ.clear()
        os.environ.update(held)

    return Kept("os.environ", lambda: dict(os.environ), write, dict(os.environ), operator.eq)
