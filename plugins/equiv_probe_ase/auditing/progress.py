"""The progress bar of an audit: structures done, their number, time left; on stderr, so that stdout stays a report."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def bar(total: int, done: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show progress over structures.

    Args:
        total: structures in all.
        done: of these, already there when it starts.
        label: what is audited.

    Yields:
        A function to call with the number of structures that were finished.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("structures"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
