"""Both losses on a grid: closed forms, direct evaluation; fixed rotations are smooth, fresh ones are noise."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.roughness import Roughness

from .planted_losses import EYE, SCHEMA, Forces, Quadratic, Three, draw, equiv_of, linear, perceptron, with_spectrum

if TYPE_CHECKING:
    from pathlib import Path

HAAR = ep.RotationPlan("haar", replicates=10)


def quadratic(seed: int = 0) -> Quadratic:
    """Hessians with known eigenvalues; L_total is a multiple of L_mean."""
    mean = with_spectrum(torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64), seed)
    return Quadratic(mean, 0.5 * mean, seed)


def orbit_loss(plan: ep.RotationPlan = HAAR, width: int = 6) -> ep.analysis.OrbitLoss:
    """Of a small network on positions, ten rotations."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double()
    x = draw(4, 5, 3, seed=7)
    return ep.analysis.OrbitLoss(net, x, 0.5 * x, SCHEMA, plan)


def test_a_quadratic_has_the_surface_of_its_two_eigenvalues() -> None:
    loss = quadratic()
    before = loss.weights.detach().clone()
    found = ep.analysis.landscape(loss, n=8, step=0.1, progress=False)
    np.testing.assert_allclose(found.eigenvalues, (7.5, 0.15), rtol=1e-10)  # of L_total, 1.5 times those of L_mean
    a, b = np.meshgrid(found.at, found.at, indexing="ij")
    for name, scale in (("total", 1.0), ("mean", 2 / 3), ("equiv", 1 / 3)):
        surface = found.surface(name)
        even = (surface + surface[::-1, ::-1]) / 2  # what is left of a slope is gone
        expected = found.here[["total", "mean", "equiv"].index(name)] + scale * (7.5 * a**2 + 0.15 * b**2) / 2
        np.testing.assert_allclose(even, expected, rtol=1e-10)
        assert found.roughness[f"L_{name}"].kind == "quartic"
    assert torch.equal(loss.weights, before)


def test_every_point_is_the_loss_at_the_weights_moved_there() -> None:
    loss = perceptron()
    names = list(loss.parameters)
    ones = [{name: draw(*loss.parameters[name].shape, seed=k) for name in names} for k in (1, 2)]
    found = ep.analysis.landscape(loss, directions=ones, n=6, step=0.03, progress=False)
    lengths = [sum(float(v.square().sum()) for v in one.values()) ** 0.5 for one in ones]
    start = {name: p.detach().clone() for name, p in loss.parameters.items()}
    for i, j in ((0, 0), (1, 4), (5, 5)):
        with torch.no_grad():
            for name, p in loss.parameters.items():
                moved = found.at[i] * ones[0][name] / lengths[0] + found.at[j] * ones[1][name] / lengths[1]
                p.copy_(start[name] + moved)
            direct = [float(value) for value in loss()]
        there = [found.surface(name)[i, j] for name in ("total", "mean", "equiv")]
        np.testing.assert_allclose(there, direct, rtol=1e-12)


@pytest.mark.parametrize("averaged", [True, False], ids=["averaged", "identity instead"])
def test_a_linear_model_is_flat_in_what_it_does_not_depend_on(averaged: bool) -> None:
    # f(x) = W x: L_mean depends on the trace of W alone, and L_equiv on all but the trace.
    loss = linear(averaged=averaged)
    off = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)
    found = ep.analysis.landscape(loss, directions=({"weight": EYE}, {"weight": off}), n=6, step=0.2, progress=False)
    mean, equiv = found.surface("mean"), found.surface("equiv")
    along_trace, along_rest = np.ptp(mean, axis=0).max(), np.ptp(mean, axis=1).max()
    right = along_rest < 1e-9 < along_trace and np.ptp(equiv, axis=0).max() < 1e-9 < np.ptp(equiv, axis=1).max()
    assert bool(right) is averaged


def test_the_closed_form_of_broken_symmetry_is_on_the_grid() -> None:
    model, x = Forces(seed=4), draw(5, 7, 3, seed=2)
    plan = ep.RotationPlan("tetrahedral", replicates=4)
    found = ep.analysis.landscape(model, x, 2 * x, SCHEMA, plan, directions=("gradient", "random"), n=6, progress=False)
    assert found.parameters == 9
    assert abs(found.here[2] - float(equiv_of(model.matrix.detach(), x)[0])) < 1e-12 * found.here[0]
    assert found.here[0] == pytest.approx(sum(found.here[1:]), rel=1e-12)


