"""Pages of curvatures and of lines: what they say, read back from files, nothing injected."""

from __future__ import annotations

import copy
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
from equiv_probe.landscape import plots as curvature_plots
from equiv_probe.landscape.conditioning import KINDS
from equiv_probe.landscape.curvature_table import cells
from equiv_probe.landscape.line_table import cells as line_cells
from equiv_probe.landscape.saved_curvature import SavedCurvature
from equiv_probe.landscape.saved_line import SavedLine
from equiv_probe.report.formatting import number, shown
from equiv_probe.report.loading import load
from equiv_probe.report.page import curvature_sections, fragment, line_sections, page, views
from equiv_probe.report.page.curvature_sections import headline
from equiv_probe.report.page.line_sections import headline as line_headline
from equiv_probe.report.page.writing import powers

from ..report.test_page import HOSTILE, Elements
from ..report.test_stored import WRONG, changed, places
from ..results.test_audit_pages import words
from .planted_losses import Linear, OrbitMse, Quadratic, linear, perceptron, with_spectrum

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.report.page.headline import Headline


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


@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_what_is_saved_is_read_back_whole(found: dict[str, Any], kind: str, tmp_path: Path) -> None:
    one = found[kind]
    one.save(tmp_path / "a.json")
    loaded = load(tmp_path / "a.json")
    assert isinstance(loaded, {"curvature": SavedCurvature, "line": SavedLine}[kind])
    assert str(loaded) == str(one)
    assert type(loaded).load(tmp_path / "a.json") == loaded
    one.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == page([loaded])
    assert one._repr_html_() == loaded._repr_html_() == fragment(loaded)
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    with pytest.raises(EquivProbeError, match=r"\.json or \.html"):
        loaded.save(tmp_path / "a.txt")


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
        ((4.0, 1.0, 2.0), (8.0, 2.0, 4.0), "Not that one could tell", 1.0),
    ],
    ids=["equiv", "mean", "alike"],
)
def test_the_answer_is_the_planted_ratio(mean: Any, equiv: Any, answer: str, ratio: float) -> None:
    """κ(99 %) of these is λmax / λmin; scaling a loss changes nothing."""
    top = headline(planted(diagonal(*mean), diagonal(*equiv)).saved())
    assert top.answer.startswith(answer)
    assert float(top.value) == pytest.approx(ratio, rel=5e-3)
    assert "one set of rotations" in top.beside[-2]  # an exact number of one set has no error bar to trust
    assert top.span == ""
    assert f"largest eigenvalue {number(max(mean))}, κ = {number(max(mean) / min(mean))}." in top.beside[1]


def test_a_ratio_within_its_error_bar_of_one_is_not_called_easier(bent: ep.analysis.Curvature) -> None:
    saved = bent.saved()
    for low, high, start in ((0.9, 30.0, "Not"), (1.1, 30.0, "Yes, L_equiv"), (0.1, 0.9, "Yes, L_mean")):
        stored = copy.deepcopy(saved.stored)
        stored["condition_ratio"]["mass-0.99"] |= {"low": low, "high": high}
        top = headline(SavedCurvature.from_dict(stored))
        assert top.answer.startswith(start)
        assert top.span == f"{number(low)} to {number(high)}"


def test_definitions_that_tell_the_ratio_from_one_are_named(bent: ep.analysis.Curvature) -> None:
    stored = copy.deepcopy(bent.saved().stored)
    ends = dict.fromkeys(KINDS, (0.5, 2.0)) | {"mass-0.9": (2.0, 9.0), "weighted": (0.1, 0.9)}
    for kind, (low, high) in ends.items():
        stored["condition_ratio"][kind] |= {"low": low, "high": high}
    said = " ".join(headline(SavedCurvature.from_dict(stored)).beside)
    assert "It is above one for certain under mass 0.9 and below one for certain under weighted." in said
    for kind in KINDS:
        stored["condition_ratio"][kind] |= {"low": None, "high": None}
    said = " ".join(headline(SavedCurvature.from_dict(stored)).beside)
    assert "Under none of them can it be told from one." in said


def test_a_saddle_is_told_from_a_bowl() -> None:
    """Negative control: the same without the negative eigenvalue says nothing of the kind."""
    saddle, bowl = (headline(planted(diagonal(4.0, 2.0, s * 1.0), torch.eye(3).double()).saved()) for s in (-1, 1))
    assert "L_mean bends down somewhere, by -1.00: these weights are no minimum of it." in saddle.beside
    assert not any("bends down" in line for line in bowl.beside)


def test_one_loss_alone_is_not_compared() -> None:
    one = planted(diagonal(4.0, 2.0, 1.0), torch.eye(3).double(), losses=("mean",)).saved()
    assert headline(one).answer == "That takes both: here is L_mean alone."
    assert headline(one).value == "4.00"
    assert "L_equiv" not in words(page([one])).split("All numbers")[1].split("How was it")[0]
    with pytest.raises(EquivProbeError, match=r"without 'mass-0\.99'"):
        one.ratio()
    with pytest.raises(EquivProbeError, match="a report without a ratio"):
        curvature_plots.ratios(one)


