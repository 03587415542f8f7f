"""Progress of long work: a bar in a terminal or a notebook, lines in a log, nothing where it takes two seconds or less.

>>> with progress(3, "squares") as advance:
...     for k in range(3):
...         advance(1)
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 2.0
"""Seconds after which progress is shown; in a log the next lines come after twice the time of the one before."""
LONGEST = 600.0
"""Seconds between two lines of a log, at most."""


@contextmanager
def progress(
    total: int, label: str, unit: str = "", *, shown: bool = True, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show how far work has come, on stderr or through the logger ``equiv_probe``.

    Args:
        total: how many pieces of work there are.
        label: what is done.
        unit: what the pieces are, such as ``"structures"``.
        shown: False shows nothing.
        done: pieces that were done before.

    Yields:
        A function to call with the number of pieces that were finished.
    """
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _lines(total, label, unit, done)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = bar.add_task(label, total=total, completed=done)
    start = Timer(PATIENCE, bar.start)  # a first piece that takes long shows too
    start.daemon = True
    start.start()
    try:
        yield lambda count: bar.advance(task, count)
    finally:
        start.cancel()
        start.join()
        bar.stop()


def _lines(total: int, label: str, unit: str, done: int) -> Callable[[int], None]:
    began, finished, due = time.monotonic(), done, PATIENCE

    def advance(count: int) -> None:
        nonlocal finished, due
        finished += count
        elapsed = time.monotonic() - began
        if elapsed > due:
            due = elapsed + min(elapsed, LONGEST)
            left = elapsed * (total - finished) / max(1, finished - done)
            logger.info(f"{label}: {finished} of {total}{f' {unit}' if unit else ''}, {left:.0f} s left")

    return advance
