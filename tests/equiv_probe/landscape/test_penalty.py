"""The penalty: unbiased for L_equiv, and so is its gradient; closed forms, frameworks' batches, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

from ..live.test_no_waiting import CASES, NoReading
from ..live_models import BOTH, MUTATING, Energy, Mutating, mutating_batch
from .planted_losses import EYE, SCHEMA, Forces, draw, equiv_of, require_mean


def sampled(evaluate: Any, matrix: nn.Parameter, seeds: int) -> tuple[Tensor, Tensor]:
    """Values and gradients over seeds."""
    values, slopes = [], []
    for seed in range(seeds):
        value = evaluate(torch.Generator().manual_seed(seed))
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, matrix)[0].flatten())
    return torch.stack(values), torch.stack(slopes)


@pytest.mark.slow
def test_value_and_gradient_are_unbiased() -> None:
    model, x = Forces(), draw(6, 2, 3, seed=1)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=False)
    values, slopes = sampled(lambda g: penalty(x, 0.5, generator=g), model.matrix, 300)
    value, slope = equiv_of(model.matrix.detach(), x)
    require_mean(values, 0.5 * value)
    require_mean(slopes, 0.5 * slope.flatten())
    assert values.std() / math.sqrt(300) < 0.03 * float(value)
    assert model.passes == 2 * 300
    # Negative control: in a frame in which all vectors lie where W acts most, the data's own is no random one.
    along = draw(6, 2, 1, seed=1) * torch.linalg.svd(model.matrix.detach()).Vh[0]
    value, _ = equiv_of(model.matrix.detach(), along)
    fixed, _ = sampled(lambda g: penalty(along, generator=g, prediction=model(along)), model.matrix, 100)
    with pytest.raises(AssertionError):
        require_mean(fixed, value, within=6)


@pytest.mark.slow
def test_a_prediction_for_rotated_data_is_as_good_as_a_rotation() -> None:
    model, x = Forces(), draw(6, 2, 3, seed=1)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=False)

    def evaluate(generator: torch.Generator) -> Tensor:
        rotated = torch.einsum("bij,bnj->bni", haar(6, generator), x)
        return penalty(rotated, generator=generator, prediction=model(rotated))

    values, slopes = sampled(evaluate, model.matrix, 300)
    value, slope = equiv_of(model.matrix.detach(), x)
    require_mean(values, value)
    require_mean(slopes, slope.flatten())
    assert model.passes == 2 * 300


def test_more_rotations_are_the_orbit_variance() -> None:
    """Tetrahedral replicates are exact for a linear model, also in the short form."""
    model, x = Forces(), draw(6, 2, 3, seed=1)
    plan = ep.RotationPlan("tetrahedral", replicates=2)
    value, _ = equiv_of(model.matrix.detach(), x)
    found = ep.equivariance_penalty(model, x, 2.0, schema=SCHEMA, plan=plan)
    torch.testing.assert_close(found.detach(), 2 * value)
    with torch.no_grad():
        model.matrix.copy_(1.7 * EYE)
    assert abs(float(ep.equivariance_penalty(model, x, schema=SCHEMA).detach())) < 1e-28


def test_forces_that_are_derivatives_and_coefficients() -> None:
    model, x = Energy().train(), draw(3, 4, 3, seed=1)

    def evaluate() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return ep.equivariance_penalty(
            model, x, schema=BOTH, outputs={"energy": 0.1, "forces": 2.0}, generator=generator
        )

    weights = list(model.parameters())
    directions = [draw(*one.shape, seed=5) for one in weights]
    slope = sum((g * v).sum() for g, v in zip(torch.autograd.grad(evaluate(), weights[:3]), directions, strict=False))
    ends = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for one, v in zip(weights, directions, strict=True):
                one.add_(step * v)
            ends.append(evaluate())
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-9)
    assert x.grad is None
    parts = [
        ep.equivariance_penalty(model, x, c, schema=BOTH, outputs=[n], generator=torch.Generator().manual_seed(3))
        for n, c in (("energy", 0.1), ("forces", 2.0))
    ]
    torch.testing.assert_close(evaluate(), parts[0] + parts[1])


@pytest.mark.slow
def test_a_framework_batch_is_left_as_it_is() -> None:
    model, batch = Mutating().train(), mutating_batch()
    before = {name: value.clone() for name, value in batch.items()}
    schema = ep.Schema(MUTATING.inputs, MUTATING.outputs, batch="_idx_m")
    penalty = ep.EquivariancePenalty(model, schema, outputs=["energy"])
    found = torch.stack([penalty(batch, generator=torch.Generator().manual_seed(k)).detach() for k in range(200)])
    plan = ep.RotationPlan("icosahedral", replicates=2)  # an energy of degree 2: exact
    exact = ep.decompose(ep.twirl(model, batch, schema, plan, floor=0).only("energy")).equiv
    require_mean(found, torch.tensor(exact, dtype=torch.float64))
    assert all(torch.equal(batch[name], value) for name, value in before.items())
    assert not batch["_positions"].requires_grad


def test_it_trains_the_asymmetry_away() -> None:
    """Descending the penalty alone brings W to a multiple of the identity, and leaves its trace where it is."""
    model, x = Forces(), draw(16, 4, 3, seed=1)
    penalty, trace = ep.EquivariancePenalty(model, SCHEMA), model.matrix.detach().trace()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for step in range(150):
        optimizer.zero_grad()
        penalty(x, generator=torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    rest = model.matrix.detach() - trace / 3 * EYE
    assert rest.norm() < 1e-3
    assert float(model.matrix.detach().trace()) == pytest.approx(float(trace), rel=1e-3)


def test_probes_do_not_count_its_passes() -> None:
    model, x = Forces(), draw(6, 2, 3, seed=1)
    with ep.Probe(model, SCHEMA, every=1) as probe:
        ep.equivariance_penalty(model, x, schema=SCHEMA)
        assert not probe.running
        model(x)
    assert probe.schedules["call", "train"].step == 1


@pytest.mark.parametrize("case", ["autograd forces", "flat batch", "voigt, irreps, axial"])
def test_nothing_waits_for_the_device(case: str) -> None:
    torch.manual_seed(0)
    make, schema, inputs = CASES[case]
    model = make().train()
    names = ("pos", "batch", "edge_index")
    batch = dict(zip(names, inputs, strict=False))
    penalty = ep.EquivariancePenalty(lambda given: model(**given), schema)
    penalty(batch)
    with NoReading():
        value = penalty(batch)
    assert value.item() > 0


def test_what_it_refuses() -> None:
    model, x = Forces(), draw(6, 2, 3, seed=1)
    with pytest.raises(ep.EquivProbeError, match="two independent rotations"):
        ep.equivariance_penalty(model, x, schema=SCHEMA, plan=ep.RotationPlan("cube"))
    with pytest.raises(ep.EquivProbeError, match="outputs"):
        ep.equivariance_penalty(model, x, schema=SCHEMA, outputs=["energy"])
    plan = ep.RotationPlan("klein", replicates=2)
    with pytest.raises(ep.EquivProbeError, match="single rotations"):
        ep.equivariance_penalty(model, x, schema=SCHEMA, plan=plan, prediction=model(x))


class Dropping(nn.Module):
    """Forces ``m x`` with a random mask m for each atom: equivariant, whatever the mask is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.ones((), dtype=torch.float64)), nn.Dropout(0.5)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": self.scale * self.drop(torch.ones_like(pos[..., :1])) * pos}


