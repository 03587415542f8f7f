"""Controls that a probe ran so far, each once for every mode of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.estimation.controls import Control
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Iterable


class FoundControls:
    """What was found, and what was looked at already."""

    def __init__(self) -> None:
        self.controls: list[Control] = []
        self.notes: list[str] = []
        """What a reader should know that is no control."""
        self._looked: set[tuple[str, bool]] = set()

    def first(self, kind: str, training: bool) -> bool:
        """Whether something is looked at for the first time in a mode."""
        first = (kind, training) not in self._looked
        self._looked.add((kind, training))
        return first

    def looked_at(self, kind: str, training: bool) -> bool:
        """Whether something was looked at in a mode."""
        return (kind, training) in self._looked

    def withdraw(self, control: Control) -> None:
        """Forget a control that later ones decide."""
        self.controls = [one for one in self.controls if repr(one) != repr(control)]

    def failed(self, name: str, sentence: str, **numbers: float) -> None:
        """A control failed."""
        self.note(Control(name, False, sentence, **numbers))

    def passed(self, name: str, sentence: str) -> None:
        """A control was passed."""
        self.note(Control(name, True, sentence))

    def note(self, control: Control) -> None:
        """Keep a control, once."""
        if repr(control) not in map(repr, self.controls):  # from Python 3.13 on none that holds a NaN is equal
            self.controls.append(control)


def names(outputs: Iterable[str]) -> str:
    """Outputs for people."""
    return ", ".join(map(shown, outputs))
