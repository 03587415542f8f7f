"""Replay against the orbit itself: losses that draw their own noise, forces outside the model, several calls."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.jackknife import jackknife
from equiv_probe.testing import LinearField

from ..live_models import BOTH, FORCES, MUTATING, Energy, Mutating, Noisy, Planted, mutating_batch

PLAN = ep.RotationPlan("klein", 4)


class Flow(nn.Module):
    """A velocity network ``(B, N, 3), (B,) -> (B, N, 3)`` that conditions on its own earlier output, if it has one."""

    def __init__(self, atoms: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6 * atoms + 1, 32), nn.Tanh(), nn.Linear(32, 3 * atoms)).double()

    def forward(self, x_t: Tensor, t: Tensor, before: Tensor | None = None) -> Tensor:
        given = torch.zeros_like(x_t) if before is None else before
        features = torch.cat([x_t.flatten(1), given.flatten(1), t[:, None]], 1)
        return self.layers(features).reshape(x_t.shape)


FLOW = ep.Schema({"x_t": ep.vector, "before": ep.vector}, {"v": ep.vector})
PLAIN = ep.Schema({"x_t": ep.vector}, {"v": ep.vector})


def data(count: int = 5, atoms: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow() -> Flow:
    torch.manual_seed(0)
    return Flow()


def corrupted(x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x0, t = torch.randn_like(x1), torch.rand(len(x1), dtype=x1.dtype)
    return x0 + t[:, None, None] * (x1 - x0), t, x1 - x0


def decomposed(values: dict[str, Any], weights: Tensor) -> tuple[float, float, float]:
    """Jackknife of ``value(network)``, written out: values at each rotation, at the mean and at the left-out means."""
    losses = torch.stack([weights @ torch.stack(row) for row in values["each"]])
    found = jackknife(losses, values["mean"], torch.stack(values["left"]))
    return float(found.total), float(found.mean), float(found.equiv)


def rotations_of(probe: ep.Probe, plan: ep.RotationPlan) -> Tensor:
    """The rotations that a fresh probe with the same seed draws for its first replay."""
    del probe
    from equiv_probe.rotations.drawing import draw, own_generator

    return draw(plan, own_generator(0, 0, torch.device("cpu")), None)


def averaged(network: Any, rotations: Tensor, weights: Tensor) -> Any:
    """``Σ w h_g`` as a network, written out; all inputs and the output are vectors but the time."""

    def output(x_t: Tensor, t: Tensor, before: Tensor | None = None) -> Tensor:
        rotated = [network(x_t @ g.mT, t, None if before is None else before @ g.mT) @ g for g in rotations]
        return torch.einsum("k,k...->...", weights / weights.sum(), torch.stack(rotated))

    return output


def explicit(step: Any, network: Any, plan: ep.RotationPlan, rotations: Tensor) -> tuple[float, float, float]:
    """The decomposition of ``step(network)`` with every average of ``h_g`` put in by hand."""
    w = plan.weights
    reps = range(len(rotations))

    def without(r: int) -> Tensor:
        return torch.cat([rotations[k] for k in reps if k != r])

    def value(rotated: Tensor, weights: Tensor) -> Tensor:
        torch.manual_seed(7)
        return step(averaged(network, rotated, weights)).detach()

    values = {
        "each": [[value(rotations[r, i : i + 1], torch.ones(1).double()) for i in range(len(w))] for r in reps],
        "mean": value(rotations.flatten(0, 1), w.repeat(len(rotations))),
        "left": [value(without(r), w.repeat(len(rotations) - 1)) for r in reps],
    }
    return decomposed(values, w)


def self_conditioned(x1: Tensor) -> Any:
    def step(network: Any) -> Tensor:
        x_t, t, v = corrupted(x1)
        first = network(x_t, t)
        return (network(x_t, t, first.detach()) - v).square().mean()

    return step


def guided(x1: Tensor) -> Any:
    def step(network: Any) -> Tensor:
        x_t, t, v = corrupted(x1)
        return (1.5 * network(x_t, t) - 0.5 * network(x_t, torch.zeros_like(t)) - v).abs().pow(1.5).mean()

    return step


def single(x1: Tensor) -> Any:
    def step(network: Any) -> Tensor:
        x_t, t, v = corrupted(x1)
        return nn.functional.huber_loss(network(x_t, t), v)

    return step


@pytest.mark.parametrize("make", [single, guided, self_conditioned])
def test_replay_equals_the_networks_put_in_by_hand(make: Any) -> None:
    model, x1 = flow(), data()
    step = make(x1)
    probe = ep.Probe(model, FLOW if make is self_conditioned else PLAIN, center="origin")
    torch.manual_seed(7)
    found = probe.replay(lambda: step(model), PLAN, per_structure=False)
    expected = explicit(step, model, PLAN, rotations_of(probe, PLAN))
    assert found.calls == (1 if make is single else 2)
    for value, truth in zip((found.total, found.mean, found.equiv), expected, strict=True):
        assert abs(value - truth) < 1e-12
    assert found.equiv > 100 * found.resolution
    if make is not self_conditioned:
        assert found.evaluations == found.calls * PLAN.size, "what is known is looked up"


def test_substituting_only_the_last_call_would_be_caught() -> None:
    """Negative control: self-conditioning on the unrotated output is another number."""
    model, x1 = flow(), data()
    twin = copy.deepcopy(model)

    def step(network: Any) -> Tensor:
        x_t, t, v = corrupted(x1)
        with torch.no_grad():
            first = twin(x_t, t)  # never substituted
        return (network(x_t, t, first) - v).square().mean()

    probe = ep.Probe(model, FLOW, center="origin")
    torch.manual_seed(7)
    found = probe.replay(lambda: step(model), PLAN, per_structure=False)
    expected = explicit(self_conditioned(x1), model, PLAN, rotations_of(probe, PLAN))
    assert abs(found.equiv - expected[2]) > 1e-6


def test_flow_matching_loss_equals_the_orbits_own_variance() -> None:
    """Squared error: ``L_equiv`` needs no labels, so replay of a loss that draws its noise must give the variance."""
    model, x1 = flow(), data()
    torch.manual_seed(7)
    x_t, t, v = corrupted(x1)
    rotations = rotations_of(ep.Probe(model, PLAIN), PLAN)
    orbit = torch.stack([torch.stack([model(x_t @ g.mT, t) @ g for g in row]) for row in rotations]).detach()
    identity = {"v": model(x_t, t).detach()}
    direct = ep.Orbit.from_values({"v": orbit}, identity, PLAIN, PLAN, rotations)
    labelled, unlabelled = ep.decompose(direct, v), ep.decompose(direct)

    def step() -> Tensor:
        x_t, t, v = corrupted(x1)
        return (model(x_t, t) - v).square().mean()

    torch.manual_seed(7)
    found = ep.Probe(model, PLAIN, center="origin").replay(step, PLAN, per_structure=False)
    assert abs(found.equiv / unlabelled.equiv - 1) < 1e-10
    assert abs(found.total / labelled.total - 1) < 1e-12
    assert abs(found.mean / labelled.mean - 1) < 1e-12
    assert abs(float(found.result.detach()) - float((identity["v"] - v).square().mean())) < 1e-15


def test_forces_that_the_step_differentiates_itself() -> None:
    """A force loss outside of the model: the substituted energy carries the gradient of the average."""
    torch.manual_seed(0)
    model = Energy(inside=False)
    x, y = data(), data(seed=1)

    def step() -> dict[str, Tensor]:
        pos = x.clone().requires_grad_()
        energy = model(pos)["energy"]
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
        return {"energy": energy.square().mean(), "forces": (-gradient - y).square().mean()}

    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    probe = ep.Probe(model, schema)
    found = probe.replay(step, PLAN, per_structure=False).scalars["forces"]
    inside = Energy(inside=True)
    inside.load_state_dict(model.state_dict())
    rotations = rotations_of(probe, PLAN)
    centre = x.mean(1, keepdim=True)
    rotated = [[inside((x - centre) @ g.mT + centre)["forces"].detach() @ g for g in row] for row in rotations]
    orbit = torch.stack([torch.stack(row) for row in rotated])
    direct = ep.Orbit.from_values({"forces": orbit}, {"forces": orbit[0, 0]}, FORCES, PLAN, rotations)
    expected = ep.decompose(direct, y)
    assert abs(float(found.total) / expected.total - 1) < 1e-12
    assert abs(float(found.equiv) / expected.equiv - 1) < 1e-9


def test_several_scalars_tuples_and_plain_numbers() -> None:
    model, x1 = flow(), data()

    def step() -> tuple[Tensor, float, str]:
        loss = (model(x1, x1[:, 0, 0])).square().mean()
        return loss, float(loss.detach()), "not a number"

    found = ep.Probe(model, PLAIN, center="origin").replay(step, PLAN)
    assert list(found.scalars) == ["0", "1"]
    assert abs(float(found.scalars["0"].equiv) - float(found.scalars["1"].equiv)) < 1e-15


@pytest.mark.slow
def test_per_structure_rotations_are_closer_to_the_truth(matrix: Tensor) -> None:
    """The same loss with rotations of each structure's own scatters less; both are centred on the closed form."""
    planted = LinearField(matrix)
    model, x = Planted(planted), data(40)
    exact = sum(planted.equiv(one)["forces"] for one in x) / 40
    spread = []
    for own in (False, True):
        probe = ep.Probe(model, FORCES)
        step = lambda: (model(x)["forces"] - x).square().mean()  # noqa: E731
        plan = ep.RotationPlan("haar", 2)
        values = torch.tensor([probe.replay(step, plan, per_structure=own).equiv for _ in range(60)])
        assert abs(values.mean() - exact) < 4 * values.std() / 60**0.5
        spread.append(float(values.std()))
    assert spread[1] < spread[0] / 2


