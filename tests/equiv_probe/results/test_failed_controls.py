"""A failed control is the headline of a report in every form of it, and no green is left beside it."""

from __future__ import annotations

import json
import math
import re

import pytest

import equiv_probe as ep
from equiv_probe.estimation.controls import Control
from equiv_probe.results.report import Measured, Report

FINE = "respects rotation, down to rounding"
WHY = "energy: these outputs do not depend on the rotated inputs: a cache"
FINE_IN_BATCH = "outputs of a structure are the same alone and in a batch"
PASSED = Control("does not depend on its batch", True, FINE_IN_BATCH, 0.0, 1.0)
FAILED = Control("sees the rotation", False, WHY, 2.0, 0.0)
NOT_RUN = Control("does not depend on where the structure is", None, "structures were not moved")


def measured(rms: float = 1e-9) -> Measured:
    return Measured("energy", "meV/atom", 2, rms, (rms / 2, 2 * rms), rms**2, rms**2 / 9, math.nan, 1e-9, 0.0,
                    "round-off", f"at the floor: {rms}")  # fmt: skip


def report(*controls: Control, name: str = "model") -> Report:
    return Report(name, "two.xyz", {"plan": "one"}, [measured()], controls=list(controls))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_without_a_failed_control_the_number_speaks() -> None:
    """The negative control of all that follows."""
    found = report(PASSED, NOT_RUN)
    top = found.document().headline
    assert (top.severity, FINE in top.answer) == ("good", True)
    assert FINE in str(found)
    assert FINE in repr(found)
    assert "Controls: 1 passed, 1 not run" in str(found)
    assert 'class="answer good"' in found.to_html()


def test_a_failed_control_is_the_headline_everywhere() -> None:
    found = report(PASSED, FAILED, NOT_RUN)
    top = found.document().headline
    assert top.severity == "bad"
    assert top.answer.startswith(f"Not to be believed: {WHY}.")
    assert top.value == found["energy"].rms, "the number stays, behind it"
    page, notebook = found.to_html(), found._repr_html_()
    for said in (str(found), repr(found), page, notebook):
        assert "Not to be believed" in said
        assert FINE not in said
    assert WHY in flat(str(found))
    assert WHY in page
    assert "1.0e-9 meV/atom" in flat(str(found))
    assert "Controls: 1 FAILED, 1 passed, 1 not run" in str(found)
    assert 'class="answer bad"' in page
    for graphical in (page, notebook):
        assert not re.search(r'badge good">\s*round-off', graphical), "the verdict is not green beside it"
        assert "Which controls did it pass?" in graphical
        assert graphical.index(FAILED.name) < graphical.index(PASSED.name), "those that failed come first"


def test_all_that_failed_is_told_in_full_and_the_gravest_first() -> None:
    few = Control("many structures carry the number", False, "energy: a few structures carry this number", 2.0, 10.0)
    found = report(few, FAILED)
    assert WHY in found.document().headline.answer
    assert few.sentence in flat(str(found))
    assert few.sentence in found.to_html()
    assert "Controls: 2 FAILED" in str(found)


@pytest.mark.parametrize(
    "name",
    [
        "many structures carry the number",
        "many rotations carry the number",
        "does not depend on its batch",
        "the precision explains the floor",
    ],
)
def test_what_leaves_the_number_standing_says_what_does_not_stand(name: str) -> None:
    top = report(Control(name, False, "why it failed")).document().headline
    assert "not to be believed" in top.answer.lower()
    assert "why it failed" in top.answer
    assert top.severity == "unknown", "never a confident green"


def test_controls_that_were_not_run_are_blind_spots_once() -> None:
    found = report(NOT_RUN, Control(NOT_RUN.name, None, "forces: not moved"), PASSED)
    expected = [f"whether it {NOT_RUN.name} (structures were not moved; forces: not moved)"]
    assert found.blind_spots == expected
    assert Report.from_dict(found.to_dict()).blind_spots == expected, "not once more when it is read"
    assert flat(str(found)).count("structures were not moved") == 1


def test_controls_are_stored_and_older_files_have_none() -> None:
    found = report(PASSED, FAILED, NOT_RUN)
    stored = json.loads(found.to_json())
    assert stored["schema_version"] == 2
    assert [one["passed"] for one in stored["controls"]] == [True, False, None]
    again = Report.from_dict(stored)
    assert again == found
    assert again.controls[1] == FAILED
    assert math.isnan(again.controls[2].value)
    del stored["controls"]
    old = Report.from_dict(stored)
    assert old.controls == []
    assert FINE in old.document().headline.answer
    with pytest.raises(ep.EquivProbeError, match=r"controls\[0\]\.passed"):
        Report.from_dict({**stored, "controls": [{"name": "a", "passed": "yes", "sentence": ""}]})


def test_where_nothing_was_measured_the_control_is_said_all_the_same() -> None:
    found = Report("model", "two.xyz", {}, [], controls=[FAILED])
    assert WHY in found.document().headline.answer
    assert WHY in flat(str(found))
    assert "Not to be believed" in found.to_html()


def test_a_comparison_says_whose_control_failed() -> None:
    sound, cached = report(PASSED, name="sound"), report(FAILED, name="cached")
    found = ep.compare([sound, cached])
    assert found.doubted == ["cached"]
    assert f"cached: a control failed: {WHY}" in found.notes
    assert found.summary.startswith("Not to be believed: a control of cached failed.")
    assert "control of cached failed" in repr(found)
    assert WHY in flat(str(found))
    assert WHY in found.to_html()
    assert type(found).from_dict(found.to_dict()) == found
    fine = ep.compare([sound, report(PASSED, name="other")])
    assert not fine.doubted
    assert "believed" not in str(fine)
