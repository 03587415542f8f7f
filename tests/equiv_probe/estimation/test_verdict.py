"""Verdicts: a table of cases, and properties that hold whatever the numbers are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiv_probe.estimation.loss_verdict import verdict_of_loss
from equiv_probe.estimation.verdict import BROKEN_FACTOR, ROUND_OFF_FACTOR, Rounding, verdict

NAN = math.nan
sizes = st.floats(1e-12, 1e6)


@pytest.mark.parametrize(
    ("rms", "floor", "repeat", "kind"),
    [
        (0.0, 0.0, 0.0, "round-off"),  # a model that returns a constant
        (0.0, 1e-6, 0.0, "round-off"),
        (5e-6, 1e-6, 0.0, "round-off"),
        (9.9e-6, 1e-6, 0.0, "round-off"),
        (10.1e-6, 1e-6, 0.0, "above round-off"),
        (0.99e-4, 1e-6, 0.0, "above round-off"),
        (1.01e-4, 1e-6, 0.0, "broken"),
        (26.8, 1e-4, 0.0, "broken"),
        (1.0, 0.0, 0.0, "broken"),  # no rounding at all to explain it
        (0.02, 1e-4, 0.01, "non-deterministic"),
        (0.031, 1e-4, 0.01, "above round-off"),  # neither rounding, which is far below, nor chance
        (0.99e-1, 1e-4, 0.01, "above round-off"),
        (0.035, 0.02, 0.01, "non-deterministic"),
        (0.07, 0.031, 0.01, "round-off"),  # mostly rounding, though the model is not quite deterministic
        (1.0, 1.2, 0.9, "non-deterministic"),  # outputs drawn anew: round trips show the same noise
        (0.2, 1e-4, 0.01, "above round-off"),
        (5.0, 1e-4, 0.01, "broken"),
        (5e-6, 1e-6, NAN, "round-off"),
        (1.0, NAN, 0.0, "unknown"),
        (NAN, 1e-6, 0.0, "unknown"),
    ],
)
def test_cases(rms: float, floor: float, repeat: float, kind: str) -> None:
    found = verdict(rms, floor, repeat, "meV/Å")
    assert found.kind == kind
    assert str(found) == found.sentence


def test_last_digits_that_vary_from_call_to_call_are_round_off() -> None:
    """Where the precision explains the error, sums in another order each time are no reason to say anything else."""
    noisy = (2e-6, 1e-6, 0.8e-6, "meV/Å")
    assert verdict(*noisy).kind == "non-deterministic"
    assert verdict(*noisy, rounding=Rounding(explained=5e-7)).kind == "round-off"
    assert verdict(*noisy, rounding=Rounding(explained=1e-9)).kind == "non-deterministic"
    drawn = (1e-6, 1.0, 0.8, "meV/Å")  # a floor that is noise says nothing of rounding, however small the error is
    assert verdict(*drawn, rounding=Rounding(explained=1e-6)).kind == "non-deterministic"


def test_a_high_floor_does_not_hide_what_is_a_large_part_of_the_prediction() -> None:
    """A neighbour list that a last digit decides raises the floor; the error stays an error."""
    assert verdict(50.0, 1.0, 0.0, "meV/Å", relative=0.001).kind == "above round-off"
    assert verdict(50.0, 1.0, 0.0, "meV/Å", relative=0.5).kind == "broken"
    assert verdict(5.0, 1.0, 0.0, "meV/Å", relative=0.5).kind == "round-off"


def test_sentences_name_the_numbers_and_the_unit() -> None:
    assert "57.7" not in verdict(57.74, 1e-3, 0.0, "meV/Å").sentence  # the table has the error itself beside it
    assert "6e4 times" in verdict(57.74, 1e-3, 0.0, "meV/Å").sentence
    assert "0.001 meV/Å" in verdict(57.74, 1e-3, 0.0, "meV/Å").sentence
    assert "5e-06 meV/Å beside a floor of 1e-06 meV/Å" in verdict(5e-6, 1e-6, 0.0, "meV/Å").sentence
    assert "non-determinism (0.01 meV/Å)" in verdict(0.02, 1e-4, 0.01, "meV/Å").sentence


def test_chance_is_not_called_rounding() -> None:
    """Where outputs differ from call to call, what is compared with is its chance, and the sentence says so."""
    for rms, words in (
        (0.02, "not above the model's own non-determinism (0.01 meV/Å)"),
        (0.05, "more than chance: 5 times the model's own non-determinism of 0.01 meV/Å"),
        (0.5, "small but real: 50 times the model's own non-determinism of 0.01 meV/Å"),
        (5.0, "broken: 500 times the model's own non-determinism of 0.01 meV/Å"),
    ):
        assert verdict(rms, 1e-4, 0.01, "meV/Å").sentence == words
    assert "round-off floor" in verdict(0.5, 0.01, 0.0, "meV/Å").sentence


@pytest.mark.slow
@given(sizes, sizes, sizes, sizes)
def test_units_do_not_matter(rms: float, floor: float, repeat: float, scale: float) -> None:
    factor = 2.0 ** round(math.log2(scale))  # exact, so that no comparison is decided by rounding
    assert verdict(rms, floor, repeat, "eV").kind == verdict(rms * factor, floor * factor, repeat * factor, "x").kind


@given(sizes, sizes, sizes)
def test_a_larger_error_is_never_judged_milder(rms: float, floor: float, repeat: float) -> None:
    order = ["non-deterministic", "round-off", "above round-off", "broken"]
    kinds = [order.index(verdict(rms * factor, floor, repeat, "eV").kind) for factor in (1, 3, 10, 100, 1000)]
    assert kinds == sorted(kinds)


@given(sizes, sizes)
def test_the_limits_are_those_that_are_documented(rms: float, floor: float) -> None:
    kind = verdict(rms, floor, 0.0, "eV").kind
    assert (kind == "round-off") == (rms <= ROUND_OFF_FACTOR * floor)
    assert (kind == "broken") == (rms > BROKEN_FACTOR * floor)


@given(
    st.sampled_from([0.0, -1e-18, 1e-18, 0.3]),
    st.sampled_from([0.0, 1e-20, NAN]),
    st.sampled_from([0.0, 1e-16, 8e-3]),
    st.sampled_from([0.0, 0.1, NAN]),
)
def test_every_loss_is_judged(equiv: float, floor: float, precision: float, stderr: float) -> None:
    """Also ``L_equiv`` of exactly zero, of numbers whose spacing nobody knows: PaiNN in double precision."""
    found = verdict_of_loss(equiv, stderr, 1.0, floor, precision)
    assert found.kind in {"round-off", "unknown", "above round-off", "broken"}
    if equiv == 0.3 and stderr == 0 and not math.isnan(floor):
        assert found.kind == "broken"
    if equiv == 0 and not math.isnan(floor):
        assert found.kind == "round-off"
