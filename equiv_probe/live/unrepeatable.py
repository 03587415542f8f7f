"""What cannot be put back once a step has used it: files, iterators, queues, connections. It can only be watched.

A step that used one of these is not run again.
"""

from __future__ import annotations

import builtins
import functools
import gc
import io
import operator
import os
import queue
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator as IteratorKind
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_IN_MEMORY = (io.StringIO, io.BytesIO)
_SEQUENCES: tuple[type[Any], ...] = (
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(iter("")),
    type(iter(b"")),
    type(reversed([])),
)
"""Iterators that can be set back."""
_QUEUES = (queue.Queue, queue.SimpleQueue)
_WATCHED = (*_QUEUES, socket.socket, types.GeneratorType)
_WATCHED_TOO = {"sqlite3.Connection", "multiprocessing.connection.Connection", "multiprocessing.queues.Queue"}
_LOOKED_THROUGH = 20_000
"""Containers in one, of which it is looked how much they hold."""
_WRITING = frozenset("wax+")
_OPENS = "a file that it opens to write"
_CHANGING: tuple[tuple[Any, str, str], ...] = (
    (builtins, "open", _OPENS),
    (io, "open", _OPENS),
    (os, "open", _OPENS),
    (os, "write", "a file that it writes to"),
    *((os, name, "a file that it makes, moves or removes") for name in ("rename", "replace", "remove", "unlink")),
    *((os, name, "a folder that it makes or removes") for name in ("mkdir", "rmdir")),
    (os, "system", "a program that it runs"),
    (subprocess.Popen, "__init__", "a program that it runs"),
    (torch, "save", "a file that it saves"),
)
"""What changes something outside of the process: by owner and name, and what to say of it."""
_COMPILERS = ("torch._inductor", "torch._dynamo", "triton")
"""Whose files are caches, made at the first call."""


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


def _writes(_: Any = None, mode: Any = "r", *__: Any, **kwargs: Any) -> bool:
    """Whether something is opened to be written, by a mode of letters or by flags."""
    mode = kwargs.get("mode", kwargs.get("flags", mode))
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT))
    return bool(_WRITING & set(mode))


def _compiles() -> bool:
    """Whether it is a compiler that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(_COMPILERS):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


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
            for owner, name, what in _CHANGING:
                function = getattr(owner, name)
                stack.callback(setattr, owner, name, function)
                setattr(owner, name, self._noting(function, what))
            if frames and sys.getprofile() is None:
                sys.setprofile(self._resumed(frames))
                stack.callback(sys.setprofile, None)
            yield

    def _noting(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        thread = threading.get_ident()

        def noted(*args: Any, **kwargs: Any) -> Any:
            reads = what == _OPENS and not _writes(*args, **kwargs)
            if not reads and threading.get_ident() == thread and not _compiles():
                shown = next((Path(os.fsdecode(one)).name for one in args[:1] if isinstance(one, (str, Path))), "")
                self.names.append(f"{what} ({shown})" if shown else what)
            return function(*args, **kwargs)

        return functools.update_wrapper(noted, function)

    def _resumed(self, frames: dict[int, str]) -> Callable[[types.FrameType, str, Any], None]:
        def called(frame: types.FrameType, event: str, _: Any) -> None:
            if event == "call" and id(frame) in frames:
                self.names.append(frames[id(frame)])

        return called
