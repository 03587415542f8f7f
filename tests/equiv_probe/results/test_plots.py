"""Figures show the report's numbers, with units on the axes and names as they are."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from equiv_probe.errors import EquivProbeError

from ..page_reports import audit_report, dynamics, measured, run_report, structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.use("Agg")
pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing")  # of characters that Matplotlib's own font lacks


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def widths(ax: Axes) -> list[float]:
    return [patch.get_width() for patch in ax.patches]


def ticks(ax: Axes, which: str) -> list[str]:
    ax.figure.draw_without_rendering()
    return [label.get_text() for label in getattr(ax, f"get_{which}ticklabels")()]


def test_share_is_a_bar_of_the_loss_with_its_interval(ax: Axes) -> None:
    assert audit_report().plot_share(ax=ax) is ax
    assert widths(ax) == pytest.approx([20.88, 79.12])
    error = ax.containers[-1] if ax.containers else None
    assert error is not None
    ends = [line.get_xdata() for line in ax.lines if len(np.atleast_1d(line.get_xdata())) == 1]
    assert sorted(float(np.squeeze(x)) for x in ends)[:1] + sorted(float(np.squeeze(x)) for x in ends)[-1:] == (
        pytest.approx([18.8, 22.9])
    )
    assert ax.get_xlabel() == "part of the loss L_total, %"
    assert ticks(ax, "y") == ["forces"]


def test_structures_are_a_distribution_with_its_median(ax: Axes) -> None:
    audit_report().plot_structures(ax=ax)
    x, y = ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    assert list(x) == [20.0, 20.0, 21.0, 22.0, 23.0]
    assert list(y) == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert "median 21.5" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_xlabel() == "√L_equiv of a structure's forces, meV/Å"


def test_the_floor_is_drawn_where_the_errors_come_near_it_and_on_a_log_axis(ax: Axes) -> None:
    near = [structure(f"s{i}", 10.0**-i) for i in range(4)]
    audit_report(structures=near, measured=[measured(floor=1e-3)]).plot_structures(ax=ax)
    assert ax.get_xscale() == "log"
    assert "floor 0.00100" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_elements_are_ranked(ax: Axes) -> None:
    audit_report().plot_elements(ax=ax)
    assert widths(ax) == [30.0, 10.0]
    assert ticks(ax, "y") == ["Cl (4)", "Na (4)"]
    assert ax.get_xlabel() == "√L_equiv of forces, meV/Å"


def test_spectrum_in_percent_and_what_is_not_resolved_together(ax: Axes) -> None:
    audit_report().plot_spectrum(ax=ax)
    assert [patch.get_height() for patch in ax.patches] == pytest.approx([50.0, 25.0, 25.0])  # degree 3 is ± 95 %
    assert ticks(ax, "x") == ["1", "2", "others"]
    assert ax.get_ylabel() == "part of L_equiv of forces, %"


def test_differences_against_the_angle_are_roots(ax: Axes) -> None:
    audit_report().plot_angle(ax=ax)
    x, y = ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    assert list(x) == [10.0, 30.0, 50.0, 70.0, 90.0, 110.0, 130.0, 150.0, 170.0]
    assert list(y)[:2] == pytest.approx([math.sqrt(1000), math.sqrt(4000)])
    assert math.isnan(y[-1])  # a bin without pairs
    assert ax.get_xlabel() == "angle between two orientations, degrees"


def test_the_map_has_z_in_its_middle_and_equal_areas() -> None:
    ax = audit_report().plot_axis_map(ax=Figure().add_subplot(projection="polar"))
    mesh = ax.collections[0]
    radii = np.unique(np.asarray(mesh.get_coordinates())[..., 1].round(9))
    assert np.diff(radii**2) == pytest.approx(0.25)  # rings of equal area: equal steps of height
    values = np.asarray(mesh.get_array())
    assert values[0, 0] == pytest.approx(math.sqrt(136))  # the innermost ring is the topmost band
    assert values[-1, -1] == pytest.approx(math.sqrt(111))
    assert ax.figure.axes[1].get_ylabel() == "difference of forces / √2, meV/Å"


@pytest.mark.parametrize(("low", "shown"), [(129.0, 129.0), (30.0, 0.0)])
def test_the_colours_of_the_map_begin_at_0_unless_all_would_look_alike(low: float, shown: float) -> None:
    axes = [low**2 + (146.0**2 - low**2) * k / 47 for k in range(48)]
    known = measured(angular={**measured().angular, "by_axis": axes})
    mesh = audit_report(measured=[known]).plot_axis_map(ax=Figure().add_subplot(projection="polar")).collections[0]
    assert mesh.get_clim() == pytest.approx((shown, 146.0))


def test_tiny_errors_have_ticks_too(ax: Axes) -> None:
    near = [structure(f"s{i}", 3 * 10.0 ** (-9 - i)) for i in range(4)]
    audit_report(structures=near, measured=[measured(floor=1e-11)]).plot_structures(ax=ax)
    assert {"1e-11", "1e-10", "1e-9"} <= set(ticks(ax, "x"))


@pytest.mark.parametrize(("x", "label"), [("step", "training step"), ("time_ps", "time ps"), ("t", "t")])
def test_history_against_whatever_time_it_names(x: str, label: str, ax: Axes) -> None:
    run_report(x=x).plot_history(ax=ax)
    line = ax.lines[0]
    assert list(line.get_xdata()) == [50.0 * i for i in range(8)]
    assert list(line.get_ydata()) == pytest.approx([10 + i for i in range(8)])
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((9.0, 18.0))  # two standard errors of half a percent
    assert ax.get_xlabel() == label
    assert ax.get_ylabel() == "share of the loss, %"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train/loss", "val/loss"]


def test_another_column_of_the_history(ax: Axes) -> None:
    run_report().plot_history("L_total", ax=ax)
    assert list(ax.lines[1].get_ydata())[:2] == pytest.approx([2.0, 1.9])
    assert ax.get_ylabel() == "L_total"


@pytest.mark.parametrize("name", [r"$\frac{1}{2}$", "a$b$c", "<b>", "力", "_x^2"])
def test_names_are_no_formulas(name: str, ax: Axes) -> None:
    report = audit_report(measured=[measured(name, by_element={name: {"rms": 1.0, "atoms": 1}})])
    report.plot_elements(name, ax=ax)
    assert ticks(ax, "y") == [f"{name} (1)"]
    assert not ax.yaxis.get_ticklabels()[0].get_parse_math()
    assert not ax.xaxis.label.get_parse_math()


def test_without_axes_there_is_a_new_figure() -> None:
    from matplotlib import pyplot

    first, second = audit_report().plot_share(), audit_report().plot_share()
    assert first.figure is not second.figure
    pyplot.close("all")


def test_what_the_report_does_not_hold_is_said() -> None:
    bare = audit_report(structures=[], measured=[measured(labelled=None, angular={}, by_element={})])
    for draw, said in (
        (bare.plot_share, "reference values"),
        (bare.plot_structures, "an audit"),
        (bare.plot_elements, "one that atoms have"),
        (bare.plot_spectrum, "audit it again"),
        (bare.plot_angle, "audit it again"),
        (bare.plot_axis_map, "audit it again"),
        (bare.plot_history, "a history with step and share"),
    ):
        with pytest.raises(EquivProbeError, match=said):
            draw()
    with pytest.raises(EquivProbeError, match="a report of forces; expected stress"):
        audit_report().plot_structures("stress")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EquivProbeError, match=r"pip install 'equiv-probe\[report\]'"):
        audit_report().plot_share()
    assert audit_report()._repr_html_() is None  # a notebook shows the text then


def test_columns_of_a_trajectory_where_they_were_measured(ax: Axes) -> None:
    dynamics().plot_trajectory(ax=ax)
    assert list(ax.lines[0].get_xdata()) == [1.0, 2.0]
    assert list(ax.lines[0].get_ydata()) == [90.0, 110.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time, fs", "√L_equiv of forces, meV/Å")


@pytest.mark.parametrize("explained", [True, False])
def test_angular_momentum_beside_what_explains_it(explained: bool, ax: Axes) -> None:
    dynamics(explained).plot_angular_momentum(ax=ax)
    measured_line, torque_line = ax.lines
    assert list(measured_line.get_ydata()) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (list(torque_line.get_ydata()) == list(measured_line.get_ydata())) == explained


def test_a_training_run_is_no_trajectory(ax: Axes) -> None:
    with pytest.raises(EquivProbeError, match="time_fs"):
        run_report().plot_trajectory(ax=ax)
