"""Cadence by epoch, evaluation epochs that are shorter than the cadence, and what processes agree on."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import pytest

from equiv_probe.errors import EquivProbeError
from equiv_probe.probe.account import Account
from equiv_probe.probe.affordable import rounded_up
from equiv_probe.probe.schedule import Schedule
from equiv_probe.probe.schedules import Cadences, Schedules


def test_one_in_every_epoch() -> None:
    schedule = Schedule(every="epoch")
    due = []
    for _ in range(3):
        schedule.begin_epoch()
        due += [schedule.due() for _ in range(4)]
    assert due == 3 * [True, False, False, False]


@pytest.mark.parametrize(("calls", "run"), [(1, 1), (3, 1), (10, 2), (25, 6), (45, 10)])
def test_every_epoch_of_an_evaluation_is_measured(calls: int, run: int) -> None:
    """One call in ten, and of few calls one in four or more, so that there is an error bar."""
    schedule = Schedule(every=10, at_random=True)
    places = []
    for _ in range(200):
        schedule.begin_epoch(calls)
        due = [schedule.due() for _ in range(calls)]
        assert sum(due) == -(-calls // run)
        places.append(due.index(True))
    assert set(places) == set(range(run)), "at random, every place in the first run"


class Clock:
    """Time that passes where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def run(self, schedule: Schedule, calls: int, step: float, cost: float | list[float]) -> list[int]:
        """Numbers of the calls that are measured, where a call takes some seconds, and each measurement others."""
        due = []
        for _ in range(calls):
            number = schedule.step
            if schedule.due():
                due.append(number)
                seconds = cost if isinstance(cost, float) else cost[min(len(due), len(cost)) - 1]
                self.now += seconds
                schedule.spent(seconds)
            self.now += step
        return due


@pytest.mark.slow
@pytest.mark.parametrize(("step", "seconds"), [(0.01, 0.02), (1.0, 0.3), (0.1, 20.0), (0.003, 0.003)])
def test_the_cadence_follows_from_the_cost(monkeypatch: pytest.MonkeyPatch, step: float, seconds: float) -> None:
    """Whatever a step and a measurement take, the share of both is the one that was asked for, or less."""
    clock, account = Clock(monkeypatch), Account(cost=0.01, paced=True)
    schedule = Schedule("auto", account=account)
    calls = 100 * math.ceil(seconds / (0.01 * step))
    due = clock.run(schedule, calls, step, seconds)
    share = schedule.seconds / account.elapsed
    assert due[0] == 0, "a first measurement at once"
    assert 0.004 < share < 0.0105, "a cadence is one of 1, 2, 5, 10, ...: at worst two and a half times what is needed"
    assert schedule.period in {rounded_up(seconds / (0.01 * step)), rounded_up(0.99 * seconds / (0.01 * step))}
    assert {b - a for a, b in itertools.pairwise(due[-5:])} == {schedule.period}, "and it is regular"
    assert f"every {schedule.period} by cost" in str(schedule)
    control = Schedule(50)
    clock.run(control, calls, step, seconds)
    assert abs(control.seconds / (control.elapsed - control.seconds) / (seconds / (50 * step)) - 1) < 0.1, "not 50's"


def test_an_expensive_beginning_is_earned_before_the_next_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, account = Clock(monkeypatch), Account(cost=0.01, paced=True)
    schedule = Schedule("auto", account=account)
    due = clock.run(schedule, 30_000, 0.01, [1.0, 0.01])
    assert due[0] == 0
    assert 9_000 < due[1] <= 11_000, "1 s is earned after 100 s"
    assert schedule.seconds / account.elapsed < 0.0105
    assert len(due) > 100, "then it costs little"


