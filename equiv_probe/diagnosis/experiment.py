"""What an experiment is: a question, its price, and a function that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from equiv_probe.diagnosis.finding import EXACTLY, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from equiv_probe.diagnosis.comparison import Compared
    from equiv_probe.diagnosis.finding import Kind
    from equiv_probe.diagnosis.subject import Subject
    from equiv_probe.representations.representation import Representation

    Findings: TypeAlias = Iterator[Finding]
    Run: TypeAlias = Callable[[Subject], Iterable[Finding]]

Group: TypeAlias = Literal["conventions", "group", "numerics", "graph", "grids", "physics", "spectrum"]


class NotApplicable(Exception):  # noqa: N818 - it is no error
    """Raised by an experiment that has nothing to try on a model; the message says why."""


def places_in(subject: Subject) -> dict[str, Representation]:
    """The inputs that hold places, by name, of which an experiment needs one at least.

    Raises:
        NotApplicable: there is none.
    """
    places = {name: rep for name, rep in subject.schema.inputs.items() if rep.is_affine}
    if not places:
        raise NotApplicable("no input holds places")
    return places


def require_any_rotation(subject: Subject) -> None:
    """Raise NotApplicable where only right angles rotate a grid."""
    if subject.has_exact_grids:
        raise NotApplicable("a grid that is not interpolated rotates by right angles alone")


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: of it, as in "because of …".
        group: for the report.
        question: that it answers.
        cost: about how many evaluations of the model it takes; cheaper ones come first.
        run: from the subject to what was found, an entry for each output that there is something to say about.
        needs_error: whether it explains an error under rotation, so that without one there is nothing to do.
    """

    name: str
    group: Group
    question: str
    cost: int
    run: Run
    needs_error: bool = True


def experiment(
    name: str, group: Group, question: str, *, cost: int, needs_error: bool = True
) -> Callable[[Run], Experiment]:
    """Make a function an experiment; arguments as of :class:`Experiment`."""
    return lambda run: Experiment(name, group, question, cost, run, needs_error)


def finding(
    experiment: str,
    output: str,
    compared: Compared,
    sentence: str,
    advice: str = "",
    *,
    kind: Kind = "cause",
    exact: bool = False,
) -> Finding:
    """A finding with the numbers of a comparison; arguments as of :class:`Finding`, and whether it must be exact."""
    certain = compared.certain and (compared.part >= EXACTLY or not exact)
    return Finding(experiment, output, sentence, advice, kind, compared.before, compared.after, compared.part, certain)
