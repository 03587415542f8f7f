"""Several threads that call one network: those that pass through it, and the one that measures.

A measurement puts the network in eval mode and lends it buffers, which no other thread must see: it begins only when
nobody else is inside, and who comes then waits for its end.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Threads:
    """Who is inside of a network."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[int] = set()
        self._measuring: int | None = None

    def enter(self) -> bool:
        """Note that this thread goes in, after the end of a measurement by another one.

        Returns:
            Whether it is alone there.
        """
        me = threading.get_ident()
        self._inside.add(me)  # then look who measures: who measures says so, then looks in here, and one sees the other
        if self._measuring not in (None, me):
            self._inside.discard(me)
            with self._changed:
                while self._measuring not in (None, me):
                    self._changed.wait()
                self._inside.add(me)
        return len(self._inside) == 1 or not self._others(me)

    def leave(self) -> None:
        """Note that it has come out."""
        self._inside.discard(threading.get_ident())

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """A context in which no other thread comes in; says whether it is so, which it is not if one was inside."""
        me = threading.get_ident()
        with self._changed:
            before, alone = self._measuring, self._measuring in (None, me)
            if alone:
                self._measuring = me  # before looking who is inside, see enter
                alone = not self._others(me)
            if not alone and self._measuring == me:  # nobody waits for one that does not measure
                self._measuring = before
                self._changed.notify_all()
        try:
            yield alone
        finally:
            if alone:
                with self._changed:
                    self._measuring = before
                    self._changed.notify_all()

    def _others(self, me: int) -> set[int]:
        """Other threads inside: not those that ended there, by an exception."""
        if others := self._inside - {me}:
            self._inside -= others - {thread.ident for thread in threading.enumerate()}
        return self._inside - {me}
