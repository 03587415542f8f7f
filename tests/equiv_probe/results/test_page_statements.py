"""What a page says is true: at the floor, at zero, without labels, with error bars beyond the value, with failures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from equiv_probe.report.formatting import shown
from equiv_probe.report.page import page, viewer
from equiv_probe.results.worst_structures import MOST_ATOMS, worst_structures

from ..page_reports import NAN, audit_report, dynamics, measured, run_report, structure

if TYPE_CHECKING:
    from equiv_probe.report.document import Headline
    from equiv_probe.results.report import Report


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "code", lambda: None)


def top(report: Report) -> Headline:
    found = report.document().headline
    assert found is not None
    return found


def run(**changes: Any) -> Report:
    """A run with another decomposition of its validation loss."""
    report = run_report(history=[])
    known = report.measured[1].labelled
    assert known is not None
    return replace(report, measured=[replace(report.measured[1], labelled=replace(known, **changes))])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "17.0 % of the loss is there only because"),
        ({"share": 0.01, "share_stderr": 0.006}, "It cannot be decided"),  # 10 batches: 2.26 standard errors
        ({"share": 0.014, "share_stderr": 0.006}, "1.40 % of the loss is there only because"),
        ({"share": -0.01, "share_stderr": 0.001}, "It cannot be decided"),
        ({"share": 1e-9, "share_stderr": 1e-11}, "Hardly"),
        ({"share": NAN, "share_stderr": NAN, "total": 0.0, "mean": 0.0}, "The loss is zero"),
    ],
)
def test_a_run_is_called_broken_only_beyond_its_error_bar(changes: dict[str, float], said: str) -> None:
    assert top(run(**changes)).answer.startswith(said)


def test_a_model_without_error_has_no_share_of_it() -> None:
    known = measured().labelled
    assert known is not None
    none = replace(known, total=0.0, mean=0.0, share=NAN, share_stderr=NAN, share_interval=(NAN, NAN))
    found = top(audit_report(measured=[measured(labelled=none, verdict="round-off")]))
    assert found.beside[-1] == "Its mse loss against the reference forces is 0: it has no share."
    assert "–" not in " ".join(found.beside)


def test_a_share_within_its_error_bar_is_not_called_broken_symmetry() -> None:
    known = measured().labelled
    assert known is not None
    unsure = replace(known, share=1e-4, share_stderr=1e-4, structures=4)
    found = top(audit_report(measured=[measured(labelled=unsure, verdict="round-off")]))
    assert found.beside[-1].endswith("302 meV/Å. No part of that could be attributed to broken symmetry.")
    assert "20.9 % (18.8 to 22.9 %) of the squared error is broken symmetry alone" in top(audit_report()).beside[-1]


def test_the_floor_is_put_down_to_what_made_it() -> None:
    assert "that rounding leaves" in top(audit_report()).beside[0]
    noisy = top(audit_report(measured=[measured(nondeterminism=0.5)]))
    assert noisy.beside[0] == "276 times the floor of 0.500 meV/Å that the same input, evaluated again, makes."


def test_the_sentence_fits_every_quantity() -> None:
    found = top(audit_report(measured=[measured("stress", "meV/Å³"), measured("train/0", "the output's", verdict="")]))
    assert found.meaning.startswith("√L_equiv of stress: how far a prediction in one orientation lies")
    assert "4.90 % of the size of the predicted stress." in found.beside
    own = top(audit_report(measured=[measured("train/0", "the output's", verdict="", labelled=None)]))
    assert own.unit == "in the output's own unit"
    strange = top(audit_report(measured=[measured(verdict="of another version")]))
    assert strange.severity == "unknown"


@pytest.mark.slow
def test_failures_are_said_at_the_top_and_none_is_left_out_in_silence() -> None:
    html = page([audit_report(failures=[{"name": f"bad{k}", "error": "no"} for k in range(300)])])
    assert "on 4 structures of salts.xyz; 300 could not be measured" in html
    assert "Not measured: 300, the first 200 listed" in html


def test_the_worst_structures_are_the_worst_also_where_they_cannot_be_drawn() -> None:
    """A large structure has no place in the viewer: it stands first all the same, and each button shows its own row."""
    records = [structure(f"s{k}", 10.0 + k) for k in range(30)]
    for record in records[5:]:
        del record["geometry"]
    records[29]["geometry"] = structure("huge", 1.0, symbols=["C"] * (MOST_ATOMS + 1))["geometry"]
    found = worst_structures([measured()], records, "forces")
    assert [row[0] for row in found.table.rows] == [f"s{k}" for k in (*range(29, 17, -1), 4, 3, 2, 1, 0)]
    assert found.places == {12: 0, 13: 1, 14: 2, 15: 3, 16: 4}
    assert found.scene is not None
    assert len(found.scene()["structures"]) == 5  # what is too large leaves room for the others


@pytest.mark.slow
def test_differences_against_the_angle_name_the_angles_that_were_there() -> None:
    """Few rotations leave bins empty: the first that is not is not the one below 20°."""
    one = measured()
    sparse = {**one.angular, "by_angle": [None, None, 9000.0, None, 17000.0, None, None, 21000.0, None]}
    html = page([audit_report(measured=[replace(one, angular=sparse)])])
    assert "From 94.9 meV/Å between orientations 40 to 60° apart to 145 meV/Å at 140 to 160°." in html
    for by_angle in ([None] * 9, [1.0, *[None] * 8]):
        empty = {**one.angular, "by_angle": by_angle, "by_axis": [None] * 48}
        html = page([audit_report(measured=[replace(one, angular=empty)])])
        assert "Against the" not in html
        assert "Angular spectrum: forces" in html


def test_a_spectrum_of_which_no_degree_is_resolved_is_not_drawn() -> None:
    vague = {**measured().angular, "stderr": [9e4] * 3}
    assert "Angular spectrum" not in page([audit_report(measured=[measured(angular=vague)])])


def test_one_point_is_no_course() -> None:
    report = dynamics()
    once = [{key: value for key, value in row.items() if key != "forces_rms_meV_per_A"} for row in report.history]
    once[2]["forces_rms_meV_per_A"] = 90.0
    html = page([replace(report, history=once)])
    assert "Equivariance error of the forces over the trajectory" not in html
    assert "Total energy over the trajectory" in html


@pytest.mark.slow
@pytest.mark.parametrize("bidi", ["\u202e", "\u2066", "\u200f", "\x1b[2J", "\x08"])
def test_names_do_not_rotate_or_move_what_stands_around_them(bidi: str) -> None:
    report = audit_report(model=f"a{bidi}b", source=f"c{bidi}d", notes=[f"e{bidi}f"])
    for text in (page([report]), str(report)):
        assert bidi not in text
        assert shown(f"a{bidi}b") in text
        assert shown(f"e{bidi}f") in text


@pytest.mark.slow
def test_a_page_of_ten_thousand_structures_is_small() -> None:
    """The distribution is a curve, not ten thousand points, and the tables hold the worst."""
    records = [structure(f"structure {k}", 10 * math.exp(math.sin(k * k))) for k in range(10_000)]
    for record in records:
        del record["geometry"]
    html = page([audit_report(structures=records)])
    assert len(html) < 300_000
    assert html.count("structure 1") < 30
