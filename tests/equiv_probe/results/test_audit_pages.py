"""Pages of the audits of samplers and of models of grids: what they say, read back from files, nothing injected."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

import equiv_probe as ep
from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.deviation_by_angle import by_angle
from equiv_probe.generative import plots as sampler_plots
from equiv_probe.report.cells import interval_of, value_of
from equiv_probe.report.formatting import number, shown
from equiv_probe.report.loading import load
from equiv_probe.report.page import fragment, page
from equiv_probe.results.report import Report
from equiv_probe.rotations.designs import group
from equiv_probe.rotations.haar import angles, haar
from equiv_probe.voxels import plots as grid_plots
from equiv_probe.voxels.grid_numbers import Shown

from ..generative.samplers import HAAR4, quiet, rotations
from ..page_reports import audit_report
from ..report.test_page import HOSTILE, Elements
from ..voxels.test_grids_audit import CUBIC, GRIDS, Blur, gaussian, smooth

if TYPE_CHECKING:
    from pathlib import Path


def path(noise: Tensor, steep: float = 2.0) -> Tensor:
    """Langevin dynamics in a well that is steeper along z, all points of it."""
    points = [noise]
    for _ in range(6):
        pull = points[-1] * torch.tensor([1.0, 1.0, steep], dtype=noise.dtype)
        points.append(points[-1] - 0.1 * pull + 0.1 * torch.randn_like(noise))
    return torch.stack(points)


def grid(
    kernel: Tensor, *, labels: bool = False, dtype: torch.dtype = torch.float64, n: int = 8, count: int = 3
) -> ep.GridAudit:
    x = smooth(n, count).to(dtype)
    plan = ep.RotationPlan("klein", 4)
    model, targets = Blur(kernel).to(dtype), {"y": x} if labels else None
    return ep.audit_grid(model, {"x": x}, GRIDS, targets, plan=plan, progress=False)


@pytest.fixture(scope="module")
def sampled() -> ep.SamplerAudit:
    return quiet(path, (6, 4, 3), path=True)


@pytest.fixture(scope="module")
def oblong() -> ep.GridAudit:
    return grid(gaussian(0.5, 1.2, 1.2), labels=True)


@pytest.fixture(scope="module")
def audits(sampled: ep.SamplerAudit, oblong: ep.GridAudit) -> dict[str, Any]:
    return {"sampler": sampled, "grid": oblong}


def words(html: str) -> str:
    return " ".join(" ".join(Elements(html).text).split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sampler", "grid"])
def test_what_is_saved_is_read_back_whole(audits: dict[str, Any], kind: str, tmp_path: Path) -> None:
    audit = audits[kind]
    audit.save(tmp_path / "a.json")
    loaded = load(tmp_path / "a.json")
    assert type(loaded) is type(audit)
    assert loaded.to_dict() == audit.to_dict()
    assert str(loaded) == str(audit)
    assert page([loaded]) == page([audit])
    with pytest.raises(EquivProbeError, match=r"\.json, \.csv or \.html"):
        audit.save(tmp_path / "a.txt")
    audit_report().save(tmp_path / "r.json")
    assert isinstance(load(tmp_path / "r.json"), Report)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("sampler", {"measured": []}),
        ("sampler", {"schema_version": 7}),
        ("sampler", {"draws": [{"call": 3}]}),
        ("sampler", {"measured": [{"name": "x"}]}),
        ("grid", {"cube": {}}),
        ("grid", {"by_angle": {"cube": "x"}}),
        ("grid", {"structures": None}),
    ],
)
def test_what_is_no_audit_is_refused(audits: dict[str, Any], kind: str, broken: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(audits[kind].to_dict() | broken))
    with pytest.raises(EquivProbeError, match=r"a\.json, which is not a report of this version"):
        load(tmp_path / "a.json")


def test_a_plan_that_is_none_is_refused(oblong: ep.GridAudit) -> None:
    stored = copy.deepcopy(oblong.to_dict())
    stored["plan"]["design"] = "<b>"
    with pytest.raises(EquivProbeError, match="design '<b>'"):
        ep.GridAudit.from_dict(stored)


def wrong(audit: Any, *path: Any, value: Any) -> Any:
    """The stored audit with another value at one place."""
    whole = json.loads(json.dumps(audit.to_dict()))
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("sampler", ("measured", 0, "by_sample", 1, "rms"), "0.2", "measured[0].by_sample[1].rms: a text '0.2'"),
        ("sampler", ("measured", 0, "along_path", 0, "other noise"), [], "expected a number"),
        ("sampler", ("measured", 0, "by_angle", 0, "count"), True, "measured[0].by_angle[0].count: true or false"),
        ("sampler", ("measured", 0, "over_samples"), {}, "no measured[0].over_samples.q50"),
        ("sampler", ("draws", 0, "shape"), [6, "4"], "draws[0].shape[1]: a text '4'"),
        ("sampler", ("failures",), [{"name": "a"}], "no failures[0].error"),
        ("grid", ("cube", "equiv_interval"), [1.0], "cube.equiv_interval: a list of 1"),
        ("grid", ("rotations", "per_structure", "equiv"), [1.0, "<b>", None], "not a list of numbers"),
        ("grid", ("rotations", "per_structure", "equiv"), [1.0], "rotations.per_structure: lists of several lengths"),
        ("grid", ("cube", "parts", "y", "floor"), "low", "floor"),
        ("grid", ("by_angle", "cube", 0, "rms"), -1e308, "by_angle.cube[0].rms: a number too large for a measurement"),
        ("grid", ("plan", "seed"), None, "plan.seed: null"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_with_its_place(
    audits: dict[str, Any], kind: str, path: tuple[Any, ...], value: Any, said: str
) -> None:
    with pytest.raises(EquivProbeError) as caught:
        type(audits[kind]).from_dict(wrong(audits[kind], *path, value=value))
    assert said in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sampler", "grid"])
def test_what_was_not_measured_stays_so_and_is_a_dash(audits: dict[str, Any], kind: str) -> None:
    """Null wherever a number may be missing: read as NaN, given back as null, shown without a trace of it."""
    place = {
        "sampler": [("measured", 0, name) for name in ("spread", "floor", "nondeterminism", "rms_interval")],
        "grid": [("cube", name) for name in ("floor", "nondeterminism", "equiv_interval", "total")],
    }[kind]
    whole = audits[kind].to_dict()
    for path in place:
        whole = wrong(_Stored(whole), *path, value=[None, None] if path[-1].endswith("interval") else None)
    found = type(audits[kind]).from_dict(whole)
    assert json.loads(found.to_json()) == whole
    for text in (page([found]), str(found), fragment(found)):
        assert not re.search(r"\b(nan|None|inf)\b", " ".join(Elements(text).text if "<" in text else [text]))


class _Stored:
    """What is stored, where an audit is asked for."""

    def __init__(self, whole: dict[str, Any]) -> None:
        self.to_dict = lambda: whole


def test_what_is_tabular_is_a_row_for_each_sample_and_structure(sampled: ep.SamplerAudit, oblong: ep.GridAudit) -> None:
    assert [row["rms"] for row in sampled.rows()] == [entry["rms"] for entry in sampled.measured[0].by_sample]
    rows = [row for row in oblong.rows() if row["rotations"] == "all rotations"]
    assert [row["equiv"] for row in rows] == oblong.rotations.per_structure["equiv"].tolist()
    assert len(oblong.rows()) == 2 * oblong.structures


@pytest.mark.slow
def test_the_samplers_page_answers_in_order(sampled: ep.SamplerAudit) -> None:
    html = page([sampled])
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "Is it broken?",
        "Where is it?",
        "What kind is it?",
        "Over time",
        "What did it draw on the way?",
        "How was it measured?",
        "What can it not tell?",
    ]
    one, said = sampled.measured[0], words(html)
    low, high = map(number, one.rms_interval)
    assert f"samples do not rotate with it. {number(one.rms)} Å 95 % interval {low} to {high}" in said
    assert f"{number(100 * one.rms / one.scale)} % of how far end points of other noise lie apart" in said
    assert f"{number(one.along_path[-1]['rms'])} after 6 steps" in said
    assert "randn_like 6 × 4 × 3 6 yes" in said
    worst = max(one.by_sample, key=lambda entry: entry["rms"])
    assert f"{int(worst['sample'])} {number(worst['rms'])} {number(worst['max'])}" in said


def test_a_sampler_at_round_off_is_told_from_a_broken_one() -> None:
    """Negative control: without the steep well the same page says no."""
    found = quiet(lambda noise: path(noise, 1.0), (6, 4, 3), path=True)
    said = words(fragment(found))
    assert "No: samples rotate with their noise, down to rounding." in said
    assert "do not rotate with it" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "answer", "of"),
    [
        (gaussian(1.2, 1.2, 1.2), "Not as far as can be told: nothing at right angles", "rotations"),
        (
            gaussian(0.5, 1.2, 1.2),
            "Yes: rotations by right angles, which interpolate nothing, already show it.",
            "cube",
        ),
        (CUBIC, "Yes, between right angles: more than interpolation makes of it.", "rotations"),
    ],
    ids=["round", "oblong", "cubic"],
)
def test_the_grids_page_distinguishes_the_three_cases(kernel: Tensor, answer: str, of: str) -> None:
    found = grid(kernel, n=14)
    top, one = found.document().headline, getattr(found, of)
    assert top is not None
    assert top.answer.startswith(answer)
    assert value_of(top) == number(math.sqrt(one.equiv))
    low, high = (number(math.sqrt(end)) for end in one.equiv_interval)
    assert interval_of(top) == f"{low} to {high}"
    assert (top.severity == "good") == answer.startswith("Not")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cubes_floor_is_never_below_the_resolution_of_the_numbers(dtype: torch.dtype) -> None:
    """Round trips of the cube differ by nothing at all, and the model still rounds: no finding of a round kernel."""
    found = grid(gaussian(1.2, 1.2, 1.2), dtype=dtype)
    with torch.no_grad():
        size = float(Blur(gaussian(1.2, 1.2, 1.2)).eval()({"x": smooth(8)})["y"].square().mean())
    least = torch.finfo(dtype).eps ** 2 * size / 12
    assert found.cube.floor >= 0.99 * least
    assert found.cube.floor < 100 * least
    assert Shown(found.cube).kind == "round-off"
    assert Shown(changed(found.cube, floor=1e-6 * least)).kind == "broken", "control: a floor of nothing would find it"


def test_labels_do_not_make_the_cubes_number_a_finding() -> None:
    """``L_total − L_mean`` rounds as the loss does: of a round model with labels nothing may be found."""
    found = grid(gaussian(1.2, 1.2, 1.2), labels=True)
    assert Shown(found.cube).kind == "round-off"
    assert found.cube.floor >= 0.99 * torch.finfo(torch.float64).eps * found.cube.total
    top = found.document().headline
    assert top is not None
    assert top.answer.startswith("Not as far as can be told")


def test_labels_add_the_loss(oblong: ep.GridAudit) -> None:
    html = page([oblong])
    said = words(html)
    assert "How much of the loss is it?" in html
    assert f"right angles: {number(100 * oblong.cube.share)} %" in said
    assert f"all rotations: {number(100 * oblong.rotations.share)} %" in said
    assert f"{number(100 * oblong.cube.share)} % ({number(100 * oblong.cube.share_interval[0])} to" in said
    bare = {name: changed(getattr(oblong, name), total=math.nan) for name in ("cube", "rotations")}
    assert "How much of the loss" not in page([replace(oblong, **bare)])


def test_by_angle_is_the_root_mean_square_of_what_is_in_the_bin() -> None:
    drawn, squares = haar(40, torch.Generator().manual_seed(0)), torch.rand(40, 3).double()
    weights = torch.rand(40).double()
    found = by_angle(squares, drawn, weights)
    degrees = torch.rad2deg(angles(drawn))
    assert [entry["low"] for entry in found] == list(range(0, 180, 20))
    assert sum(entry["count"] for entry in found) == 120
    for entry in found:
        inside = (degrees >= entry["low"]) & (degrees < entry["high"])
        if inside.any():
            mean = (weights[inside, None] * squares[inside]).sum() / (3 * weights[inside].sum())
            assert math.isclose(entry["rms"], math.sqrt(mean), rel_tol=1e-12)
        else:
            assert math.isnan(entry["rms"])
    cube = by_angle(torch.ones(24, 1), group("octahedral"), torch.ones(24), exact=True)
    assert [(entry["low"], entry["count"]) for entry in cube] == [(90, 6), (120, 8), (180, 9)]
    assert by_angle(torch.ones(24, 1), -group("octahedral"), torch.ones(24)) == []


def test_the_angles_of_a_linear_sampler_follow_its_closed_form(matrix: Tensor) -> None:
    """Every rotation's deviation is known; bin by bin to rounding."""
    noise = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = quiet(lambda x: x @ matrix.mT, noise).measured[0]
    g = rotations(HAAR4, 5)
    gap = torch.einsum("kuab,unb->kuna", g.mT @ matrix @ g - matrix, noise).square().sum(-1).mean(-1)
    degrees = torch.rad2deg(angles(g))
    filled = [entry for entry in one.by_angle if entry["count"]]
    assert sum(entry["count"] for entry in filled) == 20
    for entry in filled:
        inside = (degrees >= entry["low"]) & (degrees < entry["high"])
        assert math.isclose(entry["rms"], math.sqrt(gap[inside].mean()), rel_tol=1e-12)


