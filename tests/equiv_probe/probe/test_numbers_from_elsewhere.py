"""Steps whose numbers do not come from what the network returns: a zero that nobody earned is said to be one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.probe.step_checks import SEES_OUTPUTS

from .test_controls import PLAN, VECTORS, Field, data, failed

if TYPE_CHECKING:
    from collections.abc import Callable


class Leaving(Field):
    """Beside its output it leaves that in an attribute, with a further loss."""

    def forward(self, pos: Tensor) -> Tensor:
        self.last = super().forward(pos)
        self.aux = self.last.square().mean()
        return self.last


class Energy(nn.Module):
    """``E = x A x``: forces are its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.field = Field(2.0, 1.0, 1.0)

    def forward(self, pos: Tensor) -> Tensor:
        return (self.field(pos) * (pos - pos.mean(1, keepdim=True))).sum((1, 2))


def measured(network: nn.Module, step: Callable[[], Any], schema: ep.Schema = VECTORS) -> ep.Probe:
    with ep.Probe(network, schema, every=1, light=PLAN, cost=None) as probe:
        for _ in range(2):
            probe.step(step)
    return probe


def test_a_loss_from_what_the_pass_leaves_behind_is_told() -> None:
    network, x = Leaving(2.0, 1.0, 1.0), data()

    def step() -> Tensor:
        network(x)
        return (network.last - x).square().mean()

    probe = measured(network, step)
    assert probe.compute()["equiv/train/loss/L_equiv"] == 0
    assert failed(probe) == [SEES_OUTPUTS]


@pytest.mark.parametrize("elsewhere", ["weights", "another network", "batch"])
def test_a_loss_of_something_else_is_told(elsewhere: str) -> None:
    network, other, x = Field(2.0, 1.0, 1.0), Field(1.0, 1.0, 3.0), data()
    losses = {
        "weights": lambda: other.matrix.square().sum(),
        "another network": lambda: (other(x) - x).square().mean(),
        "batch": lambda: x.square().mean(),
    }

    def step() -> Tensor:
        network(x)
        return losses[elsewhere]()

    assert failed(measured(network, step)) == [SEES_OUTPUTS]


def test_a_further_loss_in_an_attribute_does_not_spoil_the_others() -> None:
    network, x = Leaving(2.0, 1.0, 1.0), data()

    def step() -> dict[str, Tensor]:
        output = network(x)
        return {"loss": (output - x).square().mean(), "aux_loss": network.aux}

    probe = measured(network, step)
    found = probe.compute()
    centred = x - x.mean(1, keepdim=True)
    # ‖A − tr(A)/3‖² = 2/3, in the mean over three components
    expected = (2 / 3) / 3 * centred.square().mean()
    assert found["equiv/train/loss/L_equiv"] == pytest.approx(float(expected), rel=1e-9)
    assert found["equiv/train/aux_loss/L_total"] == pytest.approx(float(network.aux.detach()), rel=1e-9)
    assert failed(probe) == []
    said = [one for one in probe.controls if one.name == SEES_OUTPUTS]
    assert [one.passed for one in said] == [None, None]
    assert "Leaving.last, Leaving.aux: left in attributes" in said[0].sentence
    assert "aux_loss" in said[1].sentence


@pytest.mark.parametrize("seed", range(12))
def test_a_count_that_is_the_same_by_chance_is_no_alarm(seed: int) -> None:
    """Of 15 hits in 30 some displacements leave 15: seen by others of them."""
    network, x = Field(2.0, 1.0, 1.0), data(6, seed)
    probe = measured(network, lambda: (network(x)[..., 0] > 0).double().mean())
    assert SEES_OUTPUTS not in failed(probe)


def test_an_output_that_is_no_tensor_is_named_so() -> None:
    class Numbers(Field):
        def forward(self, pos: Tensor) -> Any:
            return super().forward(pos).detach().numpy()

    network = Numbers(2.0, 1.0, 1.0)
    with pytest.raises(EquivProbeError, match="ndarray, no tensor"):
        measured(network, lambda: torch.tensor(network(data()).mean()))


@pytest.mark.parametrize("kind", ["squared", "cosine", "forces", "forces and energy", "hook"])
def test_losses_of_the_outputs_pass(kind: str) -> None:
    x = data()
    energies = kind.startswith("forces")
    network = Energy() if energies else Field(2.0, 1.0, 1.0)
    schema = ep.Schema({"pos": ep.point}, {"0": ep.scalar}) if energies else VECTORS
    caught: dict[str, Tensor] = {}
    if kind == "hook":
        network.register_forward_hook(lambda *given: caught.__setitem__("output", given[2]))

    def step() -> Tensor:
        if not energies:
            output = network(x)
            if kind == "cosine":
                return 1 - torch.cosine_similarity(output, x, dim=-1).mean()
            return ((caught["output"] if kind == "hook" else output) - x).square().mean()
        pos = x.clone().requires_grad_()
        energy = network(pos)
        (forces,) = torch.autograd.grad(-energy.sum(), pos, create_graph=True)
        loss = (forces - x).square().mean()
        return loss + energy.square().mean() if "and" in kind else loss

    probe = measured(network, step, schema)
    assert failed(probe) == []
    assert probe.compute()["equiv/train/loss/L_equiv"] > 1e-3
    assert any(one.name == SEES_OUTPUTS and one.passed for one in probe.controls)


