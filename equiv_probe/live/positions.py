"""Where iterators over sequences, texts in memory and files that are read stand, which can be set back."""

from __future__ import annotations

import io
import sys
from typing import Any

_IN_MEMORY = (io.StringIO, io.BytesIO)
_SEQUENCES: tuple[type[Any], ...] = (
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(iter("")),
    type(iter(b"")),
    type(reversed([])),
)
"""Iterators that can be set back."""


def is_stream(value: Any) -> bool:
    """Whether a value is a file, or something that is read or written like one."""
    standard = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(value, io.IOBase) and all(value is not one for one in standard)


class Position:
    """Where an iterator over a sequence, a text in memory or a file that is read stands.

    Args:
        name: for messages.
        value: the iterator or stream.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.held = self._state()

    @classmethod
    def keeps(cls, value: Any) -> bool:
        """Whether a value can be set back."""
        if isinstance(value, _SEQUENCES) or (isinstance(value, _IN_MEMORY) and not value.closed):
            return True
        if not is_stream(value) or value.closed:
            return False
        try:
            return bool(value.readable() and value.seekable() and not value.writable() and value.tell() >= 0)
        except OSError:  # while it is being iterated over
            return False

    def _state(self) -> Any:
        if isinstance(self.value, _SEQUENCES):
            reduced = self.value.__reduce__()
            return reduced[2] if len(reduced) > 2 else None
        contents = self.value.getvalue() if isinstance(self.value, _IN_MEMORY) else None
        return self.value.tell(), contents

    def now(self) -> Position:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return Position(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return [] if self._state() == self.held else [self.name]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        del surely
        if not self.changes():
            return True
        if isinstance(self.value, _SEQUENCES):
            if self.held is not None:  # one that is at its end cannot be set back
                self.value.__setstate__(self.held)
            return True
        place, contents = self.held
        if contents is not None:
            self.value.seek(0)
            self.value.truncate()
            self.value.write(contents)
        self.value.seek(place)
        return True
