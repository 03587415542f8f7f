"""Single places that can be written into, and what they held: containers and variables."""

from __future__ import annotations

import array
import ctypes
import os
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import types

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


class Cell:
    """A variable of a closure.

    Args:
        name: of the variable.
        cell: that holds it.
    """

    def __init__(self, name: str, cell: types.CellType) -> None:
        self.name, self.cell = name, cell
        self.held: tuple[Any, ...] = self._contents()

    def _contents(self) -> tuple[Any, ...]:
        try:
            return (self.cell.cell_contents,)
        except ValueError:  # not assigned yet
            return ()

    def now(self) -> Cell:
        """See :class:`Place`."""
        return Cell(self.name, self.cell)

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        here = self._contents()
        same = len(here) == len(self.held) and all(a is b for a, b in zip(here, self.held, strict=True))
        return [] if same else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        del surely
        if self.held:
            self.cell.cell_contents = self.held[0]
        elif self._contents():
            del self.cell.cell_contents
        return True


@dataclass(frozen=True)
class Raw:
    """A number, an array or a structure of C.

    Attributes:
        name: for messages.
        value: of ``ctypes``.
        held: its bytes.
    """

    name: str
    value: Any
    held: bytes

    @staticmethod
    def keeps(value: Any) -> bool:
        """Whether a value is one."""
        return isinstance(value, _OF_C)

    @classmethod
    def of(cls, name: str, value: Any) -> Raw:
        """One, and what it holds now."""
        return cls(name, value, bytes(value))

    def now(self) -> Raw:
        """See :class:`Place`."""
        return Raw.of(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        return [] if bytes(self.value) == self.held else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        del surely
        changed = bool(self.changes())
        if changed:
            ctypes.memmove(ctypes.addressof(self.value), self.held, len(self.held))
        return changed


class Environment:
    """The variables of the environment."""

    name = "os.environ"

    def __init__(self) -> None:
        self.held = dict(os.environ)

    def now(self) -> Environment:
        """See :class:`Place`."""
        return Environment()

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        return [] if dict(os.environ) == self.held else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        del surely
        changed = bool(self.changes())
        if changed:
            os.environ.clear()
            os.environ.update(self.held)
        return changed