def test_a_step_that_needs_what_only_a_pass_leaves_is_told_so() -> None:
    """A hook inside of the network does not see the passes that are ours, nor one where its output is replaced."""
    network, x, caught = nn.Sequential(Field(2.0, 1.0, 1.0)), data(), dict[str, Tensor]()
    network[0].register_forward_hook(lambda *given: caught.__setitem__("features", given[2]))

    def step() -> Tensor:
        network(x)
        return (caught.pop("features") - x).square().mean()

    with pytest.raises(KeyError, match="features") as raised:
        measured(network, step, ep.Schema({"input": ep.point}, {"0": ep.vector}))
    assert "return it from Sequential.forward" in raised.value.__notes__[0]
    network.eval()
    probe = ep.Probe(network, ep.Schema({"input": ep.point}, {"0": ep.vector}), every=1, full=1, cost=None)
    probe.step(lambda: (network(x) - x).square().mean())
    caught.clear()
    with pytest.warns(UserWarning, match="KeyError: 'features'"):
        probe.step(step)
    assert probe.failures[0].startswith("KeyError: 'features'")


# Weights that are in the network for the call alone ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copied", "data", "functional_call"])
@pytest.mark.parametrize("stage", ["train", "val"])
def test_weights_that_are_there_for_the_call_alone_are_those_that_are_measured(how: str, stage: str) -> None:
    """A moving average that a step swaps in, and out again: closed form of its ``L_equiv``, not of the trained one."""
    network, x = Field(2.0, 1.0, 1.0), data()
    average = {"matrix": 3 * network.matrix.detach()}
    own = network.matrix.detach().clone()

    def step() -> Tensor:
        if how == "functional_call":
            return (torch.func.functional_call(network, average, (x,)) - x).square().mean()
        held = network.matrix.data
        with torch.no_grad():
            if how == "copied":
                network.matrix.copy_(average["matrix"])
            else:
                network.matrix.data = average["matrix"]
        try:
            return (network(x) - x).square().mean()
        finally:
            with torch.no_grad():
                if how == "copied":
                    network.matrix.copy_(own)
                else:
                    network.matrix.data = held

    network.train(stage == "train")
    with ep.Probe(network, VECTORS, PLAN, every=1, full=1, light=PLAN, cost=None) as probe:
        for _ in range(4):
            probe.step(step)
    expected = 9 * (2 / 3) / 3 * (x - x.mean(1, keepdim=True)).square().mean()
    found = {name: value for name, value in probe.compute().items() if name.endswith("/L_equiv")}
    assert list(found.values()) == pytest.approx([float(expected)], rel=1e-9)
    assert torch.equal(network.matrix, own)


def test_a_network_that_is_called_in_other_threads_is_said_to_be() -> None:
    network, x = Field(2.0, 1.0, 1.0), data()

    def step() -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return (pool.submit(network, x).result() - x).square().mean()

    with pytest.raises(EquivProbeError, match="in other threads than its own"):
        measured(network, step)


def adaptive(error: Tensor) -> Tensor:
    """As of mean flows: a detached weight makes every structure's loss one, and leaves its gradient."""
    error = error.square().sum((1, 2))
    return (error / (error.detach() + 1e-3)).mean()


def capped(error: Tensor) -> Tensor:
    return error.square().sum((1, 2)).clamp(max=1e-3).mean()


@pytest.mark.parametrize("loss", [adaptive, capped])
def test_a_loss_whose_value_does_not_follow_the_outputs_is_told(loss: Callable[[Tensor], Tensor]) -> None:
    network, x = Field(2.0, 1.0, 1.0), data()
    probe = measured(network, lambda: loss(network(x) - x))
    assert probe.compute()["equiv/train/loss/share"] == pytest.approx(0, abs=1e-3)
    assert failed(probe) == [SEES_OUTPUTS]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("constant", [0.0, 1e4])
def test_a_loss_that_hardly_changes_yet_is_believed(size: float, constant: float) -> None:
    """Small outputs of a fresh network beside large labels, or beside a term of something else."""
    network, x = Field(2 * size, size, size), data()
    assert not failed(measured(network, lambda: (network(x) - x).square().mean() + constant))


def test_the_gradient_of_a_small_energy_is_believed() -> None:
    network, x = Energy(), data()

    def step() -> Tensor:
        pos = x.clone().requires_grad_()
        forces = torch.autograd.grad(1e-6 * network(pos).sum(), pos, create_graph=True)[0]
        return (forces - x).square().mean()

    assert not failed(measured(network, step, ep.Schema({"pos": ep.point}, {"0": ep.scalar})))


def test_a_number_of_several_that_does_not_follow_the_outputs_is_noted() -> None:
    network, x = Field(2.0, 1.0, 1.0), data()

    def step() -> dict[str, Tensor]:
        error = network(x) - x
        return {"loss": adaptive(error), "mse": error.square().mean()}

    probe = measured(network, step)
    assert not failed(probe)
    assert any("adaptive weights" in control.sentence for control in probe.report().controls)
