"""How far an audit is: a bar in a terminal, lines in a log; on stderr, so that stdout stays a report."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 2.0
"""Seconds before anything is shown."""
BETWEEN = 20.0
"""Seconds between two lines in a log."""


@contextmanager
def progress_over(total: int, label: str, *, done: int = 0, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show progress over structures once it takes longer than two seconds.

    Args:
        total: structures in all.
        label: what is audited.
        done: structures that were there already when it starts.
        shown: False shows nothing.

    Yields:
        A function to call with the number of structures that were finished.
    """
    console = Console(stderr=True)
    if not shown:
        yield lambda _: None
    elif not console.is_terminal:
        yield _lines(total, label, done)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("structures"))
        bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        task = bar.add_task(label, total=total, completed=done)
        start = Timer(PATIENCE, bar.start)
        start.daemon = True
        start.start()
        try:
            yield lambda count: bar.advance(task, count)
        finally:
            start.cancel()
            start.join()
            bar.stop()


def _lines(total: int, label: str, done: int) -> Callable[[int], None]:
    """A line of the log after two seconds, and then every twenty."""
    began = time.perf_counter()
    finished, next_at = done, began + PATIENCE

    def advance(count: int) -> None:
        nonlocal finished, next_at
        finished += count
        now = time.perf_counter()
        if now >= next_at:
            next_at = now + BETWEEN
            left = (now - began) * (total - finished) / max(1, finished - done)
            logger.info(f"equiv_probe: {label}: {finished} of {total} structures, {left:.0f} s left")

    return advance
