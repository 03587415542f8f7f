"""Records: a made-up kind of result in one file, stored strictly, read back with NaN, shown by all three renderers."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from rich.console import Console

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.document import (
    Bound,
    Column,
    Document,
    Figure,
    Headline,
    Note,
    Section,
    Structures,
    Table,
    Uncertain,
    Verdict,
    method,
)
from equiv_probe.report.page import fragment, page
from equiv_probe.report.record import Part, Record

from ..page_reports import audit_report, structure
from .test_page import HOSTILE, Elements

DATA = Path(__file__).parent / "data"


class Bend(Part, frozen=True):
    """A part of the made-up kind."""

    name: str
    angle: float
    span: tuple[float, float]


class Bridge(Record, frozen=True):
    """A made-up kind of result."""

    kind: ClassVar[str] = "bridge"

    name: str
    strength: float
    bends: list[Bend]
    by_day: dict[str, float] = msgspec.field(default_factory=dict)
    limit: float | None = None
    notes: list[str] = msgspec.field(default_factory=list)

    def document(self) -> Document:
        rows = [[one.name, one.angle, one.span, Uncertain(one.angle, 0.1), Bound(2.0)] for one in self.bends]
        columns = [Column("bend", kind="text"), Column("angle", "°"), Column("span"), Column("again"), Column("limit")]
        return Document(
            self.name,
            "a river",
            [
                Headline(
                    "It holds.",
                    self.strength,
                    "kN",
                    (self.strength - 1, self.strength + 1),
                    "The load.",
                    severity="good",
                ),
                Section("Where does it bend?", [Table("Bends", columns, rows), Figure("A line", self.draw, "A line.")]),
                *method({"by": "eye"}, self.notes, blind_spots=["rust"]),
            ],
        )

    def draw(self, ax: Any) -> None:
        ax.plot([0, 1], [self.strength, self.strength])

    def rows(self) -> list[dict[str, Any]]:
        return [{"name": one.name, "angle": one.angle} for one in self.bends]


def bridge(**changes: Any) -> Bridge:
    bends = [Bend("left", 12.5, (12.0, 13.0)), Bend("right", math.nan, (math.nan, math.nan))]
    return Bridge(**{"name": "a bridge", "strength": 138.0, "bends": bends, "by_day": {"monday": math.nan}, **changes})


def test_a_new_kind_is_stored_and_read_by_its_name(tmp_path: Path) -> None:
    bridge(limit=None).save(tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text()
    assert text.isascii()
    assert json.loads(text) == {
        "kind": "bridge",
        "schema_version": 2,
        "name": "a bridge",
        "strength": 138.0,
        "bends": [
            {"name": "left", "angle": 12.5, "span": [12.0, 13.0]},
            {"name": "right", "angle": None, "span": [None, None]},
        ],
        "by_day": {"monday": None},
        "limit": None,
        "notes": [],
    }
    for loaded in (ep.load(tmp_path / "b.json"), Bridge.load(tmp_path / "b.json")):
        assert isinstance(loaded, Bridge)
        assert loaded == bridge()
        assert math.isnan(loaded.bends[1].angle)
        assert math.isnan(loaded.by_day["monday"])
        assert loaded.limit is None  # where null is allowed it stays what it is
    assert bridge(strength=138.5) != bridge(), "control: equality sees numbers"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"strength": "138"},
            "found {}, which is not a report of this version (strength: a text '138'); expected a number",
        ),
        ({"strength": True}, "(strength: true or false True); expected a number"),
        ({"bends": [{"name": "left", "angle": []}]}, "(bends[0].angle: a list of 0); expected a number"),
        ({"bends": [{"name": "left", "angle": 1.0}]}, "(no bends[0].span); expected it to be there"),
        (
            {"bends": [{"name": "l", "angle": 1, "span": [1]}]},
            "(bends[0].span: a list of 1); expected a list of length 2",
        ),
        ({"by_day": {"monday": "x"}}, "(by_day[...]: a text); expected a number"),
        ({"strength": 1e305}, "(strength: a number too large for a measurement)"),
        ({"schema_version": 7}, "schema_version 7); expected 1 or 2"),
        ({"kind": "tower"}, "'tower'"),
        ({"kind": 3}, "'3'"),
    ],
)
def test_a_wrong_entry_is_named_with_its_place(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(bridge().to_dict() | changes))
    for read in (ep.load, Bridge.load):
        with pytest.raises(EquivProbeError) as caught:
            read(path)
        assert said.format(path) in str(caught.value)
        assert str(path) in str(caught.value)


def test_another_kind_is_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    bridge().save(tmp_path / "b.json")
    with pytest.raises(EquivProbeError, match=r"b\.json.*'bridge'.*expected a 'report'"):
        ep.Report.load(tmp_path / "b.json")


def test_the_schema_is_that_of_what_is_stored() -> None:
    found = Bridge.json_schema()
    own = found["$defs"]["Bridge"]
    assert own["properties"]["kind"] == {"const": "bridge"}
    assert own["required"][:4] == ["kind", "schema_version", "name", "strength"]
    assert own["properties"]["strength"]["type"] == ["number", "null"]
    assert set(own["properties"]) == set(bridge().to_dict())
    for kind in ("sampler", "grid", "comparison"):
        one = ep.load(DATA / f"{kind}_v1.json")
        properties = type(one).json_schema()["$defs"][type(one).__name__]["properties"]
        assert set(properties) == set(one.to_dict()) - {"is_above_interpolation"}  # which follows from the rest
    assert set(ep.Report.json_schema()["$defs"]["Report"]["properties"]) == set(audit_report().to_dict())


def test_all_three_renderers_show_the_blocks_and_each_its_own() -> None:
    one = bridge(notes=["it sways"])
    text, html, cell = str(one), page([one]), fragment(one)
    for shown in (text, " ".join(Elements(html).text), " ".join(Elements(cell).text)):
        for part in ("a bridge", "a river", "It holds.", "138", "137", "139", "kN", "left", "12.5", "–", "12.5 ± 0.10"):
            assert part in shown, part
        assert "it sways" in shown
        assert "nan" not in shown.lower()
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Is it broken?", "Where does it bend?", "How was it measured?", "What can it not tell?"
    ]  # fmt: skip
    assert (html.count("<svg"), cell.count("<svg")) == (1, 0)
    assert "rust" in text
    assert "rust" in html
    assert '<section class="answer good">' in html


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_record_holds_is_text(text: str) -> None:
    def made(text: str) -> Bridge:
        return bridge(name=text, bends=[Bend(text, 1.0, (0.0, 2.0))], notes=[text])

    for write in (lambda one: page([one]), fragment):
        assert Elements(write(made(text))).outside == Elements(write(made("harmless"))).outside
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(made("\x1b[2J[red]\x07\u202e"))
    assert not set(console.file.getvalue()) & {"\x07", "\u202e"}
    assert "\x1b[2J" not in console.file.getvalue()


def test_the_representation_is_one_short_line() -> None:
    for count in (0, 60):
        found = repr(audit_report(structures=[structure(f"s{k}", 1.0) for k in range(count)], model="a\nmodel" * 100))
        assert "\n" not in found
        assert len(found) < 300
    assert repr(bridge()) == "<Bridge of a bridge on a river: It holds. 138 kN (95 % interval 137 to 139)>"


def test_what_is_tabular_is_csv_and_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="data frames are pandas's")
    assert bridge().to_csv() == "name,angle\r\nleft,12.5\r\nright,\r\n"
    frame = bridge().to_dataframe()
    assert list(frame["name"]) == ["left", "right"]
    assert math.isnan(frame["angle"][1])
    bridge().save(tmp_path / "b.csv")
    assert pandas.read_csv(tmp_path / "b.csv")["angle"][0] == 12.5
    with pytest.raises(EquivProbeError, match="without rows"):
        bridge(bends=[]).to_dataframe()
    with pytest.raises(EquivProbeError, match=r"expected \.json or \.html"):
        bridge(bends=[]).save(tmp_path / "b.csv")


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(EquivProbeError, match="pip install pandas"):
        bridge().to_dataframe()
    assert bridge().to_csv().count("\r\n") == 3


@pytest.mark.parametrize("width", [40, 60, 100])
def test_tables_that_do_not_fit_are_split_and_lose_no_cell(width: int) -> None:
    columns = [
        Column("quantity", kind="text"),
        *(Column(f"number {k}") for k in range(8)),
        Column("verdict", kind="text"),
    ]
    rows = [
        [f"q{q}", *(100.0 * q + k for k in range(8)), Verdict("bad", "bad", "broken: " + "word " * 9)] for q in (1, 2)
    ]

    class Wide(Record, frozen=True):
        def document(self) -> Document:
            return Document("wide", "all", [Table("A wide table", columns, rows)])

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Wide())
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert [words.count(f"{100 * q + k}") for q in (1, 2) for k in range(8)] == [1] * 16
    assert words.count("word") == 18
    assert sum(line.strip() == "A wide table" for line in lines) == 1


def test_a_page_has_one_scene_for_the_structures_that_can_be_chosen() -> None:
    table = Table(
        "Some", [Column("name", kind="text"), Column("value")], [["first", 1.0], ["second", 2.0]], "Some of them"
    )
    scene = {"structures": [], "environments": [], "properties": {}, "settings": {}, "meta": {"name": ""}}

    class Shown(Record, frozen=True):
        def document(self) -> Document:
            return Document("shown", "all", [Structures(table, lambda: scene, {1: 0})])

    html = page([Shown()])
    if 'id="viewer-code"' in html:
        assert re.findall(r'data-structure="(\d)" aria-pressed="false">(\w+)<', html) == [("0", "second")]
    assert html.count('class="stage"') == 1


@pytest.mark.parametrize("name", ["report", "audit", "dynamics"])
def test_files_of_version_1_are_read(name: str) -> None:
    """What the first version wrote gives the same numbers, and is written as the second from then on."""
    stored = json.loads((DATA / f"{name}_v1.json").read_text())
    found = ep.load(DATA / f"{name}_v1.json")
    assert isinstance(found, ep.Report)
    assert ep.Report.load(DATA / f"{name}_v1.json") == found
    again = found.to_dict()
    assert (again.pop("kind"), again.pop("schema_version"), stored.pop("schema_version")) == ("report", 2, 1)
    kept, records = again.pop("structures"), stored.pop("structures", [])
    assert again.pop("controls") == [], "there were none"
    assert {one.pop("step") for one in again["measured"]} == {None}, "it was not known"
    assert again == stored
    assert kept["name"] == [record["name"] for record in records]
    for place, record in enumerate(records):
        for quantity, values in record["quantities"].items():
            for key in ("rms", "equiv", "floor", "weight"):
                assert kept["quantities"][quantity][key][place] == values[key]
    assert ep.Report.from_dict(found.to_dict()) == found


@pytest.mark.parametrize("name", ["sampler", "grid", "comparison"])
def test_files_of_version_1_of_other_kinds_are_read(name: str) -> None:
    """The same numbers under the same names, but for a grid's plans, which stand beside the estimates now."""
    stored = json.loads((DATA / f"{name}_v1.json").read_text())
    found = ep.load(DATA / f"{name}_v1.json")
    again = json.loads(found.to_json())
    assert (again["kind"], again["schema_version"]) == (name, 2)
    assert type(found).from_dict(again) == found
    assert found.to_dict() == again
    if name == "grid":
        for place, plan in (("cube", "cube_plan"), ("rotations", "plan")):
            assert stored[place].pop("rotation_plan") == again[plan]
            assert stored[place].pop("plan") == str(getattr(found, plan))
        assert stored["rotations"].pop("interpolation") == again["interpolation"]
    without = json.loads((DATA / f"{name}_v1.json").read_text())
    del without[{"sampler": "measured", "grid": "seconds", "comparison": "names"}[name]]
    with pytest.raises(EquivProbeError, match=r"no (measured|seconds|names); expected it to be there"):
        type(found).from_dict(without)
    assert contains(again, {key: value for key, value in stored.items() if key != "schema_version"})


def contains(whole: Any, part: Any) -> bool:
    """Whether every entry of the part stands at the same place of the whole."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


def test_notes_above_and_below() -> None:
    class Warned(Record, frozen=True):
        def document(self) -> Document:
            return Document("warned", "all", [Note("Interrupted.", warning=True), *method({}, ["a", "b"])])

    html = page([Warned()])
    assert '<p class="warning">Interrupted.</p>' in html
    assert html.count("<h3>Notes</h3>") == 1
    assert str(Warned()).splitlines()[1:4] == ["Interrupted.", "Measured with", "Note: a"]