def test_dropout_and_noise_are_those_of_the_users_own_run() -> None:
    """In train mode every rotation sees the same dropout mask: an equivariant network with dropout is equivariant."""

    class Dropped(nn.Module):
        def forward(self, pos: Tensor) -> Tensor:
            keep = nn.functional.dropout(torch.ones(pos.shape[:2], dtype=pos.dtype), 0.5, self.training)
            return (pos - pos.mean(1, keepdim=True)) * keep[..., None]

    x = data()
    schema = ep.Schema({"pos": ep.point}, {"0": ep.vector})
    model = Dropped().train()
    found = ep.Probe(model, schema).replay(lambda: (model(x) - torch.randn_like(x)).square().mean(), PLAN)
    assert abs(found.equiv) < 1e-14
    assert abs(found.total - float(found.result)) < 1e-14


def test_self_mutating_models_and_results_read_from_the_batch() -> None:
    torch.manual_seed(0)
    model, batch = Mutating(), mutating_batch()
    targets = torch.randn(12, 3, dtype=torch.float64)

    def returned() -> Tensor:
        return (model(batch)["forces"] - targets).square().mean()

    def read_from_the_batch() -> Tensor:
        model(batch)
        return (batch["forces"] - targets).square().mean()

    values = [ep.Probe(model, MUTATING).replay(step, PLAN) for step in (returned, read_from_the_batch)]
    assert values[0].equiv == values[1].equiv > 0
    assert values[0].total == values[1].total


