"""Gradients of a run in words, in tables, in figures and on the page: what is said is what was measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from msgspec.structs import replace

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import number, shown, with_error
from equiv_probe.report.page import page, viewer
from equiv_probe.report.page.writing import powers
from equiv_probe.results import gradient_plots
from equiv_probe.results.gradient_record import HEADS, sentence

from ..page_reports import gradients, run_report
from ..report.test_page import HOSTILE, Elements
from ..results.test_audit_pages import words

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.gradient_record import GradientNumbers
    from equiv_probe.results.report import Report

GROUPS = ("encoder", "head")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "code", lambda: None)


def report(**how: Any) -> Report:
    return run_report(gradients=gradients(**how))


def whole(**how: Any) -> GradientNumbers:
    return gradients(**how)["train/loss"].groups["all"]


@pytest.mark.parametrize(
    ("how", "pull", "angle"),
    [
        ({"ratio": 0.5, "cosine": 0.0, "noise": 0.01}, "Broken symmetry pulls", "pull at right angles, or nearly"),
        ({"ratio": 2.0, "cosine": 0.6, "noise": 0.05}, "Broken symmetry pulls", "one lowers the other, too."),
        ({"ratio": 2.0, "cosine": -0.6, "noise": 0.05}, "Broken symmetry pulls", "one raises the other."),
        ({"ratio": 0.5, "cosine": 0.0, "noise": 0.2}, "Broken symmetry pulls", "the other could not be resolved"),
        (
            {"ratio": 0.0, "noise": 0.05, "seed": 1},
            "A pull of broken symmetry on the weights could not be resolved: at most",
            "",
        ),
    ],
    ids=["right angles", "together", "against", "unsure", "nothing"],
)
def test_the_sentence_is_that_of_what_was_planted(how: dict[str, Any], pull: str, angle: str) -> None:
    row = whole(**how)
    said = sentence(row)
    assert said.startswith(pull)
    assert angle in said
    if how["ratio"]:
        low, high = row.ratio_interval
        assert low < how["ratio"] < high
        assert f"pulls on the weights {number(row.ratio)} times ({number(low)} to {number(high)}) as hard" in said
        assert row.cosine_interval[0] < how["cosine"] < row.cosine_interval[1]
    else:
        assert "cosine" not in said
        assert f"at most {number(row.largest_ratio, 2)} times" in said
        assert 0 < row.largest_ratio < 3 * how["noise"]


def test_where_only_the_rest_is_noise_the_ratio_has_a_lower_end() -> None:
    row = replace(
        whole(ratio=2.0, noise=0.05),
        squared_mean=0.01, squared_mean_interval=(-0.02, 0.04), squared_equiv_interval=(0.36, 0.49),
    )  # fmt: skip
    assert "at least 3.0 times as hard; the pull of L_mean could not be resolved" in sentence(row)  # √(0.36 / 0.04)
    both = sentence(replace(row, squared_equiv_interval=(-0.1, 0.1)))
    assert both.startswith("Neither the gradient of L_equiv nor that of L_mean")
    below = replace(row, squared_mean_interval=(0.9, 1.1), squared_equiv_interval=(-0.2, -0.1))
    assert sentence(below).endswith("on the weights could not be resolved.")


def test_without_error_bars_it_says_so() -> None:
    none = dict.fromkeys(
        (f"{name}_interval" for name in ("squared_mean", "squared_equiv", "ratio")), (math.nan, math.nan)
    )
    said = sentence(replace(whole(), **none))
    assert "It has no error bar" in said
    assert "cosine" not in said


def test_the_page_shows_sentence_table_and_course() -> None:
    found = report(groups=GROUPS)
    html = page([found])
    said = words(html)
    assert "How does it pull on the weights?" in said
    rows = found.gradients["train/loss"].groups
    assert sentence(rows["all"]) in said
    assert f"{' '.join(HEADS)} all 8" in said
    for name, row in rows.items():
        ratio, cosine = (with_error(getattr(row, key), getattr(row, f"{key}_stderr")) for key in ("ratio", "cosine"))
        assert f"{name} {row.parameters} " in said
        assert f"{ratio} {cosine}" in said
    labels = [one["aria-label"] or "" for tag, one in Elements(html).found if tag == "svg"]
    first, *_, last = found.gradients["train/loss"].history
    for key in ("ratio", "cosine"):
        ends = [with_error(one[f"grad_{key}"], one[f"grad_{key}_stderr"]) for one in (first, last)]
        assert any(f"{ends[0]} at step 0, {ends[1]} at step 350" in label for label in labels)
    assert "Gradients of train/loss" in str(found)
    assert " ".join(sentence(rows["all"]).split()) in " ".join(str(found).split())


def test_gradients_alone_are_a_result(tmp_path: Path) -> None:
    """Stored, read back as what they are, and shown; a wrong entry is named with its place."""
    model = torch.nn.Linear(3, 3, bias=False).double()
    x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
    loss = ep.analysis.OrbitLoss(model, x, 2 * x, schema, ep.RotationPlan("tetrahedral", replicates=6))
    found = ep.analysis.gradients(loss)
    found.save(tmp_path / "g.json")
    loaded = ep.load(tmp_path / "g.json")
    assert loaded == found.record()
    assert loaded.groups["all"].norm_equiv == found.norm_equiv.value
    assert str(loaded) == str(found)
    assert page([loaded]) == page([found])
    assert powers(sentence(loaded.groups["all"])) in words(page([loaded]))
    assert loaded.to_csv().count("\r\n") == 1 + len(found.groups)
    stored = loaded.to_dict()
    del stored["groups"]["all"]["cosine"]
    with pytest.raises(EquivProbeError, match=r"no groups.*cosine; expected it to be there"):
        type(loaded).from_dict(stored)


def test_negative_control_a_run_without_gradients_says_nothing_of_them() -> None:
    said = words(page([run_report()]))
    assert "pull" not in said
    assert "∇" not in said


def test_the_figure_shows_the_history_with_its_error_bars() -> None:
    found = report(groups=GROUPS)
    rows = found.gradients["train/loss"].history
    for value in ("ratio", "cosine", "norm_L_mean"):
        ax = found.plot_gradients(value, ax=Figure().add_subplot())
        drawn = {bars.get_label(): bars for bars in ax.containers}["all parameters"]
        line, _, (reach,) = drawn.lines
        expected, errors = (np.array([row[f"grad_{value}{end}"] for row in rows]) for end in ("", "_stderr"))
        np.testing.assert_allclose(line.get_ydata(), expected)
        np.testing.assert_allclose(line.get_xdata(), 50 * np.arange(8))
        ends = np.array([segment[:, 1] for segment in reach.get_segments()])
        np.testing.assert_allclose(ends, np.stack([expected - errors, expected + errors], 1))
        heads = {one.get_label(): one for one in ax.lines}["head"]
        np.testing.assert_allclose(heads.get_ydata(), [row[f"head/grad_{value}"] for row in rows])
        assert ax.get_xlabel() == "training step"
        assert ax.get_ylabel() == gradient_plots.LABELS[value]


def test_what_was_less_than_its_noise_is_left_out_and_counted() -> None:
    found = report()
    rows = found.gradients["train/loss"].history
    rows[3] |= dict.fromkeys(("grad_ratio", "grad_ratio_stderr"))
    rows[5]["step"] = None
    ax = found.plot_gradients(ax=Figure().add_subplot())
    (line, _, _) = ax.containers[0].lines
    assert line.get_xdata().tolist() == [0, 50, 100, 200, 300, 350]
    assert "At 2 of 8 measurements a gradient was less than its noise" in words(page([found]))


def test_on_a_logarithmic_axis_error_bars_are_factors() -> None:
    found = report()
    rows = found.gradients["train/loss"].history
    for place, row in enumerate(rows):
        row |= {"grad_ratio": 2.0**place, "grad_ratio_stderr": 2.0**place * (2.0 if place == 0 else 0.1)}
    ax = found.plot_gradients(ax=Figure().add_subplot())
    assert ax.get_yscale() == "log"
    (_, _, (reach,)) = ax.containers[0].lines
    np.testing.assert_allclose(reach.get_segments()[0][:, 1], [math.exp(-2.0), math.exp(2.0)])


def test_many_measurements_have_a_band() -> None:
    found = report()
    rows = found.gradients["train/loss"].history
    rows[:] = [{**rows[k % 8], "step": k} for k in range(gradient_plots.BARS)]
    ax = found.plot_gradients(ax=Figure().add_subplot())
    assert not ax.containers
    assert len(ax.collections) == 1


def test_without_a_history_there_is_a_table_and_no_figure() -> None:
    found = report()
    found.gradients["train/loss"].history.clear()
    html = page([found])
    assert sentence(found.gradients["train/loss"].groups["all"]) in words(html)
    assert "Ratio of the gradients" not in html
    with pytest.raises(EquivProbeError, match="without a history of gradients of train/loss"):
        found.plot_gradients()
    with pytest.raises(EquivProbeError, match=r"without a history of gradients;"):
        run_report().plot_gradients()
    with pytest.raises(EquivProbeError, match="value='angle'"):
        found.plot_gradients("angle")


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_groups_and_outputs_are_only_text(text: str) -> None:
    def named(name: str) -> Report:
        found = gradients(groups=(name, "head"))["train/loss"]
        return run_report(gradients={name: found, "train/loss": found})

    stored = named(text)
    found, harmless = Elements(page([stored])), Elements(page([named("harmless")]))
    assert found.outside == harmless.outside
    assert not any(name.startswith("on") for _, attributes in found.found for name in attributes)
    assert " ".join(found.text).count(shown(text)) >= 4  # two tables, their captions, titles
    assert shown(text)[:12] in str(stored)


def test_a_report_without_all_parameters_is_still_shown() -> None:
    found = report()
    del found.gradients["train/loss"].groups["all"]
    assert "encoder 4" in words(page([found]))
    assert "Gradients of train/loss" in str(found)
