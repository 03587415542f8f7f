"""One exception type that says what was found, what was expected and what to pass."""

from __future__ import annotations

import pickle

from equiv_probe import EquivProbeError


def test_parts_that_are_empty_are_left_out() -> None:
    assert str(EquivProbeError("x")) == "found x"
    assert str(EquivProbeError("x", "y")) == "found x; expected y"
    assert str(EquivProbeError("x", fix="z")) == "found x. Fix: z"


def test_it_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(EquivProbeError("x", "y", "z")))
    assert (type(error), error.found, error.expected, error.fix) == (EquivProbeError, "x", "y", "z")
    assert str(error) == "found x; expected y. Fix: z"
