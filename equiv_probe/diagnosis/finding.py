"""What an experiment says: how much of the error it explains, by which evidence, and what to try."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from equiv_probe.report.record import Part

Kind: TypeAlias = Literal["cause", "character", "beside"]
"""``"cause"``: what is wrong, so that mending it would remove the error; ``"character"``: what kind of error it is, a
hint; ``"beside"``: something that is broken beside rotation."""
State: TypeAlias = Literal["explains", "partly", "found", "excluded", "not applicable", "failed", "not tried"]

EXPLAINED = 0.9
"""Part of the error that must go for an experiment to explain it, and for the search to stop."""
EXACTLY = 0.99
"""The same of a convention, which is exact: where one fits an output by chance, something is left."""
PARTLY = 0.25
"""Part of the error from which on it is worth reporting that some of it goes."""


class Finding(Part, frozen=True):
    """What one experiment found about one output.

    Attributes:
        experiment: its name.
        output: of the model; empty where it is about all of them.
        sentence: the evidence.
        advice: what to try.
        kind: what sort of finding it is.
        before: root of the symmetry error as it was, in the output's unit; of what is broken beside rotation, how much
            that changes the output.
        after: what is left of it in the experiment; of what is broken beside rotation, what rounding explains.
        part: of the squared error that goes; NaN of what is broken beside rotation.
        certain: whether that is more than chance.
    """

    experiment: str
    output: str
    sentence: str
    advice: str = ""
    kind: Kind = "cause"
    before: float = math.nan
    after: float = math.nan
    part: float = math.nan
    certain: bool = True

    @property
    def state(self) -> State:
        """How the experiment went."""
        if self.kind == "beside":
            return "found"
        if not self.certain or not self.part >= PARTLY:
            return "excluded"
        return "explains" if self.part >= EXPLAINED else "partly"


class Attempt(Part, frozen=True):
    """One experiment, and how it went.

    Attributes:
        experiment: its name.
        group: of experiments that it belongs to.
        question: that it answers.
        state: how it went.
        why: it could not be run or was not tried; empty otherwise.
        evaluations: of the model, that it took.
    """

    experiment: str
    group: str
    question: str
    state: State
    why: str = ""
    evaluations: int = 0
