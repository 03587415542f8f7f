"""What a running step uses that shows only while it runs: generators that go on, files that it opens itself."""

from __future__ import annotations

import builtins
import functools
import io
import os
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Iterator

    from equiv_probe.live.unrepeatable import Watched

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


class Used:
    """Names of what a step used, as it uses it."""

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
