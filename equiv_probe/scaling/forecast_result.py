"""A forecast: where the share of a run is going, as far as that can be told, and what the simple law says of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from equiv_probe.report.axes import CALM, INK, SERIES
from equiv_probe.report.document import Column, Document, Figure, Headline, Section, method
from equiv_probe.scaling import estimate_tables, figures
from equiv_probe.scaling.dip import shares
from equiv_probe.scaling.estimates import NAN_SPAN, Estimate, Estimated, Rows, as_arrays, interval_of, shown
from equiv_probe.scaling.figures import Line, label_of
from equiv_probe.scaling.law import Fit

if TYPE_CHECKING:
    from equiv_probe.scaling.solver import Array

LOSSES = ("L_mean", "L_equiv")
FALLING = -0.5
"""A slope of log ``L_mean`` against log step below which the network is learning fast."""
USEFUL = 10.0
"""Between the odds at the ends of an interval from which on it says nothing."""
UNSEEN = (
    "a plateau that ends, after which L_equiv rises while L_mean falls: most of the dips that were measured are of "
    "that kind, and no earlier step announces them",
    "a learning rate that ends at zero, which ends both losses",
    "whether the losses keep to their laws: on the runs of the studies, today's share was the better guess of a later "
    "one than the laws",
)


class Forecast(Estimated, frozen=True):
    """The share at a later step, and what follows if both losses go on as power laws above floors.

    Attributes:
        step: the last of the history.
        to: the step that is asked for.
        today: the share now, with the interval that the scatter of the history leaves.
        share: at ``to``: today's value, with the interval that shares of real runs kept to.
        law_share: at ``to``, if both losses keep to their laws; intervals of the laws hold under that assumption alone.
        dip_step: where the laws' share is lowest; NaN if they have no dip, and without an upper end where more than a
            few resamples have none: the history does not tell.
        dip_share: the share there.
        limit: where the laws' share ends.
        laws: of ``L_mean`` and ``L_equiv`` against the step, where one law holds.
        history: step, ``L_mean`` and ``L_equiv``, averaged at places evenly spaced in log step, ``(n, 3)``.
        falling: slope of log ``L_mean`` against log step at the end.
        odds_stderr: standard error of the log odds of today's share.
        wander: standard deviation of the log odds of the share for each factor of e in steps, as in real runs.
    """

    kind: ClassVar[str] = "forecast"

    step: float
    to: float
    today: Estimate
    share: Estimate
    law_share: Estimate
    dip_step: Estimate
    dip_share: Estimate
    limit: Estimate
    laws: dict[str, Fit]
    history: Rows
    falling: float
    odds_stderr: float
    wander: float

    def __post_init__(self) -> None:
        """Refuse other laws, and a history that is none."""
        as_arrays(self, "history")
        if list(self.laws) != list(LOSSES) or any(law.x != ("step",) for law in self.laws.values()):
            raise ValueError("laws: not those of L_mean and L_equiv against the step")
        if self.history.ndim != 2 or self.history.shape[1] != 3 or not (self.history > 0).all():
            raise ValueError("history: not a positive step, L_mean and L_equiv in every row")
        if not 0 < self.step < self.to:
            raise ValueError("to: not after the last step")

    @property
    def can_tell(self) -> bool:
        """Whether the interval of the share is narrow enough to be of use: its ends' odds within a factor of ten."""
        low, high = self.share.low, self.share.high
        return bool(high * (1 - low) <= USEFUL * low * (1 - high))

    def band(self, steps: Any) -> tuple[Array, Array]:
        """The interval of the share at later steps: of log odds ``± z · √(stderr² + (wander · log(step / now))²)``."""
        reach = np.hypot(self.odds_stderr, self.wander * np.log(np.asarray(steps) / self.step))
        now, reach = logit(self.share.value), norm.ppf((1 + self.level) / 2) * reach
        return expit(now - reach), expit(now + reach)

    def document(self) -> Document:
        """The share to be expected, what the laws say, and both losses and the share against the step."""
        share = estimate_tables.table("The share", self._columns(), self.level)
        laws = [law.parameter_table(law.formula) for law in self.laws.values()]
        return Document(
            f"{self.name}: the share at step {shown(self.to)}" if self.name else f"The share at step {shown(self.to)}",
            f"{len(self.history)} places up to step {shown(self.step)}" + (f" of {self.source}" if self.source else ""),
            [
                self._headline(),
                Section("And if both losses are power laws with floors?", [share, *laws]),
                Section("Where do the losses go?", self._figures()),
                *method(self.protocol, self.notes, blind_spots=UNSEEN),
            ],
        )

    def _headline(self) -> Headline:
        now, low, high = (f"{100 * one:.2g} %" for one in (self.today.value, self.share.low, self.share.high))
        told = self.can_tell
        speed = "is falling fast" if self.falling < FALLING else "is not falling fast"
        answer = f"near {now}" if told else f"cannot be told: {now} now, and anything from {low} to {high} by then"
        return Headline(
            f"The share at step {shown(self.to)} {'will be ' * told}{answer}.",
            100 * self.share.value,
            "%",
            (100 * self.share.low, 100 * self.share.high) if self.level == 0.95 else NAN_SPAN,
            f"Today's share, with the interval that shares of real runs kept to over {shown(self.to / self.step)} "
            f"times the steps while L_mean {speed}.",
            severity="good" if told else "unknown",
            about="share",
            question="Where is the share going?",
            digits=2,
        )  # fmt: skip

    def _columns(self) -> estimate_tables.Columns:
        asked = ["today", f"step {shown(self.to)}", f"step {shown(self.to)}, by the laws"]
        found = [self.today, self.share, self.law_share]
        if self.dip_step.bounded:
            asked.append(f"lowest by the laws, at step {self.dip_step}")
            found.append(self.dip_share)
        percent = [Estimate(100 * one.value, 100 * one.low, 100 * one.high) for one in (*found, self.limit)]
        where = [*asked, "at the end of all training, by the laws"]
        return [(Column("the share", kind="text"), where), (Column("%"), percent)]

    def rows(self) -> list[dict[str, Any]]:
        """One row for today, the step asked for, the laws' share there, their dip and their limit; in percent."""
        return estimate_tables.rows(self._columns())

    def _figures(self) -> list[Figure]:
        drawn = partial(figures.curves, x=label_of("step"))
        losses = [self._line(place, colour) for place, colour in enumerate((CALM, SERIES[0]))]
        share = [self._share_line(), self._fan()]
        return [
            Figure(
                "Both losses against the step",
                lambda ax: drawn(losses, y=label_of("loss", self.unit), ax=ax),
                "Points are the history; lines are laws with floors, from where they hold, with their intervals.",
            ),
            Figure(
                "The share against the step",
                lambda ax: drawn(share, y="share, L_equiv / L_total", ax=ax),
                "Points are the history; one line is what follows from the laws, the other is today's share with the "
                "interval that shares of real runs kept to.",
            ),
        ]

    def _line(self, place: int, colour: str) -> Line:
        """A loss, from where its law holds."""
        law = self.laws[LOSSES[place]]
        ahead = np.geomspace(law.range["step"][0], self.to, 120)
        points = self.history[:, 0], self.history[:, 1 + place]
        return Line(LOSSES[place], ahead, law.at(ahead), colour, law.band(ahead), points)

    def _share_line(self) -> Line:
        """The share by the laws, from where both hold."""
        mean, equiv = (np.vstack([law.values, law.draws]) for law in self.laws.values())
        ahead = np.geomspace(max(law.range["step"][0] for law in self.laws.values()), self.to, 120)
        by_law = shares(mean, equiv, ahead)
        low, high = np.array([interval_of(one, self.level) for one in by_law[1:].T]).T
        points = self.history[:, 0], self.history[:, 2] / self.history[:, 1:].sum(1)
        return Line("by the laws", ahead, by_law[0], CALM, (low, high), points)

    def _fan(self) -> Line:
        """Today's share, and how far it may go until the step asked for."""
        steps = np.geomspace(self.step, self.to, 50)
        return Line("today's", steps, np.full(50, self.share.value), INK, self.band(steps))
