"""Tables for terminals of any width: what does not fit beside something is put below it, and no number is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.measure import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_ENDLESS = 10_000


class Fitting:
    """One table where there is room for it, else others with the same numbers.

    Args:
        wide: the table.
        narrow: what takes its place.
        spare: columns that its last column, of words, may do without: words can be wrapped.

    >>> from io import StringIO
    >>> from rich.console import Console
    >>> from rich.table import Table
    >>> both = Fitting(Table("one", "another"), ["one", "another"])
    >>> console = Console(file=StringIO(), width=12)
    >>> console.print(both)
    >>> console.file.getvalue().split()
    ['one', 'another']
    """

    def __init__(self, wide: Table, narrow: Sequence[RenderableType], spare: int = 0) -> None:
        self.wide, self.narrow, self.spare = wide, narrow, spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Decide, and show."""
        needed = Measurement.get(console, options.update(width=_ENDLESS), self.wide).maximum - self.spare
        if needed <= options.max_width:
            yield self.wide
        else:
            yield from self.narrow
