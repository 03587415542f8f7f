"""What a replayed step prints, warns of and logs does not come out: its ordinary run has said it already."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class _Stream:
    """A text stream that swallows what one thread writes; everything else goes through."""

    def __init__(self, stream: Any, thread: int) -> None:
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else int(self._stream.write(text) or 0)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if threading.get_ident() != self._thread:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """A context in which this thread's prints, warnings and log records go nowhere; exceptions surface.

    Streams, filters and handlers are afterwards what they were. ``warnings.catch_warnings`` is not used: it makes
    Python forget which warnings it has shown, so that the user would read them again after every replay. What is
    written through a stream that somebody kept from before, or by compiled code, is not caught.
    """
    thread = threading.get_ident()

    def elsewhere(_: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    show = warnings.showwarning

    def show_elsewhere(*args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != thread:
            show(*args, **kwargs)

    loggers = [
        logging.root,
        *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    handlers = {id(handler): handler for logger in loggers for handler in logger.handlers}
    for handler in handlers.values():
        handler.addFilter(elsewhere)
    warnings.showwarning = show_elsewhere
    try:
        with (
            contextlib.redirect_stdout(_Stream(sys.stdout, thread)),
            contextlib.redirect_stderr(_Stream(sys.stderr, thread)),
        ):
            yield
    finally:
        if warnings.showwarning is show_elsewhere:
            warnings.showwarning = show
        for handler in handlers.values():
            handler.removeFilter(elsewhere)
