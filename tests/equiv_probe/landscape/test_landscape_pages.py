"""Pages of curvatures and of lines: what they say, read back from files, nothing injected."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import equiv_probe as ep
from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.report.cells import interval_of, text_of
from equiv_probe.report.document import Table
from equiv_probe.report.formatting import number, shown
from equiv_probe.report.page import document_view, fragment, page
from equiv_probe.report.page.writing import powers

from ..report.test_page import HOSTILE, Elements
from ..report.test_record import DATA
from ..report.test_stored import WRONG, changed, places
from ..results.test_audit_pages import words
from .planted_losses import Linear, OrbitMse, Quadratic, linear, perceptron, with_spectrum

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.report.document import Headline


FEW = [value for value in WRONG if value not in (-1e308, {}, [[[]]], True)]
"""One of a kind: every place of a file is tried with each."""
WRITERS = (lambda one: page([one]), fragment)


def diagonal(*values: float) -> Any:
    return with_spectrum(torch.tensor(values, dtype=torch.float64))


def planted(mean: Any, equiv: Any, **how: Any) -> ep.analysis.Curvature:
    return ep.analysis.curvature(Quadratic(mean, equiv), progress=False, **how)


@pytest.fixture(scope="module")
def bent() -> ep.analysis.Curvature:
    """Of a small network, from two sets of rotations and random vectors."""
    return ep.analysis.curvature(
        [perceptron(0), perceptron(0)], exact=False, steps=6, name="a perceptron", progress=False
    )


@pytest.fixture(scope="module")
def lines() -> ep.analysis.Line:
    """Away from an equivariant model that is not at the minimum of ``L_mean``."""
    loss = linear()
    several = [OrbitMse(Linear(1.3 * torch.eye(3).double()), loss.x, loss.y, loss.plan, k) for k in range(2)]
    return ep.analysis.along_line(several, seed=3, name="a multiple", progress=False)


@pytest.fixture(scope="module")
def found(bent: ep.analysis.Curvature, lines: ep.analysis.Line) -> dict[str, Any]:
    return {"curvature": bent, "line": lines}


def headline(one: Any) -> Headline:
    top = one.document().headline
    assert top is not None
    return top  # type: ignore[no-any-return]


def table_rows(one: Any) -> list[str]:
    """Rows of the table as a page shows them."""
    table = next(block for block in one.document().each() if isinstance(block, Table))
    cells = [[text_of(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    return [" ".join(" ".join([row[0], *map(powers, row[1:])]).split()) for row in cells]


def with_ratios(one: ep.analysis.Curvature, ends: dict[str, Any]) -> ep.analysis.Curvature:
    """The same with other intervals of the ratio, by kind of condition number."""
    stored = one.to_dict()
    for kind, (low, high) in ends.items():
        stored["condition_ratio"][kind] |= {"low": low, "high": high}
    return ep.Curvature.from_dict(stored)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_what_is_saved_is_read_back_whole(found: dict[str, Any], kind: str, tmp_path: Path) -> None:
    one = found[kind]
    one.save(tmp_path / "a.json")
    loaded = ep.load(tmp_path / "a.json")
    assert type(loaded) is type(one)
    assert type(loaded).load(tmp_path / "a.json") == loaded == one
    assert str(loaded) == str(one)
    one.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == page([loaded])
    assert one._repr_html_() == loaded._repr_html_() == fragment(loaded)
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    assert loaded.to_csv() == one.to_csv()
    with pytest.raises(EquivProbeError, match=r"suffix '\.txt'.*\.json, .*\.html"):
        loaded.save(tmp_path / "a.txt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_files_of_version_1_are_read(kind: str) -> None:
    stored = json.loads((DATA / f"{kind}_v1.json").read_text())
    one = ep.load(DATA / f"{kind}_v1.json")
    assert type(one) is {"curvature": ep.analysis.Curvature, "line": ep.analysis.Line}[kind]
    again = one.to_dict()
    assert (again.pop("kind"), again.pop("schema_version"), stored.pop("schema_version")) == (kind, 2, 1)
    assert again == stored
    for row in table_rows(one):
        assert row in words(page([one]))


def test_what_a_file_does_not_hold_is_said(found: dict[str, Any]) -> None:
    """The numbers that were stored are there; what takes the spectra or structures themselves says so."""
    bent, line = (type(one).from_dict(one.to_dict()) for one in found.values())
    assert bent.ratio("weighted") == found["curvature"].ratio("weighted")
    assert bent.mean.condition("median") == found["curvature"].mean.condition("median")
    np.testing.assert_array_equal(line.stderr("equiv"), found["line"].stderr("equiv"))
    for asked in (
        lambda: bent.ratio("mass-0.5"),
        lambda: bent.mean.condition("mass-0.5"),
        lambda: bent.equiv.densities,
    ):
        with pytest.raises(EquivProbeError, match=r"a curvature from a file.*equiv_probe\.curvature"):
            asked()
    for asked in (lambda: line.change("mean"), lambda: line.samples):
        with pytest.raises(EquivProbeError, match=r"a line from a file.*equiv_probe\.along_line"):
            asked()
    assert math.isfinite(found["curvature"].ratio("mass-0.5").value), "control: what was just computed has them"
    assert np.isfinite(found["line"].change("mean")[1]).all()


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("curvature", ("mean", "trace", "value"), "3", "mean.trace.value: a text '3'; expected a number"),
        ("curvature", ("equiv", "density", "weights"), [1.0], "nodes and 1 weights that are no density"),
        ("curvature", ("equiv", "density", "nodes", 0), None, "equiv.density: "),
        ("curvature", ("equiv", "parameters"), 0, "equiv: 0 parameters"),
        ("curvature", ("matrix",), "fisher", "matrix: "),
        ("curvature", ("condition_ratio",), {}, "condition_ratio under 0 definitions"),
        ("curvature", ("mean",), None, "condition_ratio of one loss"),
        ("line", ("t", 0), 2.0, "numbers that do not rise with 0 among them"),
        ("line", ("t", 0), None, "numbers that do not rise with 0 among them"),
        ("line", ("L_mean",), [1.0], "L_mean, 1 numbers at"),
        ("line", ("exponents",), {}, "no exponents.total"),
        ("line", ("exponents", "mean", "points"), 1.5, "exponents.mean.points: a number 1.5; expected a whole number"),
    ],
)
def test_wrong_entries_are_refused_with_their_place(
    found: dict[str, Any], kind: str, path: tuple[Any, ...], value: Any, said: str
) -> None:
    with pytest.raises(EquivProbeError) as caught:
        type(found[kind]).from_dict(changed(found[kind].to_dict(), path, value))
    assert said in str(caught.value)


@pytest.mark.slow
def test_the_command_makes_one_page_of_both(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, one in found.items():
        one.save(f"{kind}.json")
    monkeypatch.setattr(sys, "argv", ["equiv-probe", "report", "curvature.json", "line.json", "-o", "both.html"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    said = words((tmp_path / "both.html").read_text())
    for heading in ("Is one of the losses easier to lower?", "How do the losses change along the line?"):
        assert heading in said
    assert "a perceptron on the Hessian in 87 parameters" in said


@pytest.mark.parametrize(
    ("mean", "equiv", "answer", "ratio"),
    [
        ((9.0, 3.0, 1.0), (1.0, 1.0, 1.0), "Yes, L_equiv: at these weights it is the better conditioned", 9.0),
        ((2.0, 2.0, 2.0), (8.0, 3.0, 1.0), "Yes, L_mean: at these weights it is the better conditioned", 1 / 8),
        ((4.0, 1.0, 2.0), (8.0, 2.0, 4.0), "That is not known", 1.0),
    ],
    ids=["equiv", "mean", "alike"],
)
def test_the_answer_is_the_planted_ratio(mean: Any, equiv: Any, answer: str, ratio: float) -> None:
    """κ(99 %) of these is λmax / λmin; scaling a loss changes nothing."""
    top = headline(planted(diagonal(*mean), diagonal(*equiv)))
    assert top.answer.startswith(answer)
    assert top.value == pytest.approx(ratio, rel=5e-3)
    assert "one set of rotations" in top.beside[-2]  # an exact number of one set has no error bar to trust
    assert interval_of(top) == ""
    assert f"largest eigenvalue {number(max(mean))}, κ = {number(max(mean) / min(mean))}." in top.beside[1]


def test_a_ratio_within_its_error_bar_of_one_is_not_called_easier(bent: ep.analysis.Curvature) -> None:
    for low, high, start in ((0.9, 30.0, "That is not"), (1.1, 30.0, "Yes, L_equiv"), (0.1, 0.9, "Yes, L_mean")):
        top = headline(with_ratios(bent, {"mass-0.99": (low, high)}))
        assert top.answer.startswith(start)
        assert interval_of(top) == f"{number(low)} to {number(high)}"


def test_definitions_that_tell_the_ratio_from_one_are_named(bent: ep.analysis.Curvature) -> None:
    ends = dict.fromkeys(KINDS, (0.5, 2.0)) | {"mass-0.9": (2.0, 9.0), "weighted": (0.1, 0.9)}
    said = " ".join(headline(with_ratios(bent, ends)).beside)
    assert "It is certainly above one under mass 0.9 and certainly below one under weighted." in said
    said = " ".join(headline(with_ratios(bent, dict.fromkeys(KINDS, (None, None)))).beside)
    assert "Under none of them is it certainly different from one." in said


def test_a_saddle_is_distinguished_from_a_bowl() -> None:
    """Negative control: the same without the negative eigenvalue says nothing of the kind."""
    saddle, bowl = (headline(planted(diagonal(4.0, 2.0, s * 1.0), torch.eye(3).double())) for s in (-1, 1))
    assert "L_mean bends down somewhere, by -1.00: these weights are no minimum of it." in saddle.beside
    assert not any("bends down" in line for line in bowl.beside)


def test_one_loss_alone_is_not_compared() -> None:
    one = planted(diagonal(4.0, 2.0, 1.0), torch.eye(3).double(), losses=("mean",))
    assert headline(one).answer == "That takes both: here is L_mean alone."
    assert headline(one).value == pytest.approx(4.0)
    for shown_one in (one, ep.Curvature.from_dict(one.to_dict())):
        assert "L_equiv" not in words(page([shown_one])).split("All numbers")[1].split("How was it")[0]
        with pytest.raises(EquivProbeError, match="without both losses"):
            shown_one.ratio()
        with pytest.raises(EquivProbeError, match="without a ratio"):
            shown_one.plot_ratios()


def test_the_page_shows_every_number_of_the_table(bent: ep.analysis.Curvature) -> None:
    said = words(page([bent]))
    rows = table_rows(bent)
    assert len(rows) == 6 + len(KINDS)
    for row in rows:
        assert row in said
    assert f"weighted {powers(str(number(bent.mean.condition('weighted').value)))}" not in said, (
        "control: L_total first"
    )
    assert "products with vectors" in said
    assert "sets of rotations 2 eigenvalues 4 of largest magnitude, to 0.001 of the largest" in said
    assert "L_mean / L_equiv" in said


def test_the_ratios_figure_shows_all_definitions(bent: ep.analysis.Curvature) -> None:
    ax = bent.plot_ratios(Figure().add_subplot())
    having = [kind for kind in KINDS if math.isfinite(bent.ratio(kind).value)]
    assert [label.get_text() for label in ax.get_yticklabels()] == having
    drawn = [float(bars.lines[0].get_xdata()[0]) for bars in ax.containers]
    np.testing.assert_allclose(drawn, [bent.ratio(kind).value for kind in having])
    stored = ep.Curvature.from_dict(bent.to_dict()).plot(Figure().add_subplot())
    fresh = bent.plot(Figure().add_subplot())
    for one, other in zip(stored.patches, fresh.patches, strict=True):
        np.testing.assert_allclose(one.get_data().values, other.get_data().values)


@pytest.mark.slow
def test_the_line_says_where_the_weights_lie(lines: ep.analysis.Line) -> None:
    """At an equivariant model L_equiv is at its bottom; L_mean, off its minimum, on a slope."""
    top = headline(lines)
    assert (
        top.answer
        == "L_equiv grows with the square of the distance: along this line the weights lie at the bottom of it."
    )
    assert top.value == pytest.approx(2, abs=1e-6)
    assert top.beside[0].startswith(
        "L_mean changes in proportion to the distance: along this line the weights lie on a"
    )
    said = words(page([lines]))
    for row in table_rows(lines):
        assert row in said
    assert "over sets of rotations" in said


def test_negative_control_away_from_symmetry_the_line_says_otherwise() -> None:
    """Of a model that is not equivariant L_equiv, too, lies on a slope."""
    top = headline(ep.analysis.along_line(linear(), seed=3, progress=False))
    assert top.answer.startswith("L_equiv changes in proportion to the distance")
    assert top.value == pytest.approx(1, abs=1e-3)
    flat = ep.analysis.along_line(linear(averaged=False), seed=3, progress=False)
    assert "No power was found for L_equiv" in headline(flat).answer


def hostile_landscape(one: Any, text: str) -> Any:
    """The same with this text wherever text can be."""
    stored = one.to_dict() | {"name": text, "protocol": {text: text}}
    if isinstance(one, ep.analysis.Curvature):
        return ep.Curvature.from_dict(stored | {"notes": [text]})
    for fit in stored["exponents"].values():
        fit["power"], fit["why"] = dict.fromkeys(fit["power"]), text
    return ep.Line.from_dict(stored | {"direction": text, "over": text})


@pytest.fixture(scope="module")
def harmless(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The elements of pages and of notebooks' cells."""
    made = {kind: hostile_landscape(one, "harmless") for kind, one in found.items()}
    return {kind: [Elements(write(one)).outside for write in WRITERS] for kind, one in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_whatever_comes_from_files_is_text(
    found: dict[str, Any], harmless: dict[str, list[list[str]]], kind: str, text: str
) -> None:
    saved = hostile_landscape(found[kind], text)
    for write, outside in zip(WRITERS, harmless[kind], strict=True):
        dirty = Elements(write(saved))
        assert dirty.outside == outside
        assert not any(name.startswith("on") for _, attributes in dirty.found for name in attributes)
        assert shown(text) in " ".join(dirty.text)
    assert shown(text)[:12] in str(saved)
    assert "\u202e" not in str(saved)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_figures_have_words_and_labels_and_ids_of_their_own(found: dict[str, Any], kind: str) -> None:
    html = page([found[kind], found[kind]])
    images = [attributes for tag, attributes in Elements(html).found if tag == "svg"]
    assert len(images) == 4
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 60 for one in images)
    ids = [attributes["id"] for _, attributes in Elements(html).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for label in {"curvature": ("eigenvalue", "eigenvalues of 87"), "line": ("|L(t) − L(0)|", "loss")}[kind]:
        assert label in html


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curvature", "line"])
@pytest.mark.parametrize("value", FEW, ids=[repr(value)[:12] for value in FEW])
def test_whatever_stands_anywhere_in_a_file_it_is_refused_or_shown(
    found: dict[str, Any], kind: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = Figure()

    def drawn(draw: Any, *_: Any, **__: Any) -> str:
        """Figures are drawn where numbers are missing, and never written out, which takes ten times as long."""
        if value is None:
            canvas.clear()
            draw(canvas.add_subplot())
        return ""

    monkeypatch.setattr(document_view, "svg", drawn)
    whole, refused = json.loads(found[kind].to_json()), 0
    whole.pop("total", None)
    for path in places(whole):
        try:
            one = type(found[kind]).from_dict(changed(whole, path, value))
        except EquivProbeError as error:
            refused, said = refused + 1, str(error)
        else:
            said = f"expected {one}"
            assert not isinstance(value, str) or value not in page([one])
            assert page([one])
            assert one.to_csv().count("\n") > 10
        assert "expected" in said
        assert len(said) < 400 or said.startswith("expected")
    assert refused > 20
