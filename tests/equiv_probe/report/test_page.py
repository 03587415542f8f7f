"""Pages: one file, in the order that people ask, everything from files escaped, nothing that fetches."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.cells import interval_of, value_of
from equiv_probe.report.formatting import number, shown
from equiv_probe.report.page import fragment, page, viewer
from equiv_probe.results.comparison import compare
from equiv_probe.results.headline import headline
from equiv_probe.results.worst_structures import colored_scene, in_3d

from ..page_reports import NAN, audit_report, dynamics, measured, run_report, structure

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.report import Report

HOSTILE = [
    "</script><script>window.hacked=1</script>\"><img src=x onerror='window.hacked=1'>",
    "'><svg onload=window.hacked=1></style><style>body{display:none} javascript:window.hacked=1",
    "{{ 7 * 7 }}{% raw %}--><!-- ]]> &lt;b&gt; &amp; \u2028\u2029 力 🙂 \u202eabc $\\frac$",
]


def hostile(text: str) -> Report:
    """A report with this text wherever text can be."""
    atoms = ["C", text, "H"]
    record = structure(text, 20.0, symbols=atoms)
    record["quantities"] = {text: record["quantities"]["forces"]}
    record["quantities"][text]["worst_atoms"][0]["element"] = text
    one = measured(text, text, by_element={text: {"rms": 1.0, "atoms": 2}}, verdict="broken", sentence=text)
    assert one.labelled is not None
    one = replace(one, labelled=replace(one.labelled, loss=text, unit=text))
    other = {**structure("plain", 10.0), "quantities": {text: structure("plain", 10.0)["quantities"]["forces"]}}
    history = [{"step": i, "stage": text, "output": text, "share": 0.1 * i, text: 1.0} for i in range(3)]
    return audit_report(
        model=text,
        source=text,
        protocol={text: text},
        measured=[one],
        structures=[record, other],
        failures=[{"name": text, "error": text}],
        notes=[text],
        blind_spots=[text],
        history=history,
    )


class Elements(HTMLParser):
    """Every element of a page, those outside of figures, and its text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.outside: list[str] = []
        self.drawing = False
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.drawing |= tag == "svg"
        if self.drawing:  # how many ticks a figure has is its own affair
            assert tag in {"svg", "defs", "style", "g", "path", "use", "text", "tspan", "rect", "clippath", "image"}
        else:
            self.outside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.drawing &= tag != "svg"

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in {"script", "style"}:
            self.text.append(data)