def test_fixed_rotations_are_smooth_and_fresh_ones_are_noise() -> None:
    loss = orbit_loss()
    fixed, fresh = (
        ep.analysis.landscape(loss, n=12, step=0.01, rotations=how, progress=False) for how in ("fixed", "fresh")
    )
    for name in ("L_mean", "L_equiv"):
        smooth, rough = fixed.roughness[name], fresh.roughness[name]
        assert smooth.kind in {"quartic", "smooth"}
        assert smooth.relative < 1e-6  # the rest of fifth order, (0.06)^5
        assert rough.kind == "noise"
        assert abs(rough.lag1) < 4 * rough.lag1_stderr
        assert rough.relative > 1e3 * smooth.relative
    np.testing.assert_allclose(fresh.here, fixed.here, rtol=1e-12)  # at the weights, the loss itself


def test_fresh_rotations_scatter_about_the_loss_by_their_own_standard_error() -> None:
    # Unbiased: the mean over the grid of fresh draws is that of the exact average, here by an exact design.
    exact = ep.analysis.landscape(
        orbit_loss(ep.RotationPlan("icosahedral", replicates=4)), directions=("random", "gradient"), n=14, step=1e-4,
        progress=False,
    )  # fmt: skip
    fresh = ep.analysis.landscape(
        orbit_loss(), directions=("random", "gradient"), n=14, step=1e-4, rotations="fresh", progress=False
    )
    for name in ("mean", "equiv"):
        stderr = fresh.surface(name).std() / fresh.surface(name).size ** 0.5
        assert abs(fresh.surface(name).mean() - exact.surface(name).mean()) < 4 * stderr


def test_fresh_rotations_repeat_by_their_seed_and_leave_the_loss_as_it_was() -> None:
    loss = orbit_loss()
    before = [v.item() for v in loss()]
    how = {"directions": ("random", "gradient"), "n": 6, "rotations": "fresh", "progress": False}
    one, same, other = (ep.analysis.landscape(loss, seed=seed, **how) for seed in (1, 1, 2))
    assert one.L_mean == same.L_mean
    assert one.L_mean != other.L_mean
    assert [v.item() for v in loss()] == before


