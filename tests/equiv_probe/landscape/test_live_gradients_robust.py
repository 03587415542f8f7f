"""Gradients in live runs as they are: steps that overflow, sparse and complex weights, checkpointing, closures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import equiv_probe as ep

from .planted_losses import SCHEMA, Forces, draw, equiv_of

LIGHT = ep.RotationPlan("tetrahedral", replicates=2)
KEY = "equiv/train/loss/grad_norm_L_equiv"


X = draw(4, 5, 3, seed=1)


def exact(matrix: Tensor, x: Tensor = X) -> float:
    """``‖∇L_equiv‖`` of forces ``W x``."""
    return float(equiv_of(matrix, x)[1].norm())


@pytest.mark.slow
def test_a_step_that_is_not_finite_does_not_count() -> None:
    """With float16 the first steps overflow: they must not spoil every later mean."""
    model = Forces()
    probe = ep.Probe(model, SCHEMA, every=None, gradients=1, light=LIGHT)
    for factor in (1.0, math.nan, math.inf, 1.0):
        probe.step(lambda factor=factor: (model(X)["forces"] - factor * X).square().mean())
        found = probe.compute(window=True)[KEY]
        assert math.isfinite(found) == math.isfinite(factor)  # the last one alone
    expected = pytest.approx(exact(model.matrix.detach()), rel=1e-9)
    assert probe.compute(window=False)[KEY] == expected
    assert probe.report().to_dict()["gradients"]["train/loss"]["groups"]["all"]["norm_equiv"] == expected
    assert not probe.failures


def test_the_loss_is_what_is_differentiated_where_there_are_other_numbers() -> None:
    model = Forces()
    probe = ep.Probe(model, SCHEMA, every=None, gradients=1, light=LIGHT)
    probe.step(lambda: {"first": model(X)["forces"].square().mean(), "loss": 3 * model(X)["forces"].square().mean()})
    assert probe.compute()[KEY] == pytest.approx(3 * exact(model.matrix.detach()), rel=1e-9)
    step = lambda: {"first": model(X)["forces"].square().mean(), "loss": model(X)["forces"].square().mean()}  # noqa: E731
    assert ep.analysis.OrbitLoss.of_step(model, step, LIGHT, schema=SCHEMA)._weight.keys() == {"loss"}


class Kinds(nn.Module):
    """Forces ``s Re(C) x``: a sparse s of two species, and a complex C whose imaginary part counts too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Embedding(2, 1, sparse=True).double()
        self.matrix = nn.Parameter(torch.complex(draw(3, 3, seed=0), draw(3, 3, seed=1)))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        mixed = pos.to(self.matrix.dtype) @ self.matrix.T
        return {"forces": self.scale(torch.zeros(1, dtype=torch.long)) * (mixed.real + mixed.imag)}


def test_sparse_and_complex_weights() -> None:
    """By both parts of C the gradient is the same: that of ``W = Re C + Im C``, times s."""
    model = Kinds()
    scale, matrix = model.scale.weight.detach()[0, 0], (model.matrix.real + model.matrix.imag).detach()
    expected = math.sqrt(2) * float(scale.abs()) * exact(scale * matrix)
    probe = ep.Probe(model, SCHEMA, every=None, gradients=1, light=LIGHT)
    probe.step(lambda: (model(X)["forces"] - X).square().mean())
    assert not probe.failures
    assert probe.compute()["equiv/train/loss/matrix/grad_norm_L_equiv"] == pytest.approx(expected, rel=1e-9)
    of_scale = 2 * float(scale.abs()) * exact(matrix) ** 2 / 4 * 3 / float(X.square().mean())
    assert probe.compute()["equiv/train/loss/scale/grad_norm_L_equiv"] == pytest.approx(of_scale, rel=1e-9)


