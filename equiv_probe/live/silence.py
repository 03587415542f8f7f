"""What a replayed step prints, warns of and logs does not come out: its ordinary run has said it already."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SILENT: Counter[int] = Counter()
"""Threads that are silent now, and how deep."""
_LOCK = threading.RLock()
_INSTALLED = contextlib.ExitStack()


_WRITERS = (
    ("torch.utils.tensorboard.writer", "FileWriter", "add_event"),
    ("tensorboardX.writer", "FileWriter", "add_event"),
    ("wandb.sdk.wandb_run", "Run", "log"),
    ("mlflow.tracking.client", "MlflowClient", "log_metric"),
    ("mlflow.tracking.client", "MlflowClient", "log_batch"),
)
"""Through what writers of experiments' logs pass on all that they are given: by module, class and method."""


def _silent() -> bool:
    return threading.get_ident() in _SILENT


class _Stream:
    """A text stream that swallows what silent threads write; everything else goes through."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if _silent() else int(self._stream.write(text) or 0)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if not _silent():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """A context in which this thread's prints, warnings and log records go nowhere; exceptions surface.

    So do the numbers that it gives to the writers of TensorBoard, Weights & Biases and MLflow. Streams, filters and
    handlers are afterwards what they were. ``warnings.catch_warnings`` is not used: it makes
    Python forget which warnings it has shown, so that the user would read them again after every replay. What is
    written through a stream that somebody kept from before, or by compiled code, is not caught.
    """
    thread = threading.get_ident()

    def elsewhere(_: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    loggers = [
        logging.root,
        *(one for one in list(logging.root.manager.loggerDict.values()) if isinstance(one, logging.Logger)),
    ]
    handlers = {id(handler): handler for logger in loggers for handler in logger.handlers}
    for handler in handlers.values():
        handler.addFilter(elsewhere)
    # The streams belong to the whole process: the first thread that falls silent puts ours there, and the last one
    # takes them away. Each on its own would put another's back, for good.
    with _LOCK:
        if not _SILENT:
            _install()
        _SILENT[thread] += 1
    try:
        yield
    finally:
        with _LOCK:
            _SILENT[thread] -= 1
            if not _SILENT[thread]:
                del _SILENT[thread]
            if not _SILENT:
                _INSTALLED.close()
        for handler in handlers.values():
            handler.removeFilter(elsewhere)


def _elsewhere(write: Callable[..., Any]) -> Callable[..., Any]:
    """The same for threads that are not silent."""

    @functools.wraps(write)
    def written(*args: Any, **kwargs: Any) -> Any:
        return None if _silent() else write(*args, **kwargs)

    return written


def _install() -> None:
    show = warnings.showwarning

    def show_elsewhere(*args: Any, **kwargs: Any) -> None:
        if not _silent():
            show(*args, **kwargs)

    def put_back() -> None:
        if warnings.showwarning is show_elsewhere:
            warnings.showwarning = show

    for module, kind, method in _WRITERS:
        if (writer := getattr(sys.modules.get(module), kind, None)) is not None:
            _INSTALLED.callback(setattr, writer, method, getattr(writer, method))
            setattr(writer, method, _elsewhere(getattr(writer, method)))
    warnings.showwarning = show_elsewhere
    _INSTALLED.callback(put_back)
    _INSTALLED.enter_context(contextlib.redirect_stdout(_Stream(sys.stdout)))
    _INSTALLED.enter_context(contextlib.redirect_stderr(_Stream(sys.stderr)))