def test_a_step_that_trains_is_refused() -> None:
    model, x = Noisy(), torch.randn(8, 4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(x)["forces"].square().mean()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(ep.EquivProbeError, match="changes the model's weights"):
        ep.Probe(model, FORCES).replay(step)


def test_the_cube_is_averaged_exactly() -> None:
    model, x1 = flow(), data()
    found = ep.Probe(model, PLAIN, center="origin").replay(
        lambda: model(x1, x1[:, 0, 0]).square().mean(), ep.RotationPlan("cube")
    )
    orbit = torch.stack([model(x1 @ g.mT, x1[:, 0, 0]) @ g for g in ep.RotationPlan("cube").rotations()[0]]).detach()
    assert abs(found.equiv / float((orbit - orbit.mean(0)).square().mean()) - 1) < 1e-10


class Reading(nn.Module):
    """Reads a dict in which a label lies under the name of its output, and writes something else into it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs["features"] = self.layer(inputs["pos"])
        return {"forces": inputs["features"]}


def test_a_label_of_an_outputs_name_is_no_output() -> None:
    torch.manual_seed(0)
    model, label = Reading(), data(seed=1)
    batch = {"pos": data(), "forces": label}
    schema = ep.Schema({"pos": ep.vector}, {"forces": ep.vector})
    found = ep.Probe(model, schema).replay(lambda: (model(batch)["forces"] - batch["forces"]).square().mean(), PLAN)
    plain = ep.Probe(model, schema).replay(lambda: (model({"pos": data()})["forces"] - label).square().mean(), PLAN)
    assert batch["forces"] is label
    assert found.total == pytest.approx(plain.total, rel=1e-12)
    assert found.equiv == pytest.approx(plain.equiv, rel=1e-9)


def test_a_loss_that_couples_structures_rotates_them_alike_if_asked() -> None:
    """The distance of two structures' predictions, of ``f(x) = M x``: one rotation for both has a closed form."""
    matrix = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    model = torch.nn.Linear(3, 3, bias=False).double()
    model.weight.data = matrix
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    schema = ep.Schema({"input": ep.vector}, {"0": ep.vector})
    # E‖gᵀ M g d‖² − ‖tr(M)/3 d‖² of the difference d, which rotates as one
    exact = (6 / 3 - (4 / 3) ** 2) * float((x[0] - x[1]).square().mean())
    found = {}
    for alike in (False, None):
        probe = ep.Probe(model, schema, ep.RotationPlan("icosahedral", 2), full=1, every=1, cost=None)
        model.eval()
        probe.step(lambda: (model(x)[0] - model(x)[1]).square().mean(), per_structure=alike)
        found[alike] = probe.compute()["equiv/val/loss/L_equiv"]
    assert abs(found[False] / exact - 1) < 1e-9
    assert abs(found[None] / exact - 1) > 0.1, "each by its own: another question"


def test_an_empty_batch_is_said_to_be_empty() -> None:
    with ep.Probe(Energy().train(), BOTH, every=1) as probe, pytest.raises(ep.EquivProbeError, match="an empty batch"):
        probe.model(torch.zeros(0, 4, 3, dtype=torch.float64))


@pytest.mark.parametrize("grad", [True, False])
def test_a_step_that_writes_into_the_output(grad: bool) -> None:
    """In training the output must be no leaf; in evaluation the kept predictions must stay what they are."""
    net, x, y = torch.nn.Linear(3, 3).double(), data(), data(seed=1)
    schema = ep.Schema({"input": ep.vector}, {"0": ep.vector})

    def writing() -> Tensor:
        output = net(x)
        output -= y
        return output.square().mean()

    with torch.set_grad_enabled(grad):
        found, plain = (
            ep.Probe(net, schema).replay(step, PLAN) for step in (writing, lambda: (net(x) - y).square().mean())
        )
    assert (found.total, found.equiv) == (plain.total, plain.equiv)


@pytest.mark.parametrize("design", ["tetrahedral", "haar"])
def test_one_replicate_of_random_rotations_is_refused_in_words(design: str) -> None:
    """By a replay as by a loss that is a function of the weights."""
    net, x = nn.Linear(3, 3, bias=False), torch.randn(2, 4, 3)
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"output": ep.vector})
    plan = ep.RotationPlan(design, replicates=1)

    def step() -> Tensor:
        return net(x).square().mean()

    with pytest.raises(ep.EquivProbeError, match="one replicate"):
        ep.Probe(net, schema).replay(step, plan)
    with pytest.raises(ep.EquivProbeError, match="one replicate"):
        ep.analysis.OrbitLoss.of_step(net, step, plan, schema=schema).accumulate(lambda one: [one.mean])