@pytest.mark.parametrize("costs", [[0.15, 0.05, 0.02], [0.15, 0.0], [0.4, 0.05, 0.05], [0.05, 0.02]])
def test_from_the_first_earned_second_on_the_cost_holds_at_every_call(
    monkeypatch: pytest.MonkeyPatch, costs: list[float]
) -> None:
    """Wherever a run ends: a second measurement, two calls long, is not made before it is paid for."""
    clock, account = Clock(monkeypatch), Account(cost=0.01, paced=True)
    schedule, step, shares = Schedule("auto", account=account), 0.025, []
    for _ in range(6_000):
        clock.run(schedule, 1, step, costs[min(schedule.measured, len(costs) - 1)])
        shares.append(schedule.seconds / account.elapsed)
    assert schedule.measured > 2
    earned = math.ceil(costs[0] / (0.01 * step))
    assert max(shares[earned:]) < 0.0101
    assert shares[earned // 2] > 0.015, "before that it is over: the first one is made at once"


@pytest.mark.parametrize(("around", "measuring"), [(0.0, 0.01), (4e-5, 0.006), (3e-4, 0.005)])
def test_logging_and_deciding_count_too(monkeypatch: pytest.MonkeyPatch, around: float, measuring: float) -> None:
    """Seconds at every step, of 10 ms, are taken from what measuring may cost, but for half of that."""
    clock, account = Clock(monkeypatch), Account(cost=0.01, paced=True)
    schedule = Schedule("auto", account=account)
    for _ in range(20_000):
        clock.run(schedule, 1, 0.01, 0.01)
        with account.attended():
            clock.now += around
    assert account.around == pytest.approx(20_000 * around)
    assert account.spent == pytest.approx(schedule.seconds + account.around)
    assert 0.4 * measuring < schedule.seconds / account.elapsed < 1.05 * measuring
    assert account.spent / account.elapsed < max(0.0105, 0.0055 + around / 0.01)


COUNTED: list[dict[str, Any]] = [
    {"every": 1},
    {"every": 7, "warmup": 3},
    {"every": None},
    {"every": "epoch"},
    {"every": "auto", "warmup": 2},
    {"every": lambda step: step % 11 == 4},
    {"every": 10, "at_random": True},
    {"every": 10, "at_random": True, "limited": True},
]


@pytest.mark.parametrize("options", COUNTED)
def test_calls_that_are_known_not_to_be_due_may_be_counted_together(options: dict[str, Any]) -> None:
    """Whoever counts them at once, up to the next one that may be due, measures the same calls."""
    asked, told = (Schedule(**options, account=Account(None, paced=True), seed=3) for _ in range(2))
    lengths, due = [40, 6, 90, 17, 230], []
    for length in lengths:
        asked.begin_epoch(length)
        told.begin_epoch(length)
        expected, found = [asked.due() for _ in range(length)], []
        while len(found) < length:
            gone = int(min(told.ahead, length - len(found)))
            told.passed(gone)
            found += [False] * gone
            found += [told.due()] if len(found) < length else []
        assert found == expected
        due += found
    assert (told.step, told.measured) == (asked.step, asked.measured)
    assert any(due) == (options["every"] is not None)


@pytest.mark.parametrize("options", COUNTED)
def test_the_short_way_counts_the_same_calls(options: dict[str, Any]) -> None:
    """Asking first whether a call is known not to be due changes nothing, and is answered yes nearly always."""
    asked, told = (Schedule(**options, account=Account(None, paced=True), seed=3) for _ in range(2))
    expected, found, short = [], [], 0
    for length in (40, 6, 90, 17, 230):
        asked.begin_epoch(length)
        told.begin_epoch(length)
        expected += [asked.due() for _ in range(length)]
        for _ in range(length):
            passes = told.passes()
            short += passes
            found.append(not passes and told.due())
            assert told.was_due == found[-1]
    assert found == expected
    assert (told.step, told.measured) == (asked.step, asked.measured) == (383, sum(expected))
    assert short >= 383 - 1 - 2 * sum(expected) - options.get("warmup", 0) or callable(options["every"])


@pytest.mark.parametrize(("every", "due"), [(5, [0, 5, 6, 10]), ("epoch", [0, 1]), ("auto", [0, 50, 51])])
def test_what_could_not_be_measured_is_due_at_the_next_call(every: Any, due: list[int]) -> None:
    schedule = Schedule(every, account=Account(None, paced=True))
    found = []
    for step in range(14 if every != "auto" else 60):
        if schedule.due():
            found.append(step)
            if found in ([0, 5], [0, 50]) or (every == "epoch" and found == [0]):
                schedule.postpone()
    assert found == due
    assert schedule.measured == len(due) - 1


def test_without_a_limit_the_cadence_is_fifty() -> None:
    schedule = Schedule("auto", account=Account(None, paced=True), warmup=3)
    assert [k for k in range(120) if schedule.due()] == [3, 53, 103]


def test_training_and_evaluation_share_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one half; evaluation takes few rotations where there is no room for all, and no less than it may."""
    clock = Clock(monkeypatch)
    schedules = Schedules(Cadences(full=10, cost=0.01), few=1 / 12)
    training, evaluation = schedules["step", "train"], schedules["step", "val"]
    epochs, whole = 30, 0
    for _ in range(epochs):
        clock.run(training, 200, 0.03, 0.03)
        evaluation.begin_epoch(20)
        for _ in range(20):
            if evaluation.due():
                seconds = 0.01 * (48 if evaluation.size == "whole" else 4)
                whole += evaluation.size == "whole"
                clock.now += seconds
                evaluation.spent(seconds)
            clock.now += 0.01
    account = schedules.account
    assert 0.003 < training.seconds / account.elapsed < 0.0052
    assert 0.003 < evaluation.seconds / account.elapsed < 0.0052
    assert evaluation.small > 0
    assert evaluation.measured == evaluation.small + whole
    assert "% of the run's time" in schedules.lines()["cost"]


@pytest.mark.parametrize("cost", [0, -1, 1.5, "little"])
def test_wrong_costs_teach(cost: object) -> None:
    with pytest.raises(EquivProbeError, match=r"cost=0\.01"):
        Schedules(Cadences(cost=cost))  # type: ignore[arg-type]


def test_state_is_carried_over() -> None:
    whole, first, second = (Schedule(every=5, at_random=True, seed=4) for _ in range(3))
    expected = [whole.due() for _ in range(60)]
    found = [first.due() for _ in range(23)]
    second.load_state_dict(first.state_dict())
    assert found + [second.due() for _ in range(37)] == expected


@pytest.mark.parametrize("every", [0, -1, True, "weekly", 2.5])
def test_wrong_cadences_teach(every: object) -> None:
    with pytest.raises(EquivProbeError, match="epoch"):
        Schedule(every=every)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("evaluation", [False, True])
def test_what_must_be_earned_first_keeps_the_budget_from_the_first_call_on(
    step: float, *, evaluation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment no more than the cost was spent; without it the first measurement alone is more."""

    def shares(warmup: Any) -> tuple[list[float], int]:
        clock, account = Clock(monkeypatch), Account(0.01, paced=not evaluation)
        if evaluation:
            schedule = Schedule(10, warmup, at_random=True, limited=True, account=account)
        else:
            schedule = Schedule("auto", warmup, account=account)
        found = []
        for call in range(6000):
            if call % 100 == 0:
                schedule.begin_epoch(100, last=True)  # always: each is measured whatever comes, but for what is earned
            clock.run(schedule, 1, step, 2 * step if schedule.measured else 20 * step)
            found.append(schedule.seconds / account.elapsed)
        return found, schedule.measured

    earned, measured = shares("earned")
    assert max(earned) <= 0.0101
    assert measured >= (1 if evaluation else 2)
    assert max(shares(0)[0]) > 0.5


def test_a_run_too_short_to_earn_it_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in ({"every": "auto"}, {"every": 10, "at_random": True, "limited": True}):
        for warmup, expected in (("earned", 0), (0, 1)):
            schedule = Schedule(**made, warmup=warmup, account=Account(0.01))
            schedule.begin_epoch(50, last=True)
            assert len(Clock(monkeypatch).run(schedule, 50, 0.1, [2.0, 0.2])) == expected


def test_what_is_left_alone_is_a_number_or_until_it_is_earned() -> None:
    for wrong in (-1, "some", 1.5):
        with pytest.raises(EquivProbeError, match="earned"):
            Schedule(warmup=wrong)  # type: ignore[arg-type]
