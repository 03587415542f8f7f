"""What a monitor has to say besides its numbers: what happened at which step, and what could not be measured."""

from __future__ import annotations

import warnings

MOST = 3
"""Steps at which the same is said: what happens at every one of them would be a line for each."""


class RunNotes:
    """Notes and failures of one run, for its report.

    >>> run = RunNotes()
    >>> for step in range(9):
    ...     run.at(step, "somebody else moved the atoms before step")
    >>> run.notes[-1], len(run.notes)
    ('somebody else moved the atoms before step 2', 3)
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failures: list[tuple[int, str]] = []

    def at(self, step: int, words: str) -> None:
        """Say something of a step, with its number at the end."""
        if sum(note.startswith(words) for note in self.notes) < MOST:
            self.notes.append(f"{words} {step}")

    def failed(self, step: int, error: Exception) -> None:
        """A step could not be measured; the first time it is said aloud."""
        self.failures.append((step, f"{type(error).__name__}: {error}"))
        if len(self.failures) == 1:
            warnings.warn(f"equiv_probe could not measure at step {step}: {self.failures[0][1]}", stacklevel=2)
