"""Replays of networks as users have them: hooks of their own, layers not yet made, labels that are missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

import equiv_probe as ep
from equiv_probe.schema.batch_layout import first_equal

from ..live_models import FORCES, Unseen

PLAN = ep.RotationPlan("tetrahedral", 2)


class Linear(nn.Module):
    """``f(x) = A x`` about the centroid, with a body that the test chooses."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pos: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        del y
        return {"forces": self.body(pos - pos.mean(-2, keepdim=True))}


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pos, y = torch.randn(2, 6, 5, 3, generator=generator, dtype=torch.float64)
    return pos, y


def squares(factor: float, matrix: Tensor, x: Tensor) -> float:
    """``L_equiv`` of squared error of ``x -> factor A x``: the tetrahedral group averages it exactly."""
    x = factor * (x - x.mean(-2, keepdim=True))
    return float(x.square().mean() * (matrix.square().sum() / 3 - matrix.trace() ** 2 / 9))


def scaled_in_place(module: nn.Module, args: Any, output: dict[str, Tensor]) -> None:
    del module, args
    output["forces"] = 1.5 * output["forces"]


@pytest.mark.parametrize("in_place", [False, True])
def test_hooks_of_the_user_are_part_of_the_network(in_place: bool) -> None:
    """Scaling the input by 2 and the output by 1.5 counts once, and an observer sees the output that is substituted."""
    torch.manual_seed(0)
    model = Linear(nn.Linear(3, 3, bias=False, dtype=torch.float64))
    model.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    if in_place:
        model.register_forward_hook(scaled_in_place)
    else:
        model.register_forward_hook(lambda module, args, out: {name: 1.5 * value for name, value in out.items()})
    pos, y = data()
    found = ep.Probe(model, FORCES).replay(lambda: (model(pos)["forces"] - y).square().mean(), PLAN)
    assert found.equiv == pytest.approx(squares(3.0, model.body.weight.detach(), pos), rel=1e-10)
    before = len(model._forward_hooks), len(model._forward_pre_hooks)
    assert before == (1, 1), "the replay's own are gone"


def test_lazy_layers_are_made_in_the_users_own_run() -> None:
    pos, y = data()
    weights = []
    for probing in (False, True):
        torch.manual_seed(0)
        model = Linear(nn.LazyLinear(3, bias=False, dtype=torch.float64))

        def step(model: nn.Module = model) -> Tensor:
            return (model(pos)["forces"] - y).square().mean()

        if probing:
            found = ep.Probe(model, FORCES).replay(step, PLAN)
            assert found.equiv == pytest.approx(squares(1.0, model.body.weight.detach(), pos), rel=1e-10)
        else:
            step()
        weights.append(model.body.weight.detach())
    assert torch.equal(*weights)


def test_missing_labels_among_the_inputs_are_the_same_question() -> None:
    """A label that is missing is NaN, which equals nothing: not even itself."""
    torch.manual_seed(0)
    model = Linear(nn.Linear(3, 3, bias=False, dtype=torch.float64))
    pos, y = data()
    y[0] = torch.nan
    schema = ep.Schema(inputs={"pos": ep.point, "y": ep.fixed}, outputs={"forces": ep.vector})
    found = ep.Probe(model, schema).replay(
        lambda: (model(pos, y)["forces"] - y)[1:].square().mean(), PLAN, per_structure=True
    )
    assert found.equiv == pytest.approx(squares(1.0, model.body.weight.detach(), pos[1:]), rel=1e-10)
    calls = Unseen(0)
    with pytest.raises(ep.EquivProbeError, match="asks the network something else"):
        ep.Probe(model, schema).replay(lambda: model(pos, y + calls.next())["forces"].square().mean(), PLAN)


@dataclasses.dataclass
class Output:
    forces: Tensor
    hidden: Any = None


class PuttingOut(Linear):
    """Puts out a form that the test chooses."""

    def __init__(self, form: Any) -> None:
        super().__init__(nn.Linear(3, 3, bias=False, dtype=torch.float64))
        self.form = form

    def forward(self, pos: Tensor, y: Tensor | None = None) -> Any:
        return self.form(super().forward(pos, y)["forces"])


