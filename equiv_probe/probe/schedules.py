"""The schedules of a probe, by what is counted and by stage, and the account that they share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.probe.account import Account
from equiv_probe.probe.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.probe.schedule import Cadence, Warmup


@dataclass(frozen=True)
class Cadences:
    """When to measure, as for :class:`equiv_probe.Probe`.

    Attributes:
        every: in training.
        warmup: calls or steps at the beginning of training that are left alone; ``"earned"`` holds for evaluation too.
        full: in evaluation, at random places.
        cost: largest share of the run's time that goes into measuring: all of it with ``every="auto"``; otherwise what
            is measured in evaluation.
        gradients: of gradients; not counted in the cost.
        seed: of the random places.
    """

    every: Cadence = "auto"
    warmup: Warmup = 0
    full: Cadence = 10
    cost: float | None = 0.01
    gradients: Cadence = None
    seed: int = 0


@dataclass(eq=False, repr=False)
class Schedules(dict[tuple[str, str], Schedule]):
    """By what is counted, ``"call"``, ``"step"`` or ``"gradients"``, and stage; made when first asked for.

    Args:
        cadences: when to measure.
        few: of the rotations of a whole measurement in evaluation those of one by few.
    """

    cadences: Cadences
    few: float = 1.0
    account: Account = field(init=False)

    def __post_init__(self) -> None:
        cost = self.cadences.cost
        if cost is not None and not (isinstance(cost, (int, float)) and 0 < cost <= 1):
            raise EquivProbeError(f"cost={cost!r}", "a share of the run's time, or None for no limit", "cost=0.01")
        self.account = Account(cost, self.cadences.every == "auto")

    def __missing__(self, key: tuple[str, str]) -> Schedule:
        kind, stage = key
        when, is_earned = self.cadences, self.cadences.warmup == "earned"
        if kind == "gradients":
            made = Schedule(when.gradients, 0 if is_earned else when.warmup, seed=when.seed)
        elif stage == "train":
            made = Schedule(when.every, when.warmup, seed=when.seed, account=self.account)
        else:
            made = Schedule(
                when.full,
                "earned" if is_earned else 0,
                at_random=True,
                limited=True,
                seed=when.seed,
                account=self.account,
                few=self.few,
            )
        self[key] = made
        return made

    @contextmanager
    def timed(self, kind: str, stage: str) -> Iterator[None]:
        """A context whose time is counted as spent on measuring."""
        with self[kind, stage].timer.running():
            yield

    def lines(self) -> dict[str, str]:
        """For a report: how often was measured, and what it took."""
        shown = {f"measured in {stage}, {kind}s": str(one) for (kind, stage), one in self.items() if one.step}
        elapsed, around = self.account.elapsed, self.account.around
        spent = around + sum(one.seconds for one in self.values())
        if elapsed:
            limit = "no limit" if self.account.cost is None else f"limit {100 * self.account.cost:.3g} %"
            if around > 0.1 * spent:
                limit = f"{100 * around / elapsed:.2g} % into logging and waiting for the next; {limit}"
            shown["cost"] = f"{100 * spent / elapsed:.2g} % of the run's time went into measuring ({limit})"
        return shown

    def state_dict(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What a checkpoint needs."""
        return {key: schedule.state_dict() for key, schedule in self.items()}

    def load_state_dict(self, state: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Undo :meth:`state_dict`."""
        for key, stored in state.items():
            self[key].load_state_dict(stored)
