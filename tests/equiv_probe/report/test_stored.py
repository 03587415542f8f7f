"""Files that are no reports, or broken ones, are refused with the place at which they are; none brings a page down."""

from __future__ import annotations

import copy
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.figure import Figure

from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.page import document_view, page, viewer
from equiv_probe.report.stored_data import plain
from equiv_probe.results.comparison import compare
from equiv_probe.results.report import Report

from ..page_reports import audit_report, gradients, run_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def stored() -> Any:
    """What a report with all its parts looks like in a file."""
    whole = audit_report(history=run_report().history).to_dict()
    whole["over"] = [{
        "over": "t", "stage": "train", "name": "loss", "loss": "mse", "outside": 0,
        "bins": [{"low": 0.0, "high": 1.0, "structures": 4, "total": 1.0, "total_stderr": 0.1, "mean": 0.9,
                  "mean_stderr": 0.1, "equiv": 0.1, "equiv_stderr": 0.01, "equiv_interval": [0.05, 0.2],
                  "share": 0.1, "share_stderr": 0.01, "share_interval": [0.05, 0.2]}],
    }]  # fmt: skip
    whole["gradients"] = plain(gradients())
    return json.loads(json.dumps(whole))


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested data, the first entry of each list."""
    yield path
    if isinstance(node, dict):
        for name, entry in node.items():
            yield from places(entry, (*path, name))
    elif isinstance(node, list) and node:
        yield from places(node[0], (*path, 0))


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(whole)
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return whole


WRONG = ["</script><b>", "\ud800", -1e308, None, [], {}, [[[]]], {"a": {"b": 1}}, True, 10**400]


@pytest.mark.slow
@pytest.mark.parametrize("value", WRONG, ids=[ascii(value)[:12] for value in WRONG])
def test_whatever_stands_anywhere_in_a_file_it_is_refused_or_shown(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of a report in turn: no error but the one that says where and what was expected."""
    canvas = Figure()

    def drawn(draw: Any, *_: Any, polar: bool = False, **__: Any) -> str:
        """Figures are drawn where numbers are missing, and never written out, which takes ten times as long."""
        if value is not None or path[:1] != ("measured",) or "labelled" in path:
            return ""
        canvas.clear()
        draw(canvas.add_subplot(projection="polar" if polar else None))
        return ""

    monkeypatch.setattr(document_view, "svg", drawn)
    monkeypatch.setattr(viewer, "code", lambda: None)
    whole, refused = stored(), 0
    whole["history"] = whole["history"][:2]
    for path in places(whole):
        try:
            report = Report.from_dict(changed(whole, path, value))
        except EquivProbeError as error:
            refused += 1
            said = str(error)
        else:
            said = _shown_everywhere(report)
        assert "expected" in said
        assert len(said) < 400
    assert refused > 50


def _shown_everywhere(report: Report) -> str:
    """A page, a table and a comparison of the report, or why it is not compared."""
    assert "</script><b>" not in page([report])
    assert str(report)
    assert report.to_csv()
    try:
        compare([audit_report(), report])
    except EquivProbeError as error:
        return str(error)
    return "as expected"


def test_negative_control_the_whole_report_is_read_and_gives_itself_again() -> None:
    assert json.loads(json.dumps(Report.from_dict(stored()).to_dict())) == stored()


def test_what_another_version_adds_is_left_out() -> None:
    whole = stored()
    for part in (whole, whole["measured"][0], whole["measured"][0]["labelled"], whole["over"][0]["bins"][0]):
        part["of another version"] = 1
    assert json.loads(json.dumps(Report.from_dict(whole).to_dict())) == stored()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 200_000, "not JSON (RecursionError"),
        ('{"schema_version": 1', "not JSON"),
        ("[]", "an object"),
        ("3", "an object"),
        ("{}", "no schema_version); expected it to be there"),
        ('{"schema_version": 3}', "schema_version 3); expected 1 or 2"),
        ('{"schema_version": true}', "schema_version True); expected 1 or 2"),
        ('{"schema_version": 1}', "no model); expected it to be there"),
    ],
)
def test_files_that_are_no_reports_are_one_line_from_the_command_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text(text)
    for arguments in (["report", "bad.json"], ["compare", "bad.json", "bad.json"]):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["equiv-probe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        found = " ".join(capsys.readouterr().err.split())
        assert "bad.json" in found
        assert said in found
    assert not (tmp_path / "bad.html").exists()


@pytest.mark.slow
def test_tokens_that_json_does_not_have_are_not_measured(tmp_path: Path) -> None:
    """Some writers put NaN and Infinity into JSON: they must not reach the page's own JSON."""
    whole = (
        json.dumps(stored())
        .replace('"rms": [20.0', '"rms": [NaN')
        .replace("0.3, ", "Infinity, ")
        .replace('"floor": 0.0047', '"floor": 1e999')
    )
    assert "NaN" in whole
    (tmp_path / "r.json").write_text(whole)
    html = page([Report.load(tmp_path / "r.json")])
    data = html.split('id="datasets">')[1].split("</script>")[0]
    assert "NaN" not in data
    assert "Infinity" not in data
