"""Gradients of a user's own step, measured beside the user's own: right, unseen, and without waiting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from ..live.test_no_waiting import CASES, NoReading
from ..live_models import BOTH, FORCES, Energy, Noisy
from .planted_losses import draw

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {"grad_norm_L_mean", "grad_norm_L_equiv", "grad_ratio", "grad_cosine"}


def test_a_live_measurement_is_that_of_the_orbit_loss() -> None:
    """Tetrahedral rotations make the gradients of a linear model exact: both ways give the same, to rounding."""
    model = nn.Linear(3, 3, bias=False).double()
    x, y = draw(8, 5, 3, seed=0), draw(8, 5, 3, seed=1)
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    light = ep.RotationPlan("tetrahedral", replicates=2)
    probe = ep.Probe(model, schema, every=None, gradients=1, light=light)
    loss = probe.step(lambda: (model(x) - y).square().mean())
    loss.backward()
    plan = ep.RotationPlan("tetrahedral", replicates=6)
    expected = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, y, schema, plan))
    found = probe.compute()
    assert {name.rpartition("/")[2].removesuffix("_stderr") for name in found} == KEYS
    assert found["equiv/train/loss/grad_norm_L_mean"] == pytest.approx(expected.norm_mean.value, rel=1e-9)
    assert found["equiv/train/loss/grad_norm_L_equiv"] == pytest.approx(expected.norm_equiv.value, rel=1e-9)
    assert found["equiv/train/loss/grad_ratio"] == pytest.approx(expected.ratio.value, rel=1e-9)
    stored = probe.report().to_dict()["gradients"]["train/loss"]["groups"]
    assert stored["weight"]["norm_mean"] == pytest.approx(expected["weight"].norm_mean.value, rel=1e-9)
    assert "Gradients of train/loss" in str(probe.report())


@pytest.mark.slow
def test_the_norms_are_unbiased_over_steps() -> None:
    """Averaged over measurements, squares of noisy gradients meet those of many rotations."""
    torch.manual_seed(0)
    model, x = Energy().train(), draw(4, 4, 3, seed=0)
    energy, forces = draw(4, seed=1), draw(4, 4, 3, seed=2)

    def step() -> Tensor:
        out = model(x)
        loss: Tensor = (out["energy"] - energy).square().mean() + (out["forces"] - forces).square().mean()
        return loss

    probe = ep.Probe(model, BOTH, every=None, gradients=1)
    for _ in range(25):
        probe.step(step)
    assert not probe.failures
    assert probe.gradients is not None
    plan = ep.RotationPlan("octahedral", replicates=6)
    expected = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, {"energy": energy, "forces": forces}, BOTH, plan))[
        "all"
    ]
    found = probe.gradients.everything["loss"]["all"]
    for key in ("squared_mean", "squared_equiv", "inner"):
        one, wanted = getattr(found, key), getattr(expected, key)
        assert abs(one.value - wanted.value) <= 4 * math.hypot(one.stderr, wanted.stderr)
        assert one.stderr < 0.3 * abs(expected.squared_mean.value) + abs(wanted.value)


class Shared(nn.Module):
    """One layer used twice, a frozen one, one that the loss does not use, beside dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.noisy, self.twice = Noisy(), nn.Linear(3, 3)
        self.again, self.frozen, self.unused = self.twice, nn.Linear(3, 3), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        forces = self.noisy(pos)["forces"]
        return {"forces": self.frozen(self.again(self.twice(forces))) + 0 * self.unused.weight.sum()}


def trained(*, gradients: Any, autocast: bool = False, steps: int = 6) -> tuple[dict[str, bytes], list[Any], Any]:
    """Two batches to an optimizer step, hooks on parameters; what is left, and what the hooks saw."""
    torch.manual_seed(0)
    model = Shared().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    seen: list[Any] = []
    model.twice.weight.register_hook(lambda g: seen.append(float(g.sum())) or g * 0.5)
    probe = ep.Probe(model, FORCES, every=None, gradients=gradients)
    with probe:
        for k in range(steps):
            x = torch.randn(8, 4, 3)

            def step(x: Tensor = x) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    noisy = x + 0.1 * torch.randn_like(x)
                    return (model(noisy)["forces"] - x).square().mean() / 2

            probe.step(step).backward()
            if k % 2:
                optimizer.step()
                optimizer.zero_grad()
    left = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    left["random"] = torch.get_rng_state().numpy().tobytes()
    left["moments"] = b"".join(v.numpy().tobytes() for s in optimizer.state.values() for v in s.values())
    return left, seen, probe


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_bit_identical(autocast: bool) -> None:
    without, saw, _ = trained(gradients=False, autocast=autocast)
    found, saw_too, probe = trained(gradients=1, autocast=autocast)
    assert found == without
    assert saw == saw_too
    assert not probe.failures
    groups = probe.gradients.everything["loss"]
    assert list(groups.groups) == ["all", "noisy", "twice", "unused"]
    assert groups["unused"].squared_mean.value == 0
    assert groups["noisy"].squared_mean.value > 0