def test_the_cubes_angles_are_those_of_its_rotations(oblong: ep.GridAudit) -> None:
    """By 180° about any face's axis an oblong kernel is rotated onto itself; by 90° about two of three it is not."""
    model, x = Blur(gaussian(0.5, 1.2, 1.2)), smooth(8)
    rep, plan = ep.grid(), ep.RotationPlan("cube")
    g = plan.rotations()[0]
    with torch.no_grad():
        about = model.eval()({"x": x})["y"]
        back = torch.stack([rep.rotate(model({"x": rep.rotate(x, one)})["y"], one.mT) for one in g])
    squares, degrees = (back - about).square().flatten(1).mean(1), torch.rad2deg(angles(g)).round()
    found = {entry["low"]: entry["rms"] for entry in oblong.by_angle["cube"]}
    for at in (90.0, 120.0, 180.0):
        assert math.isclose(found[at], math.sqrt(squares[degrees == at].mean()), rel_tol=1e-9)


def hostile_sampler(audit: ep.SamplerAudit, text: str) -> ep.SamplerAudit:
    one = replace(audit.measured[0], name=text, unit=text, sentence=text, verdict=text)
    return replace(
        audit,
        sampler=text,
        protocol={text: text},
        measured=[one],
        draws=[{"call": text, "shape": [1], "times": 1, "turned": True, "where": text}],
        failures=[{"name": text, "error": text}],
        notes=[text],
        blind_spots=[text],
    )


