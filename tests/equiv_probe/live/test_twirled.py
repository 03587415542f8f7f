"""The twirled model: closed forms, invariance, gradients, spread."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.rotations.haar import haar
from equiv_probe.testing import LinearField, QuadraticEnergy

from ..live_models import BOTH, FORCES, MUTATING, Energy, Mutating, Planted, mutating_batch

if TYPE_CHECKING:
    from collections.abc import Callable

ICOSAHEDRAL = ep.RotationPlan("icosahedral", 1)


def data(count: int = 6, atoms: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, atoms, 3, generator=generator, dtype=torch.float64) + 1.0


@pytest.mark.parametrize("mode", ["fixed", "random"])
def test_equals_the_closed_form_where_the_plan_is_exact(mode: str, matrix: Tensor) -> None:
    planted, x = QuadraticEnergy(matrix), data()
    found = ep.Twirled(Planted(planted), BOTH, ICOSAHEDRAL, mode)(x)
    exact = planted.twirl(x)
    for name in ("energy", "forces"):
        assert (found[name] - exact[name]).abs().max() < 1e-12
    assert torch.equal(found["stress"], planted(x)["stress"]), "what the schema does not name is the model's own"


def test_one_rotation_is_not_a_twirl(matrix: Tensor) -> None:
    """Negative control."""
    planted, x = QuadraticEnergy(matrix), data()
    found = ep.Twirled(Planted(planted), BOTH, ep.RotationPlan("haar", 1))(x)
    assert (found["forces"] - planted.twirl(x)["forces"]).abs().max() > 1e-2


def test_the_twirled_network_breaks_the_symmetry_less_and_less() -> None:
    torch.manual_seed(0)
    model, x = Energy().eval(), data(1)
    errors = []
    for plan in (None, ep.RotationPlan("klein", 1), ep.RotationPlan("octahedral", 1), ep.RotationPlan("lebedev-15", 1)):
        network = model if plan is None else ep.Twirled(model, BOTH, plan)
        orbit = ep.twirl(lambda i, n=network: n(i["pos"].clone()), {"pos": x}, BOTH, ep.RotationPlan("klein", 2))
        errors.append(ep.decompose(orbit).parts["forces"].equiv)
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 1000 * errors[3]


def test_gradients_pass_through() -> None:
    """Forces of the twirled energy are the twirled forces; the weights get gradients."""
    torch.manual_seed(0)
    outside, inside = Energy(inside=False), Energy(inside=True)
    inside.load_state_dict(outside.state_dict())
    plan = ep.RotationPlan("octahedral", 2)
    x = data().requires_grad_()
    energy = ep.Twirled(outside, ep.Schema({"pos": ep.point}, {"energy": ep.scalar}), plan)(x)["energy"]
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    forces = ep.Twirled(inside, BOTH, plan)(x.detach().clone())["forces"]
    assert (forces + gradient).abs().max() < 1e-12
    gradient.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in list(outside.parameters())[:1])


def test_std_is_the_orbits_own(matrix: Tensor) -> None:
    planted, x = LinearField(matrix), data()
    model = Planted(planted)
    for plan in (ep.RotationPlan("icosahedral", 2), ICOSAHEDRAL):
        answer, std = ep.Twirled(model, FORCES, plan, std=True)(x)
        assert (answer["forces"] - planted.twirl(x)["forces"]).abs().max() < 1e-12
        exact = sum(planted.equiv(one)["forces"] for one in x) / len(x)
        assert abs(float(std["forces"].square().mean()) / exact - 1) < 1e-10


def test_random_mode_averages_to_the_exact_twirl(matrix: Tensor) -> None:
    planted, x = LinearField(matrix), data(4)
    twirled = ep.Twirled(Planted(planted), FORCES, ep.RotationPlan("haar", 2), "random")
    calls = torch.stack([twirled(x)["forces"] for _ in range(400)])
    off = (calls.mean(0) - planted.twirl(x)["forces"]) / (calls.std(0) / 20)
    assert off.abs().max() < 4.5
    assert calls.std(0).min() > 0, "drawn anew"


def test_self_mutating_models_and_a_fixed_answer() -> None:
    torch.manual_seed(0)
    model, batch = Mutating().eval(), mutating_batch()
    twirled = ep.Twirled(model, MUTATING, ICOSAHEDRAL)
    before = set(batch)
    first, second = twirled(batch)["forces"], twirled(batch)["forces"]
    assert set(batch) == before
    assert torch.equal(first, second)
    trace = model.matrix.detach().diagonal().sum()
    centred = torch.cat([x - x.mean(0) for x in torch.split(mutating_batch()["_positions"], [3, 5, 4])])
    assert (first + 2 * trace / 3 * centred).abs().max() < 1e-12


def test_an_equivariant_answer_for_rotated_structures(matrix: Tensor) -> None:
    x, (g,) = data(), haar(1, torch.Generator().manual_seed(0))
    centre = x.mean(1, keepdim=True)
    twirled = ep.Twirled(Planted(LinearField(matrix)), FORCES, ICOSAHEDRAL)
    assert (twirled((x - centre) @ g.mT + centre)["forces"] - twirled(x)["forces"] @ g.mT).abs().max() < 1e-12
    assert set(dict(twirled.named_modules())) == {"", "model"}


def test_errors_teach() -> None:
    with pytest.raises(ep.EquivProbeError, match='"fixed" or "random"'):
        ep.Twirled(Energy(), BOTH, mode="mean")


def jvp(twirled: ep.Twirled, x: Tensor) -> Tensor:
    moved: Tensor = torch.func.jvp(lambda y: twirled(y)["forces"], (x,), (torch.ones_like(x),))[0]
    return moved


@pytest.mark.parametrize(
    "first",
    [jvp, lambda twirled, x: torch.func.vmap(lambda y: twirled(y[None])["forces"][0])(x)],
    ids=["jvp", "vmap"],
)
def test_a_first_call_inside_of_a_transform(first: Callable[[ep.Twirled, Tensor], Tensor], matrix: Tensor) -> None:
    """As samplers by vmap make it: right, and nothing of the transform is kept, so that it can be saved afterwards."""
    planted, x = LinearField(matrix), data()
    twirled = ep.Twirled(Planted(planted), FORCES, ICOSAHEDRAL)
    exact = planted.twirl(x)["forces"]
    assert (first(twirled, x) - exact).abs().max() < 1e-12
    assert torch.equal(twirled(x)["forces"], ep.Twirled(Planted(planted), FORCES, ICOSAHEDRAL)(x)["forces"])
    torch.save(twirled, io.BytesIO())
