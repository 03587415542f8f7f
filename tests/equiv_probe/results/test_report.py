"""Reports: what is written is what was measured, in strict JSON, CSV, and text that no name can bend."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import interval, number
from equiv_probe.report.stored_data import without_nan
from equiv_probe.results.measured import Labelled, Measured
from equiv_probe.results.report import Report

if TYPE_CHECKING:
    from pathlib import Path

NAN = math.nan
LABELLED = Labelled("mse", "(meV/Å)²", 2, 10.0, 1.0, 8.0, 0.9, 2.0, 0.3, (1.5, 2.7), 0.2, 0.02, (0.16, 0.25))


def measured(name: str = "forces", **changes: Any) -> Measured:
    plain = Measured(
        name=name,
        unit="meV/Å",
        structures=2,
        rms=26.8,
        rms_interval=(25.0, 28.7),
        equiv=718.24,
        equiv_stderr=30.0,
        relative=0.05,
        floor=1e-4,
        nondeterminism=0.0,
        verdict="broken",
        sentence="broken: 3e5 times the round-off floor",
        over_structures={"q50": 20.0, "q95": 40.0, "max": 45.0, "worst": "salt"},
        over_rotations={"q50": 25.0, "q95": 50.0, "max": 90.0},
        largest=300.0,
        by_element={"Na": {"rms": 10.0, "atoms": 4.0}, "Cl": {"rms": 30.0, "atoms": 4.0}},
        worst_atoms=[{"structure": "salt", "atom": 3, "element": "Cl", "rms": 45.5}],
        labelled=LABELLED,
    )
    return replace(plain, **changes)


def record(name: str) -> dict[str, Any]:
    values = {"rms": 26.8, "equiv": 718.24, "equiv_stderr": None, "relative": 0.05, "floor": 1e-4, "largest": 300.0}
    values |= {"nondeterminism": 0.0, "labelled": {"total": 10.0, "mean": 8.0, "equiv": 2.0}}
    return {"name": name, "formula": "NaCl", "n_atoms": 2, "rotations": 48, "quantities": {"forces": values}}


def report(**changes: Any) -> Report:
    plain = Report(
        model="a model",
        source="salts.xyz",
        protocol={"plan": "4 × tetrahedral", "rotations": 96},
        measured=[measured()],
        structures=[record("salt"), record("other")],
        failures=[{"name": "bad", "error": "KeyError: 'Xe'"}],
        notes=["a note"],
        blind_spots=["what cannot be seen"],
    )
    return replace(plain, **changes)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_and_back(tmp_path: Path) -> None:
    original = report()
    original.save(tmp_path / "deep" / "report.json")
    assert strict((tmp_path / "deep" / "report.json").read_text())["schema_version"] == 2
    assert Report.load(tmp_path / "deep" / "report.json") == original


def test_what_was_not_measured_is_null_in_json_and_nan_again(tmp_path: Path) -> None:
    original = report(measured=[measured(rms_interval=(NAN, NAN), relative=NAN, floor=NAN, labelled=None)])
    original.save(tmp_path / "report.json")
    stored = strict((tmp_path / "report.json").read_text())["measured"][0]
    assert (stored["relative"], stored["rms_interval"], stored["labelled"]) == (None, [None, None], None)
    loaded = Report.load(tmp_path / "report.json")["forces"]
    assert math.isnan(loaded.relative)
    assert all(map(math.isnan, loaded.rms_interval))
    assert loaded.labelled is None
    assert loaded.rms == 26.8


json_values = st.recursive(
    st.floats() | st.integers() | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@pytest.mark.slow
@given(json_values)
def test_without_nan_makes_strict_json_and_changes_nothing_else(value: Any) -> None:
    plain = without_nan(value)
    assert strict(json.dumps(plain, allow_nan=False)) == plain
    assert without_nan(plain) == plain


def test_another_schema_version_and_another_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EquivProbeError, match="schema_version 99"):
        Report.from_dict({**report().to_dict(), "schema_version": 99})
    with pytest.raises(EquivProbeError, match=r"'\.txt'.*\.json, \.csv or \.html"):
        report().save(tmp_path / "report.txt")


def test_csv_has_a_row_per_structure_and_quantity(tmp_path: Path) -> None:
    report().save(tmp_path / "report.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert [row["structure"] for row in rows] == ["salt", "other"]
    assert {name: rows[0][name] for name in ("formula", "n_atoms", "quantity", "unit", "rotations")} == {
        "formula": "NaCl",
        "n_atoms": "2",
        "quantity": "forces",
        "unit": "meV/Å",
        "rotations": "48",
    }
    assert float(rows[0]["rms"]) == 26.8
    assert rows[0]["equiv_stderr"] == ""  # not measured
    assert float(rows[0]["L_total (reference loss)"]) == 10.0


def test_text_says_the_answer_its_error_bar_its_unit_and_its_protocol() -> None:
    text = str(report())
    for part in ("a model on 2 structures of salts.xyz", "26.8", "[25.0, 28.7]", "meV/Å", "5 %", "broken: 3e5 times"):
        assert part in text
    for part in ("10.0 ± 1.0", "20.0 % ± 2.00 %", "[16.0 %, 25.0 %]", "(meV/Å)²", "share of the loss"):
        assert part in text
    for part in ("Cl3 of salt", "45.5", "salt", "Not measured: 1", "KeyError: 'Xe'", "a note", "plan 4 × tetrahedral"):
        assert part in text
    assert "what cannot be seen" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_narrow_terminal_cuts_no_number_and_no_name(width: int) -> None:
    """What does not fit side by side stands one below the other, with every character of it."""
    spread = {"q50": 0.00622, "q95": 1.2345, "max": 45.67}
    name = "mptrj-random-1k.xyz[512]"
    long = measured(
        "magmoms",
        rms=0.01234,
        rms_interval=(0.01111, 0.0222),
        unit="meV/atom",
        over_structures={**spread, "worst": name},
        over_rotations=spread,
    )
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(report(measured=[measured(), long]))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    told = " ".join(lines)
    assert name in told
    for word in ("0.0123", "[0.0111, 0.0222]", "0.00622", "1.23", "45.7", "meV/atom", "magmoms", "one atom, max"):
        assert word in told, word
    for word in ("10.0 ± 1.0", "[16.0 %, 25.0 %]", "20.0 % ± 2.00 %", "L_equiv"):
        assert word in told, word
    assert "broken: 3e5 times" in told
    assert "…" not in told


def test_a_name_longer_than_the_terminal_is_folded() -> None:
    name = "a" * 90 + ".xyz[7]"
    console = Console(file=io.StringIO(), width=80, color_system=None)
    spread = {"q50": 1.0, "q95": 2.0, "max": 3.0}
    console.print(report(measured=[measured(over_structures={**spread, "worst": name}, over_rotations=spread)]))
    told = "".join(line.strip().removeprefix("forces").strip() for line in console.file.getvalue().splitlines())
    assert name in told


def test_a_part_of_what_nearly_cancels_is_not_spelled_out() -> None:
    assert "> 1000 %" in str(report(measured=[measured(relative=5.3e5)]))


def test_elements_are_ranked_and_left_out_at_round_off() -> None:
    text = str(report())
    assert text.index("Cl   ") < text.index("Na   ")
    assert "worst atom" not in str(report(measured=[measured(verdict="round-off")]))


def test_an_interrupted_report_says_so() -> None:
    assert "Interrupted" in str(report(complete=False))
    assert "Interrupted" not in str(report())


def test_an_empty_report_can_be_printed_and_stored(tmp_path: Path) -> None:
    empty = report(measured=[], structures=[])
    empty.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == empty
    assert "Not measured: 1" in str(empty)
    with pytest.raises(KeyError, match="forces"):
        empty["forces"]


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/b]", "[bold]", "a[0]", ":smile:", "[link=file:///]y[/link]"])
def test_names_are_shown_as_they_are(name: str) -> None:
    """Names come from files: markup in them is neither obeyed nor an error."""
    hostile = measured(
        name=name,
        over_structures={"q50": 1.0, "q95": 1.0, "max": 1.0, "worst": name},
        worst_atoms=[{"structure": name, "atom": 0, "element": "H", "rms": 1.0}],
        sentence=name,
    )
    whole = report(model=name, source=name, measured=[hostile], failures=[{"name": name, "error": name}], notes=[name])
    text = str(replace(whole, protocol={"plan": name}, blind_spots=[name]))
    assert text.count(name) >= 9
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="standard")
    console.print(whole)
    assert "\x1b]8" not in console.file.getvalue()  # no link was made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (NAN, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (26.84, "26.8"),
        (268.4, "268"),
        (99999.0, "99999"),
        (123456.0, "123456"),
        (1.234e7, "1.2e7"),
        (0.00123, "0.00123"),
        (-0.00123, "-0.00123"),
        (0.000123, "1.2e-4"),
        (1e-12, "1.0e-12"),
    ],
)
def test_numbers_have_three_digits_and_no_needless_exponent(value: float, shown: str) -> None:
    assert number(value) == shown


def test_intervals_are_left_out_where_there_are_none() -> None:
    assert interval(1.0, 2.0) == "[1.00, 2.00]"
    assert interval(NAN, NAN) == ""
