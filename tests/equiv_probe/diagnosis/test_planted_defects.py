"""Each planted defect is named, and its neighbour without it is not accused; all seeds are in the benchmark."""

from __future__ import annotations

import pytest

import equiv_probe as ep

from .planted_defects import DEFECTS

SEEDS = range(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_named(name: str) -> None:
    for seed in SEEDS:
        found = ep.diagnose(*DEFECTS[name].make(seed, True))
        assert found.verdict in DEFECTS[name].said, str(found)
        assert [one.why for one in found.attempts if one.state == "failed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_its_neighbour_is_not_accused(name: str) -> None:
    for seed in SEEDS:
        found = ep.diagnose(*DEFECTS[name].make(seed, False))
        assert found.verdict == "nothing", str(found)
        assert [one.why for one in found.attempts if one.state == "failed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_with_all_experiments_the_same_is_said(name: str) -> None:
    """What came first was no accident of the order: nothing that is tried later says otherwise, and nothing fails."""
    found = ep.diagnose(*DEFECTS[name].make(0, True), everything=True)
    assert set(found.verdict.split(" + ")) & set(DEFECTS[name].said), str(found)
    assert [one.why for one in found.attempts if one.state == "failed"] == []