class Checkpointed(nn.Module):
    """Batch norm and dropout in a part that is evaluated again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.3)
        self.passes = 0

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        out: Tensor = checkpoint(self.inside, pos, use_reentrant=False)
        return {"forces": out}

    def inside(self, pos: Tensor) -> Tensor:
        self.passes += 1
        return self.drop(self.norm(self.layer(pos).flatten(0, 1))).reshape(pos.shape)


def test_what_is_checkpointed_leaves_no_trace() -> None:
    """Batch norm writes to its buffers once more in a backward pass; those of the measurement are no exception."""
    found: list[dict[str, Any]] = []
    for gradients in (False, 1):
        torch.manual_seed(0)
        model = Checkpointed().train()
        probe = ep.Probe(model, SCHEMA, every=None, gradients=gradients)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            probe.step(lambda model=model: (model(X.float())["forces"] - X.float()).square().mean()).backward()
            optimizer.step()
        assert not probe.failures
        left = {name: value.tolist() for name, value in model.state_dict().items()}
        found.append({**left, "random": torch.rand(1).item(), "passes": model.passes})
    assert found[0] == found[1]
    assert probe.compute()[KEY] > 0


def test_gradients_of_an_orbit_loss_leave_no_trace_either() -> None:
    model = Checkpointed().train()
    loss = ep.analysis.OrbitLoss(model, X.float(), X.float(), SCHEMA, ep.RotationPlan("haar", replicates=4))
    before = {name: value.tolist() for name, value in model.state_dict().items()}
    state, passes = torch.get_rng_state(), model.passes
    assert ep.analysis.gradients(loss).norm_equiv.value > 0
    assert before == {name: value.tolist() for name, value in model.state_dict().items()}
    assert torch.equal(torch.get_rng_state(), state)
    assert model.passes == passes


def test_calls_of_other_structures_are_not_rotated_one_by_one() -> None:
    model = Forces()
    probe = ep.Probe(model, SCHEMA, every=None, gradients=1)
    with pytest.warns(UserWarning, match="could not measure gradients"):
        probe.step(
            lambda: model(X)["forces"].square().mean() + model(X[:3])["forces"].square().mean(), per_structure=True
        )
    assert "per_structure=False" in probe.failures[0]
    probe.step(lambda: model(X)["forces"].square().mean() + model(X[:3])["forces"].square().mean())
    assert len(probe.failures) == 1


@pytest.mark.slow
def test_a_closure_that_goes_backward_itself() -> None:
    """As optimizers like LBFGS are given: the measurement looks at the loss that it returns."""
    model, weights = Forces(), []
    for gradients in (False, 1):
        torch.manual_seed(0)
        model.load_state_dict(Forces().state_dict())
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
        probe = ep.Probe(model, SCHEMA, every=None, gradients=gradients, light=LIGHT)
        seen: list[float] = []

        def closure(optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = (model(X)["forces"] - 2 * X).square().mean()
            loss.backward()
            return loss

        def watched(probe: ep.Probe = probe, seen: list[float] = seen) -> Tensor:
            seen.append(exact(model.matrix.detach()))
            return probe.step(closure)

        optimizer.step(watched)
        assert not probe.failures
        weights.append(model.matrix.detach().clone())
    assert torch.equal(*weights)
    assert len(seen) > 2
    assert probe.compute()[KEY] == pytest.approx(seen[-1], rel=1e-6)


def test_what_was_loaded_from_elsewhere_is_taken_along() -> None:
    """A checkpoint is read onto the CPU, and the run goes on where its model is; here, on a device without numbers."""
    model = Forces()
    first = ep.Probe(model, SCHEMA, every=None, gradients=1, light=LIGHT)
    first.step(lambda: model(X)["forces"].square().mean())
    state = first.state_dict()
    assert first.gradients is not None
    there = first.gradients.everything["loss"].to("meta")
    second = ep.Probe(model, SCHEMA, every=None, gradients=1, light=LIGHT)
    second.load_state_dict(state)
    assert second.gradients is not None
    second.gradients.add("loss", there)
    assert {one.sums.first.device.type for one in second.gradients.everything["loss"].groups.values()} == {"meta"}
    assert {g["all"].sums.first.device.type for g in second.gradients.recent["loss"]} == {"meta"}


class Beside(nn.Module):
    """Forces ``W x`` and sizes of atoms by one shared weight; answers with a new dict, or with the one it was given."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.matrix = nn.Parameter(draw(3, 3, seed=0))

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {"forces": given["pos"] @ self.matrix.T, "size": self.matrix.square().sum() * given["pos"].norm(dim=-1)}
        if not self.inside:
            return out
        given.update(out)
        return given


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_what_the_schema_does_not_name_is_part_of_the_gradient(inside: bool) -> None:
    """An output of the network that is not measured belongs to L_mean, and so does its gradient."""
    model, norms = Beside(inside), []
    hooked: list[int] = []
    for outputs in ({"forces": ep.vector}, {"forces": ep.vector, "size": ep.scalar}):
        schema = ep.Schema(inputs={"pos": ep.vector}, outputs=outputs)

        def step() -> Tensor:
            out = model({"pos": X})
            if out["size"].requires_grad:
                out["size"].register_hook(lambda g: hooked.append(1))
            return (out["forces"] - X).square().mean() + 0.1 * (out["size"] - 1).square().mean()

        probe = ep.Probe(model, schema, every=None, gradients=1, light=LIGHT)
        loss = probe.step(step)
        assert not hooked
        loss.backward()
        assert hooked == [1]
        hooked.clear()
        assert not probe.failures
        assert probe.gradients is not None
        found = probe.gradients.everything["loss"]["all"]
        norms.append([found.squared_mean.value, found.squared_equiv.value, found.inner.value])
        by_step = ep.analysis.gradients(
            ep.analysis.OrbitLoss.of_step(model, step, ep.RotationPlan("tetrahedral", replicates=6), schema=schema)
        )
        norms.append(
            [by_step["all"].squared_mean.value, by_step["all"].squared_equiv.value, by_step["all"].inner.value]
        )
    for row in norms:
        assert row == pytest.approx(norms[-1], rel=1e-9)