def test_a_dataclass_is_read_without_a_schema() -> None:
    model, (pos, _) = PuttingOut(Output), data()
    with ep.Probe(model, light=PLAN, every=1) as probe:
        model(pos)
    found = probe.compute()["equiv/train/forces/L_equiv"]
    assert found == pytest.approx(squares(1.0, model.body.weight.detach(), pos), rel=1e-10)


def test_nested_outputs_are_read_and_given_back_in_their_own_form() -> None:
    model, (pos, y) = PuttingOut(lambda f: {"out": {"forces": f}}), data()
    with ep.Probe(model, light=PLAN, every=1) as probe:
        loss = probe.step(lambda: (model(pos)["out"]["forces"] - y).square().mean())
        model(pos)
    found = probe.compute()
    expected = squares(1.0, model.body.weight.detach(), pos)
    assert found["equiv/train/loss/L_equiv"] == pytest.approx(expected, rel=1e-10)
    assert found["equiv/train/out.forces/L_equiv"] == pytest.approx(expected, rel=1e-10)
    assert loss.requires_grad


@pytest.mark.parametrize("form", [lambda f: {"out": [f]}, lambda f: None])
def test_an_answer_without_tensors_is_an_error_that_says_so(form: Any) -> None:
    model, (pos, _) = PuttingOut(form), data()
    with ep.Probe(model, every=1), pytest.raises(ep.EquivProbeError, match="an output without tensors"):
        model(pos)


def test_modules_beside_the_network_are_found_in_the_step() -> None:
    """A head with running statistics and a metric, which nobody told the probe about."""

    def train(probing: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model, head = Linear(nn.Linear(3, 3, dtype=torch.float64)), nn.BatchNorm1d(5, dtype=torch.float64)
        metric, (pos, y) = MeanMetric(), data()
        optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)

        def loss_of(output: Tensor) -> Tensor:
            loss = (head(output) - y).square().mean()
            metric.update(loss.detach())
            return loss

        probe = ep.Probe(model, FORCES, every=1)
        for _ in range(3):
            step = lambda: loss_of(model(pos)["forces"])  # noqa: E731
            loss = probe.step(step) if probing else step()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert not probe.failures
        counted = torch.tensor(metric._update_count)
        return [*model.state_dict().values(), *head.state_dict().values(), metric.compute(), counted]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


def test_a_step_that_trains_a_module_beside_the_network_is_not_run_again() -> None:
    model, teacher, (pos, y) = Linear(nn.Linear(3, 3)).double(), nn.Linear(3, 3).double(), data()

    def step() -> Tensor:
        with torch.no_grad():
            teacher.weight.lerp_(model.body.weight, 0.1)
        return (model(pos)["forces"] - teacher(y)).square().mean()

    with pytest.raises(ep.EquivProbeError, match="changes the model's weights"):
        ep.Probe(model, FORCES).replay(step, PLAN)
    with ep.Probe(model, FORCES) as probe, pytest.warns(UserWarning, match="changes the model's weights"):
        probe.step(step)
    assert set(probe.running) == {("train", "forces")}


def test_guidance_in_one_doubled_batch_is_one_network() -> None:
    """The copies of a structure are evaluated by one ``h_g``: ``1.5 h − 0.5 h`` is h, whose variance is known."""
    torch.manual_seed(0)
    model, (pos, y) = Linear(nn.Linear(3, 3, bias=False, dtype=torch.float64)), data()

    def step() -> Tensor:
        with_class, without = model(torch.cat([pos, pos]))["forces"].chunk(2)
        return (1.5 * with_class - 0.5 * without - y).square().mean()

    found = ep.Probe(model, FORCES).replay(step, PLAN)
    assert found.equiv == pytest.approx(squares(1.0, model.body.weight.detach(), pos), rel=1e-10)


def test_alike_structures_are_found_in_both_layouts() -> None:
    pos, _ = data()
    dense = pos[[0, 1, 0, 2, 1]]
    assert first_equal(dense, None, 5).tolist() == [0, 1, 0, 3, 1]
    index = torch.arange(5).repeat_interleave(5)
    assert first_equal(dense.flatten(0, 1), index, 7).tolist() == [0, 1, 0, 3, 1, 5, 5], "two structures without atoms"
