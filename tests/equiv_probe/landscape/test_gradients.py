"""Norms, ratio and angle of the two gradients: closed forms of a linear model, over many seeds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.landscape.gradient_sums import GradientSums, products

from .planted_losses import EYE, SCHEMA, draw, require_mean


class Linear(nn.Module):
    """Forces ``W x`` with W in two groups of parameters: its trace, and all of it beside that."""

    def __init__(self) -> None:
        super().__init__()
        self.isotropic, self.rest = nn.Module(), nn.Module()
        self.isotropic.scale = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.rest.matrix = nn.Parameter(draw(3, 3, seed=0))
        self.unused = nn.Linear(2, 2).double()

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": pos @ self.weight().T}

    def weight(self) -> Tensor:
        return self.isotropic.scale * EYE + self.rest.matrix


B = draw(3, 3, seed=7)
"""Of the labels ``y = B x``. Its trace is that of W at the start: the gradient of the population's L_mean is zero."""
B = B + (Linear().weight().detach().trace() - B.trace()) / 3 * EYE


def of_weight(w: Tensor, x: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Exact gradients by W of ``L_mean`` and ``L_equiv`` for data x, y; of Gaussian data with ``y = B x`` for None."""
    if x is None or y is None:
        size, trace_of_mean = 1.0, 2 / 9 * (w.trace() - B.trace())
    else:
        size = float(x.square().mean())
        trace_of_mean = 2 / 3 * ((w.trace() / 3 * x - y) * x).mean()
    return trace_of_mean * EYE, (2 / 3 * w - 2 / 9 * w.trace() * EYE) * size


def exact(model: Linear, x: Tensor | None = None, y: Tensor | None = None) -> dict[str, tuple[float, float, float]]:
    """Squared norms and inner product by group."""
    m, e = of_weight(model.weight().detach(), x, y)
    rest = (float((m * m).sum()), float((e * e).sum()), float((m * e).sum()))
    trace = (float(m.trace() ** 2), float(e.trace() ** 2), float(m.trace() * e.trace()))
    both = tuple(a + b for a, b in zip(rest, trace, strict=True))
    return {"all": (both[0], both[1], both[2]), "isotropic": trace, "rest": rest, "unused": (0.0, 0.0, 0.0)}


def squares(found: ep.analysis.Gradients, group: str) -> Tensor:
    one = found[group]
    return torch.tensor([one.squared_mean.value, one.squared_equiv.value, one.inner.value], dtype=torch.float64)


def test_exact_where_the_averages_are() -> None:
    """With tetrahedral rotations every block's gradient is exact, so that everything is, to rounding."""
    model, x, y = Linear(), draw(6, 5, 3, seed=1), draw(6, 5, 3, seed=2)
    plan = ep.RotationPlan("tetrahedral", replicates=6)
    found = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, y, SCHEMA, plan))
    assert list(found.groups) == ["all", "isotropic", "rest", "unused"]
    for name, expected in exact(model, x, y).items():
        assert squares(found, name).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    m, e, _ = exact(model, x, y)["all"]
    assert found.ratio.value == pytest.approx(math.sqrt(e / m), rel=1e-9)
    assert found.norm_total.value == pytest.approx(math.sqrt(e + m), rel=1e-9)
    assert found.cosine.value == pytest.approx(0.0, abs=1e-9)
    assert found["unused"].norm_mean.value == 0
    assert found["rest"].ratio.value == pytest.approx(found["rest"].norm_equiv.value / found["rest"].norm_mean.value)


