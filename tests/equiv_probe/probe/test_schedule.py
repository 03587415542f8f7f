"""Cadence by epoch, evaluation epochs that are shorter than the cadence, and what processes agree on."""

from __future__ import annotations

import pytest

from equiv_probe.errors import EquivProbeError
from equiv_probe.probe.schedule import Schedule


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


def test_an_allowance_stands_for_the_clock() -> None:
    schedule = Schedule(every=1, budget=1e-9)
    schedule.spent(100.0)
    assert not schedule.due(), "over the budget"
    schedule.allowance = 2
    assert [schedule.due() for _ in range(4)] == [True, True, False, False]
    assert schedule.measured == 2
    assert schedule.allowed() == 1, "at least one, for an epoch that must not go without"
    roomy = Schedule(every=1, budget=0.5)
    roomy.began -= 100
    roomy.due()
    roomy.spent(1.0)
    assert roomy.allowed() == 49


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
