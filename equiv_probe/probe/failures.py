"""What could not be measured: raised at the first measurement, unless nobody asked; listed and warned of later."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Failures(list[str]):
    """What could not be measured, in words; never the end of a training run that was measured before."""

    def __init__(self) -> None:
        super().__init__()
        self.succeeded = False
        """Whether anything was measured yet."""
        self.at_first: Callable[[Exception], object] | None = None
        """Told of a failure before that, which then is not raised: for runs that nobody may end. None raises it."""

    @contextmanager
    def listed(self, result: list[object] | None = None) -> Iterator[None]:
        """A context of a measurement, whose failure is raised before the first success; then it is listed.

        Args:
            result: of the user's own step, filled inside; while it is empty, it is that step which fails.
        """
        try:
            yield
        except Exception as error:
            if result == []:
                raise
            self.take(error)
        else:
            self.succeeded = True

    def take(self, error: Exception) -> None:
        """Raise a failure before the first success, unless somebody is told of it; list later ones."""
        if self.succeeded:
            self.add(error, "measure")
        elif self.at_first is None:
            raise error
        else:
            self.append(_told(error))
            self.at_first(error)

    def add(self, error: Exception, what: str) -> None:
        """List a failure, and warn of the first."""
        self.append(_told(error))
        self.warn(error, what)

    def warn(self, error: Exception, what: str = "measure") -> None:
        """Say of the first failure that something could not be measured."""
        if len(self) == 1:
            warnings.warn(f"equiv_probe could not {what}, and carries on: {_told(error)}", stacklevel=6)


def _told(error: BaseException) -> str:
    """An exception in words, with our note on it."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("equiv_probe")]
    return ". ".join([f"{type(error).__name__}: {error}", *notes])
