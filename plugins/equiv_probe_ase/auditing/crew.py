"""Who measures the windows of an audit: this process, the workers of a cluster, or the ranks of torchrun.

Each has a calculator of its own. Windows, seeds and numbers are the same, whoever measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from equiv_probe_ase.auditing.windows import measure_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Recipe, Subject
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.loading import Structure

    Window = Sequence[Structure]
    Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """What was evaluated: structures, model passes, and seconds in them."""

    evaluations: int = 0
    calls: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, engine: Engine) -> Work:
        """What an engine has done so far."""
        return cls(engine.evaluations, engine.calls, engine.seconds)

    def __add__(self, other: Work) -> Work:
        return Work(self.evaluations + other.evaluations, self.calls + other.calls, self.seconds + other.seconds)

    def __sub__(self, other: Work) -> Work:
        return self + Work(-other.evaluations, -other.calls, -other.seconds)

    def protocol(self) -> dict[str, Any]:
        """For the report."""
        return {
            "evaluations": self.evaluations,
            "model calls": self.calls,
            "model seconds": round(self.seconds, 1),
        }


class Crew(Protocol):
    """Those who measure."""

    @property
    def work(self) -> Work:
        """What they have done so far."""

    @property
    def words(self) -> str:
        """Who they are, for the report; empty where it is this process alone."""

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(subject, *arguments)``, done by one of them."""

    def each(self, windows: Sequence[Window], options: Options) -> Iterator[Records]:
        """Records of every window, in the order in which they are finished."""

    def close(self) -> None:
        """Let them go."""


class Here:
    """This process."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    @property
    def words(self) -> str:
        """Nothing need be said."""
        return ""

    @cached_property
    def subject(self) -> Subject:
        """The calculator, made when it is first needed."""
        return self._recipe.subject()

    @property
    def work(self) -> Work:
        """What the engine has done."""
        return Work.of(self.subject.engine)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's value."""
        return function(self.subject, *arguments)

    def each(self, windows: Sequence[Window], options: Options) -> Iterator[Records]:
        """One after the other."""
        return (measure_window(self.subject, window, options) for window in windows)

    def close(self) -> None:
        """Nothing is held."""