def test_the_page_shows_every_number_of_the_table(bent: ep.analysis.Curvature) -> None:
    said = words(page([bent.saved()]))
    heads, rows = cells(bent)
    for row in rows:
        assert " ".join(f"{row[0]} {powers(' '.join(row[1:]))}".split()) in said
    assert "products with vectors" in said
    assert "sets of rotations 2 eigenvalues 4 of largest magnitude, to 0.001 of the largest" in said
    assert heads[-1] == "L_mean / L_equiv"


def test_the_ratios_figure_shows_all_definitions(bent: ep.analysis.Curvature) -> None:
    ax = curvature_plots.ratios(bent, Figure().add_subplot())
    having = [kind for kind in KINDS if math.isfinite(bent.ratio(kind).value)]
    assert [label.get_text() for label in ax.get_yticklabels()] == having
    drawn = [float(bars.lines[0].get_xdata()[0]) for bars in ax.containers]
    np.testing.assert_allclose(drawn, [bent.ratio(kind).value for kind in having])
    saved = curvature_plots.density(bent.saved(), Figure().add_subplot())
    fresh = curvature_plots.density(bent, Figure().add_subplot())
    for one, other in zip(saved.patches, fresh.patches, strict=True):
        np.testing.assert_allclose(one.get_data().values, other.get_data().values)


def test_the_line_says_where_the_weights_lie(lines: ep.analysis.Line) -> None:
    """At an equivariant model L_equiv is at its bottom; L_mean, off its minimum, on a slope."""
    top: Headline = line_headline(lines.saved())
    assert (
        top.answer
        == "L_equiv grows with the square of the distance: along this line the weights lie at the bottom of it."
    )
    assert float(top.value) == pytest.approx(2, abs=1e-6)
    assert top.beside[0].startswith(
        "L_mean changes in proportion to the distance: along this line the weights lie on a"
    )
    said = words(page([lines.saved()]))
    for row in line_cells(lines)[1]:
        assert " ".join(powers(" ".join(row)).split()) in said
    assert "over sets of rotations" in said


def test_negative_control_away_from_symmetry_the_line_says_otherwise() -> None:
    """Of a model that is not equivariant L_equiv, too, lies on a slope."""
    top = line_headline(ep.analysis.along_line(linear(), seed=3, progress=False).saved())
    assert top.answer.startswith("L_equiv changes in proportion to the distance")
    assert float(top.value) == pytest.approx(1, abs=1e-3)
    flat = ep.analysis.along_line(linear(averaged=False), seed=3, progress=False).saved()
    assert "L_equiv has no power that could be told" in line_headline(flat).answer


def hostile_saved(saved: Any, text: str) -> Any:
    """The same with this text wherever text can be."""
    stored = copy.deepcopy(saved.stored) | {"name": text, "protocol": {text: text}}
    if isinstance(saved, SavedCurvature):
        return SavedCurvature.from_dict(stored | {"notes": [text]})
    for one in stored["exponents"].values():
        one["power"], one["why"] = dict.fromkeys(one["power"]), text
    return SavedLine.from_dict(stored | {"direction": text, "over": text})


@pytest.fixture(scope="module")
def harmless(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The elements of pages and of notebooks' cells."""
    saved = {kind: hostile_saved(one.saved(), "harmless") for kind, one in found.items()}
    return {kind: [Elements(write(one)).outside for write in WRITERS] for kind, one in saved.items()}


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_whatever_comes_from_files_is_text(
    found: dict[str, Any], harmless: dict[str, list[list[str]]], kind: str, text: str
) -> None:
    saved = hostile_saved(found[kind].saved(), text)
    for write, outside in zip(WRITERS, harmless[kind], strict=True):
        dirty = Elements(write(saved))
        assert dirty.outside == outside
        assert not any(name.startswith("on") for _, attributes in dirty.found for name in attributes)
        assert shown(text) in " ".join(dirty.text)
    assert shown(text)[:12] in str(saved)
    assert "\u202e" not in str(saved)


@pytest.mark.parametrize("kind", ["curvature", "line"])
def test_figures_have_words_and_labels_and_ids_of_their_own(found: dict[str, Any], kind: str) -> None:
    saved = found[kind].saved()
    html = page([saved, saved])
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
    monkeypatch.setattr(views, "svg", lambda *_, **__: "")
    whole, canvas, refused = json.loads(json.dumps(found[kind].saved().stored)), Figure(), 0
    whole.pop("total", None)
    for path in places(whole):
        try:
            saved = type(found[kind].saved()).from_dict(changed(whole, path, value))
        except EquivProbeError as error:
            refused, said = refused + 1, str(error)
        else:
            module: Any = {"curvature": curvature_sections, "line": line_sections}[kind]
            said = f"expected {module.view(saved, 'r0')}"
            if isinstance(value, str):
                assert value not in page([saved])
                assert str(saved)
            elif value is None and path[0] in {"condition_ratio", "exponents", "L_equiv_stderr", "length"}:
                draws = [curvature_plots.ratios] if kind == "curvature" else [curvature_plots.growth]
                for draw in draws:
                    canvas.clear()
                    draw(saved, canvas.add_subplot())
        assert "expected" in said
    assert refused > 20