class Timed(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return t[:, None, None] * self.net(x_t)


@pytest.fixture(scope="module")
def plain() -> str:
    return page([audit_report()])


def test_it_answers_in_the_order_in_which_people_ask(plain: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", plain)
    assert headings == [
        "Is it broken?",
        "How much of the loss is it?",
        "Where is it?",
        "What kind is it?",
        "How was it measured?",
        "What can it not tell?",
    ]
    assert "Over time" in re.findall(r"<h2>(.*?)</h2>", page([run_report()]))


@pytest.mark.slow
def test_over_time_shows_diffusion_times_and_trajectories() -> None:
    """What there is of it, each with its figure and its numbers in words."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3)
    timed = Timed(net)
    probe = ep.Probe(timed, every=1, over="t", bins=2, center="origin")
    x, t = torch.randn(64, 4, 3), torch.rand(64)
    probe.step(lambda: (timed(x, t) - x).square().mean())
    (profile,) = probe.report().over
    text = page([probe.report()])
    assert "Over t: train/loss" in text
    assert f"{profile.bins[0].label}: {number(100 * profile.bins[0].share)} %" in text
    text = page([dynamics()])
    assert "Equivariance error of the forces over the trajectory" in text
    first, last, after = number(90.0), number(110.0), number(2.0)
    said = f"√L_equiv of forces: {first} meV/Å at first, {last} meV/Å after {after} fs; between {first} and {last}."
    assert said in text
    assert "Angular momentum over the trajectory" in text
    assert "Angular momentum over the trajectory" not in page([run_report()])


def test_the_answer_is_a_sentence_and_a_number_beside_the_floor_and_the_models_error(plain: str) -> None:
    text = " ".join(" ".join(Elements(plain).text).split())
    assert "Yes: the model does not respect rotation. 138 meV/Å 95 % interval 128 to 148" in text
    assert "3 × 10⁴ times the floor of 0.00470 meV/Å" in text
    assert "error against the reference forces is 302 meV/Å" in text
    assert "Averaged over orientations it would be 269: 20.9 %" in text


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [
        ("round-off", "No: it respects rotation"),
        ("above round-off", "Slightly"),
        ("non-deterministic", "It cannot be decided"),
        ("unknown", "no floor to compare"),
    ],
)
def test_the_answer_follows_the_verdict(verdict: str, answer: str) -> None:
    found = audit_report(measured=[measured(verdict=verdict)]).document().headline
    assert found is not None
    assert answer in found.answer


def test_the_headline_is_about_what_is_broken_most() -> None:
    forces, stress = measured(verdict="round-off"), measured("stress", "meV/Å³", rms=2.0)
    found = headline([forces, stress])
    assert found is not None
    assert (found.about, found.value, found.unit) == ("stress", 2.0, "meV/Å³")
    both = headline([measured("energy", "meV/atom"), measured()])
    assert both is not None
    assert both.about == "forces"


def test_the_headline_of_a_run_is_the_share_of_its_validation() -> None:
    found = run_report().document().headline
    assert found is not None
    assert (found.about, value_of(found), interval_of(found)) == ("val/loss", "17.0", "13.0 to 21.0")
    assert run_report(measured=[]).document().headline is None
    early = [entry for entry in run_report().history if entry["stage"] == "train" or entry["step"] < 100]
    outdated = run_report(history=early).document().headline
    assert outdated is not None
    assert outdated.about == "train/loss"
    assert "Nothing was measured." in page([run_report(measured=[], history=[])])


@pytest.fixture(scope="module")
def harmless() -> list[str]:
    return Elements(page([hostile("harmless")])).outside


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_comes_from_files_is_text(text: str, harmless: list[str]) -> None:
    """The elements of the page are those of a harmless report, none more, with the same scripts."""
    html = page([hostile(text)])
    found = Elements(html)
    assert found.outside == harmless
    assert not any(name.startswith("on") for _, attributes in found.found for name in attributes)
    assert " ".join(found.text).count(shown(text)) >= 12  # and it is all shown, as it is
    data = re.search(r'<script type="application/json" id="datasets">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert not set(data[1]) & set("<>&'")
    sets = json.loads(data[1])
    assert sets["r0"]["structures"][0]["names"] == ["C", "X", "H"]  # only chemical symbols go to the viewer
    assert all(re.fullmatch(r"[\w /.,²³·-]+", name) for name in sets["r0"]["properties"])


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_comparisons_and_notebooks_escape_too(text: str) -> None:
    for make in (
        lambda report: page([compare([report, report], [report.model, report.source + " again"])]),
        fragment,
    ):
        harmless, found = Elements(make(hostile("harmless"))), Elements(make(hostile(text)))
        assert found.outside == harmless.outside
        assert shown(text) in " ".join(found.text)
    assert "<script" not in fragment(hostile(text))


def test_nothing_is_fetched_and_only_known_scripts_run(plain: str) -> None:
    elements = Elements(plain)
    for tag, attributes in elements.found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert not attributes.get("src")
        for link in (attributes.get("href"), attributes.get("xlink:href")):
            assert not link or link.startswith(("#", "data:image/png;base64,"))
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split(";")[1]


def test_every_figure_has_a_text_instead_and_axes_with_units(plain: str) -> None:
    images = [attributes for tag, attributes in Elements(plain).found if tag == "svg"]
    assert len(images) == 6
    for attributes in images:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"] or "") > 40
    for label in (
        "part of the loss L_total, %",
        "√L_equiv of forces, meV/Å",
        "angle between two orientations, degrees",
    ):
        assert label in plain
    ids = re.findall(r'\bid="([^"]+)"', plain)
    assert len(ids) == len(set(ids))


def test_figures_follow_the_pages_colours(plain: str) -> None:
    for variable in ("ink", "line", "series-0", "series-1"):
        assert f"var(--{variable}, #" in plain
        assert plain.count(f"--{variable}:") >= 3  # day, night, paper


def test_the_viewer_gets_the_worst_structures_first_and_their_atoms() -> None:
    report = audit_report()
    records = in_3d(report.structures, "forces")
    assert [record["name"] for record in records] == ["ammonia", "salt", "methane", "water"]
    found = colored_scene(report.measured, records)
    assert found["structures"][0]["names"] == ["O", "H", "H"]
    assert found["properties"]["forces error, meV/Å"]["values"][:3] == [23.0, 34.5, 46.0]
    assert len(found["environments"]) == 12
    assert found["settings"]["structure"][0]["color"] == {
        "property": "forces error, meV/Å",
        "palette": "cividis",
        "min": 0,
        "max": 46.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "geometry",
    [
        None,
        3,
        {},
        {"symbols": ["C"], "positions": []},
        {"symbols": ["C"], "positions": [[0, 0, "<b>"]]},
        {"symbols": []},
    ],
)
def test_what_is_no_geometry_is_not_drawn(geometry: Any) -> None:
    report = audit_report(structures=[{**structure("a", 1.0), "geometry": geometry}])
    assert in_3d(report.structures, "forces") == []
    assert "so there is no 3D view" in page([report])


def test_without_chemiscope_the_page_says_how_to_get_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "code", lambda: None)
    html = page([audit_report()])
    assert "pip install &#39;equiv-probe[report]&#39; adds a 3D view" in html
    assert "<button" not in html
    assert len(html) < 300_000


@pytest.mark.slow
def test_a_page_of_several_reports_has_the_viewers_code_once() -> None:
    html = page([audit_report(), run_report(), audit_report(model="another")])
    assert html.count('id="viewer-code"') == 1
    assert re.findall(r'<article id="(\w+)">', html) == ["r0", "r1", "r2"]
    assert re.findall(r'<li><a href="#(\w+)">', html) == ["r0", "r1", "r2"]
    with pytest.raises(EquivProbeError, match="no report"):
        page([])


def test_the_same_report_gives_the_same_page(plain: str) -> None:
    assert page([audit_report()]) == plain


@pytest.mark.slow
def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    """After a save and a load None and NaN are both about."""
    bare = measured(
        rms_interval=(NAN, NAN), relative=NAN, floor=NAN, nondeterminism=NAN, labelled=None, verdict="unknown"
    )
    report = audit_report(measured=[bare])
    report.save(tmp_path / "r.json")
    loaded = type(report).load(tmp_path / "r.json")
    for one in (report, loaded):
        html = page([one])
        assert not re.search(r">\s*(nan|None|\[nan.*)\s*<", html)


@pytest.mark.slow
def test_saved_by_its_suffix_and_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = audit_report()
    report.save(tmp_path / "a.html")
    report.save(tmp_path / "a.json")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["equiv-probe", "report", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert run("a.json", "-o", "b.html") == 0
    assert (tmp_path / "b.html").read_text() == (tmp_path / "a.html").read_text()
    (tmp_path / "text.json").write_text("not JSON")
    for arguments, said in (
        (("a.json", "-o", "a.json"), "ends in .htm or .html"),
        (("missing.json",), "no file missing.json"),
        (("text.json",), "text.json, which is not JSON"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_in_a_notebook_a_report_shows_its_answer() -> None:
    html = audit_report()._repr_html_()
    assert html is not None
    assert "Yes: the model does not respect rotation." in html
    assert html.count("<svg") == 1
    assert "viewer-code" not in html