def test_a_step_of_ones_own_has_fixed_noise_and_fresh_rotations() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = draw(4, 6, 3, seed=1)

    def step() -> Tensor:
        noisy = x + 0.3 * torch.randn_like(x)  # drawn anew at every call, but for the random state
        return (net(noisy) - x).square().mean()

    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    loss = ep.analysis.OrbitLoss.of_step(
        net, step, ep.RotationPlan("haar", replicates=3), schema=schema, center="origin"
    )
    how = {"directions": ("random", "gradient"), "n": 6, "step": 1e-3, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed = ep.analysis.landscape(loss, **how)
        fresh = ep.analysis.landscape(loss, rotations="fresh", **how)
    assert fixed.roughness["L_mean"].relative < 1e-9
    assert fresh.roughness["L_mean"].relative > 1e-4


def test_a_loss_that_draws_noise_warns_and_one_that_does_not_is_silent() -> None:
    loss, generator = quadratic(), torch.Generator().manual_seed(0)

    def noisy() -> Three:
        total, mean, equiv = loss()
        noise = 0.01 * torch.randn((), generator=generator, dtype=torch.float64)
        return total + noise, mean + noise, equiv

    how = {"parameters": loss.parameters, "n": 12, "step": 1e-3, "progress": False}
    with pytest.warns(UserWarning, match="draws fresh noise"):
        found = ep.analysis.landscape(noisy, **how)
    assert found.roughness["L_mean"].kind == "noise"
    assert found.roughness["L_equiv"].kind == "quartic"
    assert "draws fresh noise" in found.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ep.analysis.landscape(loss, **how).notes == ()


def test_single_precision_is_silent_and_smooth_to_its_rounding() -> None:
    torch.manual_seed(3)
    net, x = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)), draw(4, 5, 3, seed=7).float()
    single = ep.analysis.OrbitLoss(net, x, 0.5 * x, SCHEMA, HAAR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ep.analysis.landscape(single, n=8, progress=False)
    assert {one.kind for one in found.roughness.values()} <= {"quartic", "smooth"}


def test_a_block_is_moved_and_the_rest_stays() -> None:
    loss = orbit_loss()
    found = ep.landscape(loss, parameters="2", n=6, progress=False)  # the package may be called
    assert isinstance(found, ep.analysis.Landscape)
    assert found.parameters == 6 * 3 + 3
    # The loss is quadratic in the last layer, exactly.
    assert {one.kind for one in found.roughness.values()} == {"quartic"}


def test_what_cannot_be_done_is_said() -> None:
    loss, one = quadratic(), {"weights": draw(5)}
    flat = Quadratic(with_spectrum(torch.tensor([1.0, 0, 0], dtype=torch.float64)), 0 * EYE)
    with pytest.raises(EquivProbeError, match=r"redrawn\(generator\)"):
        ep.analysis.landscape(loss, rotations="fresh", progress=False)
    with pytest.raises(EquivProbeError, match="parallel"):
        ep.analysis.landscape(loss, directions=(one, one), progress=False)
    with pytest.raises(EquivProbeError, match="a network without data"):
        ep.analysis.landscape(nn.Linear(3, 3), progress=False)
    with pytest.raises(EquivProbeError, match="n=6 or more"):
        ep.analysis.landscape(loss, n=3)
    with pytest.raises(EquivProbeError, match="block of at most 3000"):
        ep.analysis.landscape(orbit_loss(width=600), progress=False)
    with pytest.raises(EquivProbeError, match="1 positive eigenvalues"):
        ep.analysis.landscape(flat, progress=False)


def test_without_labels_it_is_of_broken_symmetry_alone(tmp_path: Path) -> None:
    model, x = Forces(seed=4), draw(5, 7, 3, seed=2)
    found = ep.analysis.landscape(model, x, None, SCHEMA, ep.RotationPlan("tetrahedral"), n=6, progress=False)
    assert found.directions[0] == "largest eigenvalue of L_equiv"
    # L_equiv = (‖W‖²/3 − tr²W/9) ⟨x²⟩, and every direction but the trace bends alike, by 2/3 ⟨x²⟩.
    np.testing.assert_allclose(found.eigenvalues, 2 / 3 * float(x.square().mean()), rtol=1e-9)
    assert (found.roughness["L_mean"].kind, found.roughness["L_equiv"].kind) == ("unknown", "quartic")
    assert "L_equiv is smooth" in str(found)
    found.save(tmp_path / "equiv.json")
    assert ep.load(tmp_path / "equiv.json") == found
    found.save(tmp_path / "equiv.html")


def test_a_landscape_is_read_as_it_was_saved(tmp_path: Path) -> None:
    found = ep.analysis.landscape(quadratic(), n=6, name="a bowl", progress=False)
    found.save(tmp_path / "bowl.json")
    again = ep.load(tmp_path / "bowl.json")
    assert again == found
    assert isinstance(again, ep.analysis.Landscape)
    assert again.roughness["L_mean"].kind == "quartic"
    assert len(found.rows()) == 36
    stored = found.to_dict()
    stored["L_mean"] = stored["L_mean"][1:]
    with pytest.raises(EquivProbeError, match="not 6 rows of 6 numbers"):
        ep.analysis.Landscape.from_dict(stored)


def test_it_says_which_loss_is_rough(tmp_path: Path) -> None:
    fresh = ep.analysis.landscape(orbit_loss(), n=8, step=0.01, rotations="fresh", progress=False)
    assert "L_mean is rough" in str(fresh)
    assert "compare rotations='fixed'" in " ".join(fresh.document().blocks[0].beside)
    assert "L_mean is smooth" in str(ep.analysis.landscape(orbit_loss(), n=8, step=0.01, progress=False))
    fresh.save(tmp_path / "page.html")
    assert "Both losses over the plane" in (tmp_path / "page.html").read_text()


def test_both_panels_have_the_same_axes() -> None:
    pytest.importorskip("matplotlib")
    ax = ep.analysis.landscape(orbit_loss(), n=8, step=0.01, progress=False).plot()
    mean, equiv = ax.child_axes
    assert mean.get_xlim() == equiv.get_xlim()
    assert mean.get_ylim() == equiv.get_ylim()
    assert mean.get_title().startswith("L_mean")
    assert equiv.get_title().startswith("L_equiv")


@pytest.mark.parametrize("size", [0.3, 0.01])
def test_roughness_finds_the_size_of_planted_noise_and_its_correlation(size: float) -> None:
    u = np.linspace(-1, 1, 20)
    bowl = 2 + u[:, None] ** 4 + u * u[:, None] - u**3
    rng = np.random.default_rng(5)
    white = [Roughness.of(bowl + size * rng.standard_normal((20, 20))) for _ in range(40)]
    assert np.mean([one.rms for one in white]) == pytest.approx(size, rel=0.03)
    lags = np.array([one.lag1 for one in white])
    # 15 of 400 coefficients are fitted away, the slowest ones: neighbours are then a little less alike than of noise.
    assert lags.mean() == pytest.approx(-0.04, abs=0.03)
    assert lags.std() == pytest.approx(white[0].lag1_stderr, rel=0.4)
    wave = Roughness.of(bowl + size * np.sin(9 * u)[:, None] * np.cos(9 * u))
    assert wave.kind == "smooth"
    assert wave.lag1 > 0.5
