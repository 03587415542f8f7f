"""Progress of long work: a bar in a terminal or a notebook, lines in a log, nothing where it takes two seconds or less.

>>> with progress(3, "squares") as advance:
...     for k in range(3):
...         advance(1)
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 2.0
"""Seconds after which progress is shown; in a log the next lines come after twice the time of the one before."""


@contextmanager
def progress(total: int, label: str, *, shown: bool = True, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how far work has come, on stderr or through the logger ``equiv_probe``.

    Args:
        total: how many pieces of work there are.
        label: what is done.
        shown: False shows nothing.
        done: pieces that were done before.

    Yields:
        A function to call with the number of pieces that were finished.
    """
    began, due, bar, task = time.monotonic(), PATIENCE, None, None

    def advance(count: int) -> None:
        nonlocal done, due, bar, task
        done += count
        if bar is not None and task is not None:
            bar.update(task, completed=done)
            return
        elapsed = time.monotonic() - began
        if not shown or elapsed <= due:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            bar = Progress(*columns, console=console, transient=True)
            bar.start()
            task = bar.add_task(label, total=total, completed=done)
        else:
            due = 2 * elapsed
            logger.info(f"{label}: {done} of {total}")

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
