"""Figures of the landscape show its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import equiv_probe as ep

from .planted_losses import Linear, OrbitMse, Quadratic, linear, with_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.use("Agg")


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_density_counts_all_eigenvalues_where_they_are(ax: Axes) -> None:
    mean = torch.tensor([-3.0, *[0.0] * 5, 1e-3, 1e-3, 50.0], dtype=torch.float64)
    found = ep.analysis.curvature(Quadratic(with_spectrum(mean), torch.eye(9).double()), progress=False)
    assert found.plot(ax) is ax
    assert labels(ax) == ["L_total", "L_mean", "L_equiv"]
    stairs = {patch.get_label(): patch.get_data() for patch in ax.patches}
    for name, values in (("L_mean", mean), ("L_equiv", torch.ones(9))):
        counts, edges, _ = stairs[name]
        assert counts.sum() == pytest.approx(9)
        for value in values.unique().tolist():
            holds = (edges[:-1] <= value + 1e-9) & (value + 1e-9 < edges[1:])
            assert counts[holds].sum() == pytest.approx(float((values == value).sum()))
    assert ax.get_xscale() == "symlog"
    assert ax.get_ylabel() == "eigenvalues of 9"


def test_profiles_and_their_powers(ax: Axes) -> None:
    loss = linear()
    loss = OrbitMse(Linear(1.3 * torch.eye(3).double()), loss.x, loss.y, loss.plan)
    line = ep.analysis.along_line(loss, seed=3, progress=False)
    line.plot(ax)
    drawn = {one.get_label(): one for one in ax.lines}
    np.testing.assert_array_equal(drawn["L_equiv"].get_xdata(), line.t)
    np.testing.assert_array_equal(drawn["L_mean"].get_ydata(), line.mean)
    growth = line.plot(Figure().add_subplot(), growth=True)
    assert "L_equiv ∝ t^2.00" in labels(growth)
    fitted = next(one for one in growth.lines if one.get_label() == "L_equiv ∝ t^2.00")
    x, y = fitted.get_xdata(), fitted.get_ydata()
    truth = np.interp(np.log(x), np.log(line.t[line.t > 0]), np.log(line.equiv[line.t > 0]))
    np.testing.assert_allclose(np.log(y), truth, atol=0.05)


def test_the_power_of_a_loss_that_falls_is_drawn_too() -> None:
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    start = weights.detach().clone()

    def loss() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        square = (weights - start).square().sum()
        return 3 - square, 3 - 2 * square, square

    line = ep.analysis.along_line(loss, parameters=[weights], seed=3, progress=False)
    growth = line.plot(Figure().add_subplot(), growth=True)
    for name in ("total", "mean"):
        fitted = next(one for one in growth.lines if one.get_label() == f"L_{name} ∝ t^2.00")
        change, _ = line.change(name)
        truth = np.interp(np.log(fitted.get_xdata()), np.log(line.t[line.t > 0]), np.log(-change[line.t > 0]))
        np.testing.assert_allclose(np.log(fitted.get_ydata()), truth, atol=1e-3)


def test_bands_are_two_standard_errors(ax: Axes) -> None:
    several = [linear(plan="klein", replicates=2) for _ in range(3)]
    several = [OrbitMse(several[0].model, s.x, s.y, s.plan, seed=k) for k, s in enumerate(several)]
    line = ep.analysis.along_line(several, steps=np.linspace(-1, 1, 5), seed=1, progress=False)
    line.plot(ax)
    assert len(ax.collections) == 3
    corners = ax.collections[2].get_paths()[0].vertices
    at_zero = corners[np.isclose(corners[:, 0], 0), 1]
    low, high = (line.equiv + s * 2 * line.stderr("equiv") for s in (-1, 1))
    assert (at_zero.min(), at_zero.max()) == pytest.approx((low[line.origin], high[line.origin]))
