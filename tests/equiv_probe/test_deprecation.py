"""Old spellings work, warn at the line that uses them, and cannot be mixed with the new ones."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import pytest

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError


@renamed(samples="n_samples", calc="calculator")
def audit(calculator: str, *, n_samples: bool = True) -> tuple[str, bool]:
    """What it does."""
    return calculator, n_samples


class Meter:
    @renamed(parted="per_structure")
    def __init__(self, per_structure: bool = False) -> None:
        self.per_structure = per_structure


def test_new_names_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit("emt", n_samples=False) == ("emt", False)
        assert Meter(per_structure=True).per_structure


def test_old_names_work_and_warn_at_the_line_of_the_call() -> None:
    with pytest.warns(DeprecationWarning, match=r"argument samples of audit\(\) is now called n_samples") as heard:
        assert audit("emt", samples=False) == ("emt", False)  # type: ignore[call-arg]
    assert Path(heard[0].filename) == Path(__file__)
    assert heard[0].lineno == inspect.currentframe().f_lineno - 2  # type: ignore[union-attr]
    with pytest.warns(DeprecationWarning, match="is now called") as heard:
        assert audit(calc="emt", samples=False) == ("emt", False)  # type: ignore[call-arg]
    assert {str(one.message).split()[3] for one in heard} == {"calc", "samples"}


def test_a_class_is_named_as_it_is_called() -> None:
    with pytest.warns(DeprecationWarning, match=r"argument parted of Meter\(\) is now called per_structure"):
        assert Meter(parted=True).per_structure  # type: ignore[call-arg]


def test_signature_and_documentation_know_the_new_names_alone() -> None:
    assert list(inspect.signature(audit).parameters) == ["calculator", "n_samples"]
    assert (audit.__doc__, audit.__name__) == ("What it does.", "audit")


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(EquivProbeError, match="both samples and n_samples"):
        audit("emt", samples=False, n_samples=True)  # type: ignore[call-arg]
    with pytest.raises(EquivProbeError, match="both calc and calculator"):
        audit("emt", calc="emt")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'turned'"):
        audit("emt", turned=True)  # type: ignore[call-arg]


def test_a_renaming_that_names_nothing_is_found_at_once() -> None:
    with pytest.raises(TypeError, match="has no argument rotations"):
        renamed(samples="rotations")(audit)
    with pytest.raises(TypeError, match="still has"):
        renamed(n_samples="calculator")(audit)
