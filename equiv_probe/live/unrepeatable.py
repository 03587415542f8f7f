"""What cannot be put back once a step has used it: files, iterators, queues, connections. It can only be watched.

A step that used one of these is not run again.
"""

from __future__ import annotations

import gc
import operator
import os
import queue
import socket
import types
from collections.abc import Iterator as IteratorKind
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.live.positions import is_stream

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUEUES = (queue.Queue, queue.SimpleQueue)
_WATCHED = (*_QUEUES, socket.socket, types.GeneratorType)
_WATCHED_TOO = {"sqlite3.Connection", "multiprocessing.connection.Connection", "multiprocessing.queues.Queue"}
_LOOKED_THROUGH = 20_000
"""Containers in one, of which it is looked how much they hold."""


def is_watched(value: Any) -> bool:
    """Whether a value is of a kind that cannot be put back."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return is_stream(value) or isinstance(value, (*_WATCHED, IteratorKind)) or kind in _WATCHED_TOO


class Watched:
    """Something that cannot be put back: whether it was used shows, more or less.

    Args:
        name: for messages.
        value: the file, iterator, queue or connection.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.mark = _mark(value)

    def now(self) -> Watched:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return Watched(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return [self.name] if _mark(self.value) != self.mark else []

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        del surely
        return False

    def __str__(self) -> str:
        kind = "file" if is_stream(self.value) else type(self.value).__name__
        path = getattr(self.value, "name", None) if kind == "file" else None
        shown = f"{kind} {Path(path).name}" if isinstance(path, str) else kind
        return f"{self.name} ({shown})" if self.name else shown

    def generators(self) -> list[Any]:
        """Generators that go on when this is used."""
        return [one for one in _within(self.value) if isinstance(one, types.GeneratorType)]


class Crowd(Watched):
    """Many containers in one, which are not all looked into: that a step adds to any of them shows by their lengths."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.mark = self._length()

    @staticmethod
    def is_one(value: Any) -> bool:
        """Whether a container holds containers."""
        entries = value.values() if isinstance(value, dict) else value
        return isinstance(next(iter(entries), None), (list, dict, set)) and len(value) <= _LOOKED_THROUGH

    def _length(self) -> int:
        entries = self.value.values() if isinstance(self.value, dict) else self.value
        return sum(len(one) for one in entries if isinstance(one, (list, dict, set)))

    def now(self) -> Crowd:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return Crowd(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return [self.name] if self._length() != self.mark else []


def _mark(value: Any) -> Any:
    """Something that is another one once a value was used; where that does not show, always another one."""
    if is_stream(value):
        return _place_of(value)
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return None if frame is None else (frame.f_lasti, _Same(frame.f_locals.values()))
    if isinstance(value, _QUEUES):
        return value.qsize(), getattr(value, "unfinished_tasks", 0)
    if isinstance(value, IteratorKind):
        own = {n: v for n, v in getattr(value, "__dict__", {}).items() if isinstance(v, (int, str))}
        inner = [_mark(one) for one in _within(value)[1:]]
        counts = type(value).__module__ == "builtins" and hasattr(value, "__length_hint__")  # of a dict's, for one
        return repr(value), own, inner, operator.length_hint(value, -1) if counts else 0
    return getattr(value, "total_changes", object())  # which a database has


def _within(iterator: Any) -> list[Any]:
    """An iterator, and those that it goes through: of ``zip``, ``map``, ``enumerate``, ``itertools.chain``, ...."""
    found = [iterator]
    if not isinstance(iterator, types.GeneratorType) and hasattr(iterator, "__next__"):
        held = gc.get_referents(iterator)
        held += [one for several in held if isinstance(several, tuple) for one in several]
        inner = [one for one in held if isinstance(one, IteratorKind) and one is not iterator]
        found += [each for one in inner for each in _within(one)]
    return found


class _Same:
    """Objects, compared by identity."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self.objects = list(objects)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Same)
        return list(map(id, self.objects)) == list(map(id, other.objects))

    __hash__ = None  # type: ignore[assignment]


def _place_of(stream: Any) -> Any:
    if stream.closed:
        return "closed"
    try:
        return stream.tell() if stream.seekable() else object()
    except OSError:  # a file that is being iterated over does not say
        return os.lseek(stream.fileno(), 0, os.SEEK_CUR)
