"""What cannot be put back once a step has used it: files, iterators, queues, connections. It can only be watched.

A step that used one of these is not run again.
"""

from __future__ import annotations

import builtins
import gc
import io
import operator
import os
import queue
import socket
import sys
import threading
import types
from collections.abc import Iterator as IteratorKind
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_IN_MEMORY = (io.StringIO, io.BytesIO)
_SEQUENCES: tuple[type[Any], ...] = (
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(iter("")),
    type(iter(b"")),
)
"""Iterators that can be set back."""
_QUEUES = (queue.Queue, queue.SimpleQueue)
_WATCHED = (*_QUEUES, socket.socket, types.GeneratorType)
_WATCHED_TOO = {"sqlite3.Connection", "multiprocessing.connection.Connection", "multiprocessing.queues.Queue"}
_WRITING = frozenset("wax+")


def is_stream(value: Any) -> bool:
    """Whether a value is a file, or something that is read or written like one."""
    standard = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(value, io.IOBase) and all(value is not one for one in standard)


def is_watched(value: Any) -> bool:
    """Whether a value is of a kind that cannot be put back."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return is_stream(value) or isinstance(value, (*_WATCHED, IteratorKind)) or kind in _WATCHED_TOO


class Position:
    """Where an iterator over a sequence, a text in memory or a file that is read stands.

    Args:
        name: for messages.
        value: the iterator or stream.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.held = self._state()

    @classmethod
    def keeps(cls, value: Any) -> bool:
        """Whether a value can be set back."""
        if isinstance(value, _SEQUENCES) or (isinstance(value, _IN_MEMORY) and not value.closed):
            return True
        if not is_stream(value) or value.closed:
            return False
        try:
            return bool(value.readable() and value.seekable() and not value.writable() and value.tell() >= 0)
        except OSError:  # while it is being iterated over
            return False

    def _state(self) -> Any:
        if isinstance(self.value, _SEQUENCES):
            reduced = self.value.__reduce__()
            return reduced[2] if len(reduced) > 2 else None
        contents = self.value.getvalue() if isinstance(self.value, _IN_MEMORY) else None
        return self.value.tell(), contents

    def now(self) -> Position:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return Position(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return [] if self._state() == self.held else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        del surely
        if not self.changes():
            return True
        if isinstance(self.value, _SEQUENCES):
            if self.held is not None:  # one that is at its end cannot be set back
                self.value.__setstate__(self.held)
            return True
        place, contents = self.held
        if contents is not None:
            self.value.seek(0)
            self.value.truncate()
            self.value.write(contents)
        self.value.seek(place)
        return True


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
        return repr(value), own, inner, operator.length_hint(value, -1) if isinstance(value, _SEQUENCES) else 0
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


class Used:
    """What a running step uses that shows only while it runs: generators that go on, files that it opens itself."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def watching(self, watched: Iterable[Watched]) -> Iterator[None]:
        """A context of one run.

        Args:
            watched: what the step reaches.
        """
        frames = {id(g.gi_frame): str(one) for one in watched for g in one.generators() if g.gi_frame is not None}
        with ExitStack() as stack:
            for module in (builtins, io):
                stack.callback(setattr, module, "open", module.open)
                module.open = self._noting(module.open)  # type: ignore[attr-defined]
            if frames and sys.getprofile() is None:
                sys.setprofile(self._resumed(frames))
                stack.callback(sys.setprofile, None)
            yield

    def _noting(self, opening: Callable[..., Any]) -> Callable[..., Any]:
        thread = threading.get_ident()

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if _WRITING & set(mode) and threading.get_ident() == thread:
                self.names.append(f"a file that it opens to write ({Path(str(file)).name})")
            return opening(file, mode, *args, **kwargs)

        return opened

    def _resumed(self, frames: dict[int, str]) -> Callable[[types.FrameType, str, Any], None]:
        def called(frame: types.FrameType, event: str, _: Any) -> None:
            if event == "call" and id(frame) in frames:
                self.names.append(frames[id(frame)])

        return called