def hostile_grid(audit: ep.GridAudit, text: str) -> ep.GridAudit:
    part = changed(audit.cube, loss=text, unit=text, notes=(text,), parts={})
    other = changed(audit.rotations, loss=text, unit=text, parts={text: part, "plain": part})
    cube = changed(part, parts={text: part, "plain": part})
    return replace(audit, cube=cube, rotations=other, model=text, interpolation=text, protocol={text: text})


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["sampler", "grid"])
def test_whatever_comes_from_files_is_text(audits: dict[str, Any], kind: str, text: str) -> None:
    make: Any = {"sampler": hostile_sampler, "grid": hostile_grid}[kind]
    for write in (lambda one: page([one]), fragment):
        found, harmless = Elements(write(make(audits[kind], text))), Elements(write(make(audits[kind], "harmless")))
        assert found.outside == harmless.outside
        assert not any(name.startswith("on") for _, attributes in found.found for name in attributes)
        assert shown(text) in " ".join(found.text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sampler", "grid"])
def test_figures_have_words_and_labels_and_ids_of_their_own(audits: dict[str, Any], kind: str) -> None:
    html = page([audits[kind], audits[kind]])
    images = [attributes for tag, attributes in Elements(html).found if tag == "svg"]
    assert len(images) == {"sampler": 6, "grid": 8}[kind]
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 60 for one in images)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert not re.search(r">\s*(nan|None|\[nan.*|inf)\s*<", html)


