"""The search: experiments in the order of their cost, until the error of every output is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import NotApplicable
from equiv_probe.diagnosis.finding import Attempt, Finding
from equiv_probe.errors import in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from equiv_probe.diagnosis.experiment import Experiment
    from equiv_probe.diagnosis.finding import State
    from equiv_probe.diagnosis.subject import Subject

_BEST: tuple[State, ...] = ("explains", "found", "partly", "excluded")


def search(
    subject: Subject,
    experiments: Sequence[Experiment],
    *,
    everything: bool = False,
    budget: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Finding], list[Attempt]]:
    """Run experiments, the cheapest first.

    Args:
        subject: the model.
        experiments: to run; those of equal cost in the order given.
        everything: go on when the error is explained.
        budget: evaluations beyond which no experiment is begun; None is no limit.
        advance: told of every experiment that is over.

    Returns:
        What was found, and how every experiment went.
    """
    findings: list[Finding] = []
    attempts: list[Attempt] = []
    for one in sorted(experiments, key=lambda one: one.cost):
        why = _skipped(one, subject, findings, everything=everything, budget=budget)
        if why:
            attempts.append(Attempt(one.name, one.group, one.question, "not tried", why))
        else:
            found, attempt = _tried(one, subject)
            findings += found
            attempts.append(attempt)
        advance(1)
    return findings, attempts


def unexplained(subject: Subject, findings: Sequence[Finding]) -> list[str]:
    """Broken outputs that no cause explains yet."""
    known = {one.output for one in findings if one.kind == "cause" and one.state == "explains"}
    return [name for name in subject.broken if name not in known]


def _skipped(
    one: Experiment, subject: Subject, findings: Sequence[Finding], *, everything: bool, budget: int | None
) -> str:
    """Why an experiment is not begun; empty if it is."""
    if one.needs_error and not subject.broken:
        return "rotation is respected: there is no error to explain"
    if not everything and subject.broken and not unexplained(subject, findings):
        return "the error is explained already"
    if budget is not None and subject.evaluations + one.cost > budget:
        return f"it takes about {one.cost} evaluations, more than what is left of {budget}"
    return ""


def _tried(one: Experiment, subject: Subject) -> tuple[list[Finding], Attempt]:
    before = subject.evaluations
    state: State
    found: list[Finding] = []
    try:
        found, why = list(one.run(subject)), ""
        state = min((finding.state for finding in found), key=_BEST.index, default="excluded")
    except NotApplicable as reason:
        state, why = "not applicable", str(reason)
    except (Exception, SystemExit) as error:  # somebody's model: the other experiments go on
        state, why = "failed", in_one_line(error, 300)
    return found, Attempt(one.name, one.group, one.question, state, why, subject.evaluations - before)
