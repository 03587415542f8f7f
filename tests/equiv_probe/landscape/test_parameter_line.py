"""Losses along lines in parameter space: values, exponents, and the way back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.growth_exponent import growth_exponent

from .planted_losses import Linear, OrbitMse, Quadratic, draw, linear, perceptron, with_spectrum

if TYPE_CHECKING:
    from pathlib import Path


def equivariant(averaged: bool = True) -> OrbitMse:
    """A linear model that is a multiple of the identity, with labels of another multiple: off its minimum."""
    loss = linear(averaged=averaged)
    return OrbitMse(Linear(1.3 * torch.eye(3).double()), loss.x, loss.y, loss.plan, loss.seed, averaged)


@pytest.mark.parametrize("averaged", [True, False], ids=["averaged", "identity instead"])
def test_at_an_equivariant_point_equiv_grows_with_the_square_and_mean_on_a_slope_linearly(averaged: bool) -> None:
    line = ep.analysis.along_line(equivariant(averaged), seed=3, progress=False)
    power = {name: line.exponent(name).power for name in ("mean", "equiv")}
    linear_mean = abs(power["mean"].value - 1) < 1e-3
    # Exactly quadratic at any t: W = 1.3 + t D has L_equiv = t² ‖D − tr D/3‖² ‖x‖²/9.
    quadratic = power["equiv"].low <= 2 <= power["equiv"].high and abs(power["equiv"].value - 2) < 1e-6
    if averaged:
        assert linear_mean
        assert quadratic
        spread = float(line_direction(line, 3).square().sum() - line_direction(line, 3).trace() ** 2 / 3)
        x2 = float(equivariant().x.square().sum(-1).mean())
        np.testing.assert_allclose(line.equiv, line.t**2 * spread * x2 / 9, atol=1e-13)
        assert line.exponent("equiv").coefficient == pytest.approx(spread * x2 / 9, rel=1e-6)
    else:  # without the average nothing is left for L_equiv
        assert not quadratic


def line_direction(line: ep.analysis.Line, seed: int) -> Tensor:
    from equiv_probe.landscape.parameter_space import ParameterSpace

    space = ParameterSpace(equivariant().model)
    return space.filter_normalised(space.random(torch.Generator().manual_seed(seed))).reshape(3, 3)


def test_at_an_equivariant_point_of_a_network_too() -> None:
    class Radial(nn.Module):
        """Equivariant until its matrix is moved off the identity."""

        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            z = x @ self.matrix.mT
            return z * torch.tanh(z.square().sum(-1, keepdim=True)) + torch.sin(z @ (self.matrix - torch.eye(3)))

    x = draw(3, 4, 3, seed=5)
    loss = OrbitMse(Radial(), x, 0.2 * x, ep.RotationPlan("icosahedral", replicates=2))
    line = ep.analysis.along_line(loss, seed=1, progress=False)
    for name, truth in (("equiv", 2), ("mean", 1), ("total", 1)):
        power = line.exponent(name).power
        assert power.low <= truth <= power.high
        assert power.value == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_planted_exponents_are_recovered_and_covered(power: float, noise: float) -> None:
    generator = np.random.default_rng(int(10 * power))
    scale = 10 ** (np.arange(-16, 1) / 4)
    t = np.concatenate([-scale[::-1], scale])
    inside, repetitions = 0, 100
    for _ in range(repetitions):
        c, d = generator.uniform(-1, 1, 2)
        clean = 3 * np.abs(t) ** power * (1 + c * t + d * t**2)
        change = clean * (1 + noise * generator.standard_normal(len(t))) + 1e-15 * generator.standard_normal(len(t))
        fit = growth_exponent(t, change, 1e-15, noise * np.abs(clean) if noise else None)
        assert fit.power.value == pytest.approx(power, abs=0.05 if noise else 0.01)
        inside += fit.power.low <= power <= fit.power.high
    # 95 of 100 or more, for the interval is widened by the next order; below 89 has a probability of 0.4 %.
    assert inside >= 89


def test_what_is_no_power_has_no_exponent() -> None:
    t = 10 ** (np.arange(-16, 1) / 4)
    fit = growth_exponent(t, np.full(len(t), 1e-16), 1e-15)
    assert math.isnan(fit.power.value)
    assert "rounding" in fit.why
    wiggly = growth_exponent(t, t * (1 + 0.5 * np.sin(20 * np.log(t))), 1e-15)
    assert math.isnan(wiggly.power.value)
    assert "one power" in wiggly.why


def steep() -> tuple[ep.analysis.Line, Tensor]:
    """``L_mean = exp(400 ‖δ‖²) − ‖δ‖²``, infinite from ‖δ‖ = 1.4 on, and ``L_equiv = ‖δ‖²`` along 2.2 t."""
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    start = weights.detach().clone()

    def loss() -> tuple[Tensor, Tensor, Tensor]:
        square = (weights - start).square().sum()
        mean = torch.exp(400 * square) - square
        return mean + square, mean, square

    return ep.analysis.along_line(loss, parameters=[weights], progress=False), weights


def test_a_loss_that_is_infinite_far_away_has_its_exponent_near() -> None:
    line, weights = steep()
    assert not np.isfinite(line.mean[-1])
    for name in ("total", "mean", "equiv"):
        assert line.exponent(name).power.value == pytest.approx(2, abs=0.01)
    assert weights.tolist() == [1.0, 2.0]


def test_what_cannot_be_seen_far_away_takes_nothing_from_what_is_near() -> None:
    t = 10 ** (np.arange(-16, 1) / 4)
    change = np.where(t < 0.5, t**2, 0.0)  # as where a loss comes back to where it was
    fit = growth_exponent(t, change, 1e-15)
    assert fit.power.value == pytest.approx(2, abs=1e-9)


def test_without_labels_there_is_a_line_of_equiv_alone() -> None:
    x = draw(6, 5, 3, seed=0)
    schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
    model = Linear(1.3 * torch.eye(3, dtype=torch.float64))
    loss = ep.analysis.OrbitLoss(model, x, None, schema, ep.RotationPlan("octahedral", replicates=2), center="origin")
    line = ep.analysis.along_line(loss, seed=3, progress=False)
    assert line.exponent("equiv").power.value == pytest.approx(2, abs=1e-6)
    assert line.exponent("mean").why == "not measured"
    assert "not measured" in str(line)
    spread = float(line_direction(line, 3).square().sum() - line_direction(line, 3).trace() ** 2 / 3)
    x2 = float(x.square().sum(-1).mean())
    np.testing.assert_allclose(line.equiv, line.t**2 * spread * x2 / 9, atol=1e-13)


def test_float32_leaves_rounding_out_of_the_fit() -> None:
    model = equivariant()
    rough = OrbitMse(model.model.float(), model.x.float(), model.y.float(), model.plan, model.seed)
    line = ep.analysis.along_line(rough, seed=3, progress=False)
    fit = line.exponent("equiv")
    assert fit.power.value == pytest.approx(2, abs=0.02)
    assert fit.low > 1e-5  # where the square of t is below the rounding of L_total
    assert line.floor[2] > 1e-12


def test_a_quadratic_loss_along_its_gradient() -> None:
    matrix = with_spectrum(torch.linspace(1, 5, 6, dtype=torch.float64))
    loss = Quadratic(matrix, torch.eye(6, dtype=torch.float64))
    start = loss.weights.detach().clone()
    for name, pull in (("gradient-mean", matrix @ start), ("gradient-equiv", start)):
        line = ep.analysis.along_line(loss, name, [0.0, 0.1, 0.5], progress=False)
        where = [start - t * pull * start.norm() / pull.norm() for t in line.t]
        np.testing.assert_allclose(line.mean, [float(w @ matrix @ w / 2) for w in where], rtol=1e-12)
        np.testing.assert_allclose(line.equiv, [float(w @ w / 2) for w in where], rtol=1e-12)
        assert line.length == pytest.approx(1)


def test_between_two_checkpoints_the_ends_are_the_checkpoints() -> None:
    here, there = perceptron(0), perceptron(1)
    there = OrbitMse(there.model, here.x, here.y, here.plan, here.seed)
    line = ep.analysis.along_line(here, to=there.model.state_dict(), progress=False)
    for values, a, b in zip((line.total, line.mean, line.equiv), here(), there(), strict=True):
        assert values[0] == pytest.approx(a.item(), rel=1e-12)
        assert values[-1] == pytest.approx(b.item(), rel=1e-12)
    assert len(line.t) == 21


@pytest.mark.parametrize("after", [1, 5, 40])
def test_interrupted_it_puts_the_weights_back(after: int) -> None:
    loss, calls = perceptron(), 0
    model = nn.ModuleDict({"net": loss.model, "norm": nn.BatchNorm1d(3)})
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def stops() -> tuple[Tensor, Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls > after + 2:
            raise KeyboardInterrupt
        return loss()

    with pytest.raises(KeyboardInterrupt):
        ep.analysis.along_line(stops, parameters=loss.model, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    line = ep.analysis.along_line(loss, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert line.total[line.origin] == pytest.approx(loss()[0].item(), rel=1e-14)


def test_standard_errors_are_over_structures_or_over_rotations() -> None:
    loss = perceptron(parts=4)
    steps = [0.0, 0.1]
    line = ep.analysis.along_line(loss, steps=steps, blocks="structures", progress=False)
    own = np.array([[v.item() * 4 for v in piece()] for piece in loss.pieces()])
    np.testing.assert_allclose(line.samples[0], own, rtol=1e-12)
    np.testing.assert_allclose(line.stderr("equiv")[0], own[:, 2].std(ddof=1) / 2, rtol=1e-12)
    assert line.change("equiv")[1][0] == 0
    whole = ep.analysis.along_line(perceptron(), steps=steps, progress=False)
    np.testing.assert_allclose(line.total, whole.total, rtol=1e-12)
    assert np.isnan(whole.stderr("total")).all()
    several = [OrbitMse(loss.model, loss.x, loss.y, loss.plan, seed) for seed in (1, 2, 3)]
    rotated = ep.analysis.along_line(several, steps=steps, progress=False)
    each = np.array([one()[2].item() for one in several])
    assert rotated.equiv[0] == pytest.approx(each.mean())
    assert rotated.stderr("equiv")[0] == pytest.approx(each.std(ddof=1) / math.sqrt(3))
    both = ep.analysis.along_line(
        [perceptron(parts=4), perceptron(parts=4)], steps=steps, blocks="structures", progress=False
    )
    assert both.stderr("equiv")[0] == pytest.approx(line.stderr("equiv")[0])


def test_directions_by_name_and_what_is_refused() -> None:
    loss = perceptron()
    name, weight = next(iter(loss.parameters.items()))
    line = ep.analysis.along_line(loss, {name: torch.ones_like(weight)}, [0.25], progress=False)
    with torch.no_grad():
        weight.add_(0.25)
        moved = loss()
        weight.sub_(0.25)
    assert line.total[1] == pytest.approx(float(moved[0]), rel=1e-12)
    with pytest.raises(EquivProbeError, match="random, gradient"):
        ep.analysis.along_line(loss, "up", progress=False)
    with pytest.raises(EquivProbeError, match="which is zero"):
        ep.analysis.along_line(loss, {name: torch.zeros_like(weight)}, progress=False)
    with pytest.raises(EquivProbeError, match="without pieces"):
        ep.analysis.along_line(lambda: (weight.sum(),) * 3, parameters=[weight], blocks="structures", progress=False)


def test_it_prints_and_saves(tmp_path: Path) -> None:
    line = ep.analysis.along_line(equivariant(), seed=3, progress=False)
    assert "L_equiv" in str(line)
    line.save(tmp_path / "line.json")
    stored = json.loads((tmp_path / "line.json").read_text())
    assert stored["exponents"]["equiv"]["power"]["value"] == pytest.approx(2)
    assert stored["L_mean"] == pytest.approx(line.mean.tolist())
    line.save(tmp_path / "line.csv")
    rows = (tmp_path / "line.csv").read_text().splitlines()
    assert rows[0] == "t,L_total,L_total_stderr,L_mean,L_mean_stderr,L_equiv,L_equiv_stderr"
    assert len(rows) == 1 + len(line.t)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same() -> None:
    loss = perceptron()
    here = ep.analysis.along_line(loss, progress=False)
    cuda = OrbitMse(loss.model.cuda(), loss.x.cuda(), loss.y.cuda(), loss.plan, loss.seed)
    np.testing.assert_allclose(ep.analysis.along_line(cuda, progress=False).equiv, here.equiv, rtol=1e-8)