class Along(nn.Module):
    """Energies ``Σ (v·x)²``, whose average over rotations is ``‖v‖² Σ ‖x‖² / 3``: both gradients are along v."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(draw(3, seed=3))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"energy": (pos @ self.v).square().sum(-1)}


@pytest.mark.parametrize("excess", [1.5, -1.5])
def test_the_sign_of_the_angle(excess: float) -> None:
    """Where the averaged energy is too large, both losses ask for a shorter v; where too small, L_mean for a longer."""
    model, x = Along(), draw(5, 4, 3, seed=1)
    size, sums = float(model.v.detach().square().sum()), x.square().sum((1, 2))
    schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"energy": ep.scalar})
    plan = ep.RotationPlan("icosahedral", replicates=6)  # the square of an energy of degree 2: exact
    found = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, size * sums / 3 - excess, schema, plan))["all"]
    moment = x.mT @ x
    traceless = moment - sums[:, None, None] / 3 * EYE
    m = excess * 4 / 3 * float(sums.mean()) * math.sqrt(size)
    e = 8 / 15 * size**1.5 * float(traceless.square().sum((1, 2)).mean())
    assert found.squared_mean.value == pytest.approx(m**2, rel=1e-9)
    assert found.squared_equiv.value == pytest.approx(e**2, rel=1e-9)
    assert found.inner.value == pytest.approx(m * e, rel=1e-9)
    assert found.squared_total.value == pytest.approx((m + e) ** 2, rel=1e-9)
    assert found.cosine.value == pytest.approx(math.copysign(1.0, excess), rel=1e-9)


@pytest.mark.slow
def test_squares_are_unbiased_and_the_naive_ones_are_not() -> None:
    model, x = Linear(), draw(2, 2, 3, seed=1)
    y = model.weight().detach().trace() / 3 * x + 0.1 * draw(2, 2, 3, seed=2)  # L_mean is nearly at its minimum
    unbiased, naive = [], []
    for seed in range(120):
        loss = ep.analysis.OrbitLoss(model, x, y, SCHEMA, ep.RotationPlan("haar", replicates=6, seed=seed))
        unbiased.append(squares(ep.analysis.gradients(loss, n_blocks=3), "all"))
        three, given = loss(), [model.isotropic.scale, model.rest.matrix]
        m, e = (
            torch.cat([g.flatten() for g in torch.autograd.grad(one, given, retain_graph=True)]) for one in three[1:]
        )
        naive.append(torch.stack([m @ m, e @ e, m @ e]))
    expected = exact(model, x, y)["all"]
    require_mean(torch.stack(unbiased), torch.tensor(expected, dtype=torch.float64))
    rows = torch.stack(naive)
    beyond = (rows.mean(0) - torch.tensor(expected, dtype=torch.float64)) / (rows.std(0) / math.sqrt(len(rows)))
    assert beyond[0] > 6  # what noise adds to a norm, in standard errors


def test_identities_in_the_place_of_rotations_leave_no_symmetry_error() -> None:
    """The negative control: without averaging the closed forms are not met."""
    model, x, y = Linear(), draw(2, 2, 3, seed=1), draw(2, 2, 3, seed=2)
    loss = ep.analysis.OrbitLoss(model, x, y, SCHEMA, ep.RotationPlan("haar", replicates=6))
    part = loss._ranges[0][0]
    part.rotations = EYE.expand(6, 1, 3, 3)  # type: ignore[attr-defined]
    found = squares(ep.analysis.gradients(loss, n_blocks=3), "all")
    expected = exact(model, x, y)["all"]
    assert abs(float(found[1])) < 1e-20
    assert expected[1] > 0.1
    assert abs(float(found[0]) - expected[0]) > 0.1 * expected[0]


@pytest.mark.slow
def test_blocks_of_structures_are_unbiased_for_the_population() -> None:
    model = Linear()
    of_population, of_batch = [], []
    for seed in range(100):
        x = draw(6, 2, 3, seed=1000 + seed)
        plan = ep.RotationPlan("tetrahedral", replicates=4, seed=seed)
        loss = ep.analysis.OrbitLoss(model, x, x @ B.T, SCHEMA, plan, per_structure=True)
        of_population.append(squares(ep.analysis.gradients(loss, blocks="structures", n_blocks=3), "all"))
        of_batch.append(squares(ep.analysis.gradients(loss), "all"))
    assert exact(model)["all"][0] == pytest.approx(0, abs=1e-20)
    require_mean(torch.stack(of_population), torch.tensor(exact(model)["all"], dtype=torch.float64))
    rows = torch.stack(of_batch)  # on six structures the gradient is not zero
    assert rows[:, 0].mean() > 5 * rows[:, 0].std() / math.sqrt(len(rows))


@pytest.mark.slow
def test_error_bars_cover() -> None:
    """95 % intervals of squares over eight blocks: their coverage is between 85 and 100 % (binomial, 60 seeds)."""
    model, x, y = Linear(), draw(4, 3, 3, seed=1), draw(4, 3, 3, seed=2)
    m, e, c = exact(model, x, y)["all"]
    inside = {"mean": 0, "equiv": 0, "ratio": 0, "cosine": 0}
    for seed in range(60):
        plan = ep.RotationPlan("klein", replicates=16, seed=seed)
        one = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, y, SCHEMA, plan))["all"]
        pairs = {
            "mean": (one.squared_mean, m),
            "equiv": (one.squared_equiv, e),
            "ratio": (one.ratio, math.sqrt(e / m)),
            "cosine": (one.cosine, c / math.sqrt(e * m)),
        }
        for name, (estimate, value) in pairs.items():
            inside[name] += estimate.low <= value <= estimate.high
    assert all(0.85 * 60 <= count <= 60 for count in inside.values()), inside


def test_a_negative_square_stays_one() -> None:
    a = torch.tensor([1.0, 0.0])
    x = products([[a], [-a], [a]], [[a], [a], [a]])
    sums = GradientSums.of(x)
    assert sums.squared_mean.value == pytest.approx(-1 / 3)
    assert math.isnan(sums.norm_mean.value)
    assert sums.norm_mean.low == 0
    assert sums.norm_mean.high > 0
    assert math.isnan(sums.ratio.value)
    clean = GradientSums.of(products([[a]] * 3, [[a]] * 3))
    merged = sums + clean
    assert merged.squared_mean.value == pytest.approx((1 - 1 / 3) / 2)  # clamped first, it would be 1/2


def test_merging_and_groups() -> None:
    model, x, y = Linear(), draw(4, 3, 3, seed=1), draw(4, 3, 3, seed=2)
    found = [
        ep.analysis.gradients(
            ep.analysis.OrbitLoss(model, x, y, SCHEMA, ep.RotationPlan("klein", replicates=6, seed=seed))
        )
        for seed in (0, 1)
    ]
    merged = found[0] + found[1]
    both = (found[0]["all"].squared_mean.value + found[1]["all"].squared_mean.value) / 2
    assert merged["all"].squared_mean.value == pytest.approx(both)
    stored = merged.to_dict()["groups"]["rest"]
    assert stored["norm_mean"] == merged["rest"].norm_mean.value
    assert stored["parameters"] == 9
    assert "rest" in str(merged)
    optimizer = torch.optim.SGD(
        [
            {"params": [model.rest.matrix], "name": "matrix"},
            {"params": [model.isotropic.scale]},
        ]
    )
    loss = ep.analysis.OrbitLoss(model, x, y, SCHEMA, ep.RotationPlan("klein", replicates=6))
    by_optimizer = ep.analysis.gradients(loss, optimizer)
    assert list(by_optimizer.groups) == ["all", "group 1", "matrix"]
    by_function = ep.analysis.gradients(loss, lambda name: "mine" if name == "rest.matrix" else None)
    assert list(by_function.groups) == ["all", "mine"]
    for one in (by_optimizer["matrix"], by_function["mine"], by_function["all"]):
        assert one.ratio.value == pytest.approx(ep.analysis.gradients(loss)["rest"].ratio.value)
    named_all = ep.analysis.gradients(loss, lambda name: "all")
    assert named_all.norm_equiv.value == pytest.approx(ep.analysis.gradients(loss).norm_equiv.value)
    with pytest.raises(ep.EquivProbeError, match="groups=None"):
        ep.analysis.gradients(loss, lambda name: None)


def test_frozen_parameters_and_the_users_gradients_are_left_alone() -> None:
    model, x, y = Linear(), draw(4, 3, 3, seed=1), draw(4, 3, 3, seed=2)
    model.isotropic.scale.requires_grad_(False)
    model.rest.matrix.grad = torch.ones(3, 3, dtype=torch.float64)
    found = ep.analysis.gradients(
        ep.analysis.OrbitLoss(model, x, y, SCHEMA, ep.RotationPlan("tetrahedral", replicates=6))
    )
    assert "isotropic" not in found.groups
    assert squares(found, "all").tolist() == pytest.approx(exact(model, x, y)["rest"], rel=1e-9, abs=1e-12)
    assert torch.equal(model.rest.matrix.grad, torch.ones(3, 3, dtype=torch.float64))
