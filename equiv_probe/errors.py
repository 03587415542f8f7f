"""The one exception type: what was found, what was expected, and the argument that fixes it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EquivProbeError(Exception):
    """Something that cannot be measured as asked.

    Args:
        found: what was found.
        expected: what was expected instead.
        fix: the argument, or the line of code, that puts it right.

    >>> print(EquivProbeError("a tensor of shape (5, 2)", "a last axis of 3", "declare it: ep.scalar"))
    found a tensor of shape (5, 2); expected a last axis of 3. Fix: declare it: ep.scalar
    """

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        message = f"found {found}"
        if expected:
            message += f"; expected {expected}"
        if fix:
            message += f". Fix: {fix}"
        super().__init__(message)

    def __reduce__(self) -> tuple[type[EquivProbeError], tuple[str, str, str]]:
        """Pickle by the three parts, so that workers can raise it across processes."""
        return type(self), (self.found, self.expected, self.fix)


def nearest(given: object, names: Iterable[str]) -> str:
    """The name that is spelled most like what was given; empty if none is."""
    return next(iter(difflib.get_close_matches(str(given), list(names), 1)), "")


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """The end of a sentence that offers the nearest of some names, empty if none is spelled like what was given.

    >>> did_you_mean("mze", ["mse", "mae"])
    "; did you mean 'mse'?"
    >>> did_you_mean("seven", ["mse", "mae"])
    ''
    """
    near = nearest(given, names)
    return f"; did you mean {near!r}?" if near else ""


def missing_file(path: str | Path, expected: str, fix: str = "") -> EquivProbeError:
    """The error of a file that is not there, which offers the file beside it that is spelled most like it.

    Args:
        path: the file that was named.
        expected: what kind of file it should be.
        fix: what to do where no file is spelled like it.
    """
    path = Path(path)
    folder = path.parent
    near = nearest(path.name, (one.name for one in folder.iterdir())) if folder.is_dir() else ""
    return EquivProbeError(f"no file {path}", expected, f"did you mean {folder / near}?" if near else fix)


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What somebody else's code raised, and what it said, in so many characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]