def test_gradients_of_the_unscaled_loss_in_half_precision() -> None:
    """The norm in bfloat16 autocast is that in float32 within its precision, and no hook of a scaler is asked."""
    values = [trained(gradients=1, autocast=one, steps=1)[2].compute() for one in (False, True)]
    exact, low = (one["equiv/train/loss/grad_norm_L_mean"] for one in values)
    assert low == pytest.approx(exact, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_the_device(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("probe.player", "live.kept_numbers"):
        monkeypatch.setattr(f"equiv_probe.{where}.at_hand", lambda value: False)
    torch.manual_seed(0)
    make, schema, inputs = CASES[case]
    model = make().train()
    if not any(one.requires_grad for one in model.parameters()):
        model.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        model.register_forward_hook(lambda m, _, out: {n: m.gain * v for n, v in out.items()})
    with ep.Probe(model, schema, every=None, gradients=1) as probe:

        def run() -> Any:
            return probe.step(lambda: sum(value.square().mean() for value in model(*inputs).values()))

        run()
        with NoReading():
            run()
    assert not probe.failures
    assert probe.gradients is not None
    assert probe.gradients.everything["loss"]["all"].sums.count == 6


class Two(nn.Module):
    """A symmetric output beside the one that is measured, and an encoder outside of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.size, self.encoder = nn.Linear(3, 3), nn.Linear(1, 1), nn.Linear(2, 1)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": self.layer(pos), "size": self.size(pos.norm(dim=-1, keepdim=True))}


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_the_users_own_graph_is_not_used_up() -> None:
    torch.manual_seed(0)
    model, x, found = Two(), torch.randn(4, 5, 3), []
    schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
    calls: list[int] = []
    model.layer.register_full_backward_hook(lambda *_: calls.append(1))
    for gradients in (False, 1):
        probe = ep.Probe(model, schema, every=None, gradients=gradients)
        outside = model.encoder(torch.ones(2)).exp()
        calls.clear()

        def step(outside: Tensor = outside) -> Tensor:
            out = model(x)
            return (out["forces"] * outside).square().mean() + out["size"].square().mean()

        loss = probe.step(step)
        assert not calls
        found.append([one.clone() for one in torch.autograd.grad(loss, list(model.parameters()))])
        assert not probe.failures
        assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert probe.gradients is not None
    assert probe.gradients.everything["loss"]["encoder"].squared_mean.value > 0


def test_a_step_that_cannot_be_differentiated_is_listed_and_goes_on() -> None:
    model, x = nn.Linear(3, 3).double(), draw(4, 5, 3, seed=0)
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    steps: list[tuple[Callable[[], Any], bool]] = [
        (lambda: model(x).square().mean().item(), True),
        (lambda: model(x).square().mean(), False),
    ]
    for step, replay in steps:
        probe = ep.Probe(model, schema, every=None, gradients=1)
        if replay:
            with pytest.warns(UserWarning, match="could not measure gradients"):
                probe.step(step)
            assert "return loss, not loss.item()" in probe.failures[0]
        else:
            probe.step(step, replay=False)
            assert any("manual optimisation" in note for note in probe.report().notes)
        assert not probe.compute()


def test_cadence_and_state() -> None:
    model, x = nn.Linear(3, 3).double(), draw(4, 5, 3, seed=0)
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})

    def run(probe: ep.Probe, steps: int) -> None:
        for _ in range(steps):
            probe.step(lambda: (model(x) - 2 * x).square().mean())

    whole = ep.Probe(model, schema, every=None, gradients=4)
    run(whole, 10)
    first = ep.Probe(model, schema, every=None, gradients=4)
    run(first, 5)
    second = ep.Probe(model, schema, every=None, gradients=4)
    second.load_state_dict(first.state_dict())
    run(second, 5)
    assert whole.schedules["gradients", "train"].measured == 3
    assert second.compute(window=False) == pytest.approx(whole.compute(window=False), nan_ok=True)
    assert ep.Probe(model, schema, gradients=True).schedule("gradients", "train").every == 500