@pytest.mark.slow
def test_in_a_notebook_and_from_the_command_line(
    audits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, audit in audits.items():
        html = audit._repr_html_()
        assert "Yes: " in html
        assert "<script" not in html
        audit.save(tmp_path / f"{kind}.json")
        given = ["equiv-probe", "report", str(tmp_path / f"{kind}.json"), "-o", str(tmp_path / "out.html")]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
        found = Elements((tmp_path / "out.html").read_text())
        assert found.outside == Elements(page([audit])).outside
    mixed = page([audit_report(), *audits.values()])
    assert re.findall(r'<article id="(\w+)">', mixed) == ["r0", "r1", "r2"]


def test_figures_show_the_numbers(sampled: ep.SamplerAudit, oblong: ep.GridAudit) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="figures need Matplotlib")
    pyplot.switch_backend("agg")
    one = sampled.measured[0]
    drawn = sampler_plots.samples(one).lines[0].get_xdata()
    assert list(drawn[1:]) == sorted(entry["rms"] for entry in one.by_sample)
    along = sampled.plot_path().lines[0].get_ydata()
    assert list(along) == [entry["rms"] for entry in one.along_path]
    filled = [entry["rms"] for entry in one.by_angle if entry["count"]]
    assert list(sampled.plot_angle().lines[0].get_ydata()) == filled
    roots = sorted(map(math.sqrt, oblong.cube.per_structure["equiv"].tolist()))
    assert list(oblong.plot_structures().lines[0].get_xdata()[1:]) == pytest.approx(roots)
    assert [at for at, _ in grid_plots.at_angles(oblong.by_angle["cube"])] == [90.0, 120.0, 180.0]
    places = [line.get_xdata()[0] for line in oblong.plot_numbers().lines if len(line.get_xdata()) == 1]
    assert any(math.isclose(at, math.sqrt(oblong.cube.equiv)) for at in places)
    assert oblong.plot_angle().get_xlabel() == "angle of the rotation, degrees"
    pyplot.close("all")
    bare = replace(sampled, measured=[replace(one, along_path=[])])
    with pytest.raises(EquivProbeError, match="a report without a path"):
        bare.plot_path()
    assert "Over time" not in page([bare])