@pytest.mark.parametrize("stacked", [None, False])
def test_dropout_is_no_asymmetry(stacked: bool | None) -> None:
    model, x = Dropping().train(), draw(6, 2, 3, seed=1)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=stacked)
    assert not torch.equal(model(x)["forces"], model(x)["forces"])
    for _ in range(3):
        state = torch.get_rng_state()
        assert abs(penalty(x).item()) < 1e-28
        assert not torch.equal(torch.get_rng_state(), state)  # new rotations the next time


def test_the_penalty_holds_what_half_precision_cannot() -> None:
    """As mean squared errors do under autocast: a scaled loss of float16 would overflow on its way back."""
    model, x = nn.Linear(3, 3), draw(6, 2, 3, seed=1).float()
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    penalty = ep.EquivariancePenalty(model, schema)
    with torch.autocast("cpu", torch.float16):
        low = penalty(x, generator=torch.Generator().manual_seed(0))
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(penalty(x, generator=torch.Generator().manual_seed(0)).item(), rel=0.01)
    (2.0**16 * low).backward()
    assert model.weight.grad is not None
    assert model.weight.grad.isfinite().all()
    large = 300 * x
    with torch.autocast("cpu", torch.float16):
        assert penalty(large, 1e6).isfinite()


TETRAHEDRAL = ep.RotationPlan("tetrahedral", replicates=2)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before", "after", "prediction"])
@pytest.mark.parametrize("stacked", [None, False])
def test_a_probed_step_is_decomposed_without_its_penalty(place: str, stacked: bool | None) -> None:
    """Noise that is drawn after the penalty is the same in every run of the step."""
    model, x = Forces(), draw(6, 2, 3, seed=1)
    penalty = ep.EquivariancePenalty(model, SCHEMA, stacked=stacked)
    noise: list[Tensor] = []

    def step() -> Tensor:
        before = penalty(x, 0.5) if place == "before" else torch.zeros(())
        noise.append(torch.randn_like(x))
        out = model(x + noise[-1])
        loss = (out["forces"] - 2 * x).square().mean() + before
        if place != "before":
            loss = loss + penalty(x, 0.5, prediction=out if place == "prediction" else None)
        return loss

    probe = ep.Probe(model, SCHEMA, every=1, gradients=1, light=TETRAHEDRAL)
    for _ in range(2):
        torch.manual_seed(0)
        loss = probe.step(step)
    assert not probe.failures
    matrix, given = model.matrix.detach(), x + noise[0]
    value, slope = equiv_of(matrix, given)
    mean = (matrix.trace() / 3 * given - 2 * x).square().mean()
    found = probe.compute()
    assert found["equiv/train/loss/L_equiv"] == pytest.approx(value.item(), rel=1e-9)
    assert found["equiv/train/loss/L_mean"] == pytest.approx(mean.item(), rel=1e-9)
    assert found["equiv/train/loss/grad_norm_L_equiv"] == pytest.approx(slope.norm().item(), rel=1e-9)
    assert loss.item() > (model(given)["forces"] - 2 * x).square().mean().item()  # the user's own has it
    by_step = ep.analysis.OrbitLoss.of_step(model, step, TETRAHEDRAL, schema=SCHEMA)
    torch.manual_seed(5)
    torch.testing.assert_close(by_step().equiv, by_step().equiv, rtol=0, atol=0)


def test_an_empty_batch_is_an_error() -> None:
    with pytest.raises(ep.EquivProbeError, match="an empty batch"):
        ep.equivariance_penalty(Forces(), draw(0, 2, 3, seed=1), schema=SCHEMA)
