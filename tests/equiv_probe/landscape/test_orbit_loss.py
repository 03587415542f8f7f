"""The decomposed loss as a function of the weights: values, gradients and curvature against closed forms."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from ..live_models import BOTH, FORCES, MUTATING, Energy, Mutating, mutating_batch
from .planted_losses import EYE, Forces, draw, equiv_of

if TYPE_CHECKING:
    from collections.abc import Callable

TETRAHEDRAL = ep.RotationPlan("tetrahedral", replicates=2, seed=3)


def slopes(loss: ep.analysis.OrbitLoss, directions: list[Tensor]) -> Tensor:
    """Of the three losses along a direction in each parameter ``(P, 3)``, by central differences.

    Their error is about 1e-9 in float64 with steps of 1e-5 for functions of order one.
    """
    found = []
    with torch.no_grad():
        for parameter, direction in zip(loss.parameters.values(), directions, strict=True):
            kept, values = parameter.clone(), []
            for shift in (1e-5, -1e-5):
                parameter.copy_(kept + shift * direction)
                values.append(torch.stack(list(loss())))
            parameter.copy_(kept)
            found.append((values[0] - values[1]) / 2e-5)
    return torch.stack(found)


def gradients(loss: ep.analysis.OrbitLoss, which: int) -> list[Tensor]:
    given = list(loss.parameters.values())
    return list(torch.autograd.grad(loss()[which], given, allow_unused=True, materialize_grads=True))


def require_slopes(loss: ep.analysis.OrbitLoss) -> None:
    directions = [draw(*one.shape, seed=k) for k, one in enumerate(loss.parameters.values())]
    along = [
        torch.stack([(g * v).sum() for g, v in zip(gradients(loss, which), directions, strict=True)])
        for which in range(3)
    ]
    torch.testing.assert_close(torch.stack(along, 1), slopes(loss, directions), rtol=1e-6, atol=1e-7)


def test_closed_form_of_values_gradients_and_curvature() -> None:
    model, x, y = Forces(), draw(6, 5, 3), draw(6, 5, 3, seed=2)
    loss = ep.analysis.OrbitLoss(model, x, y, FORCES, TETRAHEDRAL, center="origin")
    total, mean, equiv = loss()
    w = model.matrix.detach()
    of_mean, (expected_equiv, of_equiv) = 2 / 3 * ((w.trace() / 3 * x - y) * x).mean() * EYE, equiv_of(w, x)
    torch.testing.assert_close(mean.detach(), (w.trace() / 3 * x - y).square().mean())
    torch.testing.assert_close(equiv.detach(), expected_equiv)
    torch.testing.assert_close(total, mean + equiv)
    torch.testing.assert_close(gradients(loss, 1)[0], of_mean)
    torch.testing.assert_close(gradients(loss, 2)[0], of_equiv)
    # Negative control: without averaging the slope is another one.
    identity = 2 * ((x @ w.T - y).mT @ x).sum(0) / x.numel()
    assert (identity - of_mean).norm() > 0.1 * of_mean.norm()
    # H v of L_equiv: the same linear map of v.
    v = draw(3, 3, seed=5)
    (gradient,) = torch.autograd.grad(loss().equiv, [model.matrix], create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), [model.matrix])
    torch.testing.assert_close(product, equiv_of(v, x)[1])


@pytest.mark.parametrize("name", ["mse", "mae-norm", "huber"])
@pytest.mark.parametrize("plan", [ep.RotationPlan("haar", replicates=3), TETRAHEDRAL, ep.RotationPlan("cube")])
def test_values_are_those_of_decompose(name: str, plan: ep.RotationPlan) -> None:
    model, x = Energy().train(), draw(5, 4, 3)
    targets = {"energy": draw(5, seed=3), "forces": draw(5, 4, 3, seed=4)}
    mask = {"forces": torch.arange(20).reshape(5, 4, 1) % 3 != 0}
    factors = {"energy": 0.5, "forces": 2.0}
    loss = ep.analysis.OrbitLoss(model, x, targets, BOTH, plan, loss=name, mask=mask, coefficients=factors)
    orbit = ep.twirl(model, x, BOTH, plan, floor=0)
    expected = ep.decompose(orbit, targets, name, structures="leading", mask=mask, coefficients=factors)
    for found in (loss(), *([loss_without_graph(loss)])):
        for value, wanted in zip(found, (expected.total, expected.mean, expected.equiv), strict=True):
            assert value.item() == pytest.approx(wanted, rel=1e-11)
    assert loss.structures == 5


def loss_without_graph(loss: ep.analysis.OrbitLoss) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = loss()
    assert not any(value.requires_grad for value in found)
    return found


def test_gradients_through_forces_that_are_derivatives() -> None:
    model, x = Energy().train(), draw(3, 4, 3)
    targets = {"energy": draw(3, seed=3), "forces": draw(3, 4, 3, seed=4)}
    require_slopes(ep.analysis.OrbitLoss(model, x, targets, BOTH, TETRAHEDRAL, loss="huber-norm"))


def test_forces_without_a_graph_are_an_error() -> None:
    model, x = Energy().eval(), draw(3, 4, 3)
    loss = ep.analysis.OrbitLoss(model, x, {"forces": draw(3, 4, 3, seed=4)}, BOTH, TETRAHEDRAL)
    with pytest.raises(ep.EquivProbeError, match=r"model\.train\(\)"):
        loss()


def test_without_labels_only_the_symmetry_error_is_known() -> None:
    model, x = Forces(), draw(6, 5, 3)
    loss = ep.analysis.OrbitLoss(model, x, None, FORCES, TETRAHEDRAL)
    labelled = ep.analysis.OrbitLoss(model, x, x, FORCES, TETRAHEDRAL)
    assert loss().total.isnan()
    assert loss().mean.isnan()
    torch.testing.assert_close(gradients(loss, 2), gradients(labelled, 2))


def test_pieces_add_up_also_when_memory_runs_out() -> None:
    model, x = Energy().train(), draw(7, 4, 3)
    targets = {"energy": draw(7, seed=3), "forces": draw(7, 4, 3, seed=4)}
    loss = ep.analysis.OrbitLoss(model, x, targets, BOTH, TETRAHEDRAL)
    sizes = []

    def gradient(piece: tuple[Tensor, ...]) -> list[Tensor]:
        return list(torch.autograd.grad(piece[1], list(loss.parameters.values())))

    def needy(batch: dict[str, Tensor]) -> None:
        sizes.append(len(batch) // 24)

    expected = gradients(loss, 1)
    summed = [sum(values) for values in zip(*(gradient(piece()) for piece in loss.pieces(3)), strict=True)]
    torch.testing.assert_close(summed, expected)
    original = model.forward

    def limited(pos: Tensor) -> dict[str, Tensor]:
        needy(pos)
        if len(pos) > 2 * 24:
            raise torch.OutOfMemoryError("out of memory")
        return original(pos)

    model.forward = limited  # type: ignore[method-assign]
    torch.testing.assert_close(loss.accumulate(gradient), expected)
    assert max(sizes) == 7
    assert sizes[-1] <= 2


def test_a_list_of_batches_is_one_loss() -> None:
    model, x, y = Forces(), draw(7, 5, 3), draw(7, 5, 3, seed=2)
    whole = ep.analysis.OrbitLoss(model, x, y, FORCES, TETRAHEDRAL)
    listed = ep.analysis.OrbitLoss(model, [x[:2], x[2:]], [y[:2], y[2:]], FORCES, TETRAHEDRAL)
    torch.testing.assert_close(listed(), whole())
    torch.testing.assert_close(gradients(listed, 1), gradients(whole, 1))


def test_a_framework_batch_that_the_model_writes_into() -> None:
    model, batch = Mutating().train(), mutating_batch()
    before = {name: value.clone() for name, value in batch.items()}
    targets = {"energy": draw(3), "forces": draw(12, 3, seed=4)}
    schema = ep.Schema(MUTATING.inputs, MUTATING.outputs, batch="_idx_m")
    loss = ep.analysis.OrbitLoss(model, batch, targets, schema, TETRAHEDRAL)
    orbit = ep.twirl(model, {name: value.clone() for name, value in batch.items()}, schema, TETRAHEDRAL, floor=0)
    assert loss().equiv.item() == pytest.approx(ep.decompose(orbit, targets).equiv, rel=1e-11)
    require_slopes(loss)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], value) for name, value in before.items())


class Head(nn.Module):
    """A network with dropout, which is asked with features from a layer outside of it, and with noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 12)).double()

    def forward(self, pos: Tensor, features: Tensor) -> Tensor:
        x = pos - pos.mean(-2, keepdim=True)
        out: Tensor = self.layers(torch.cat([x.flatten(1), features], 1))
        return out.reshape(x.shape)


HEAD = ep.Schema(inputs={"pos": ep.point, "features": ep.fixed}, outputs={"0": ep.vector})


def noisy_step(net: Head, embedding: nn.Embedding, x: Tensor) -> Callable[[], Tensor]:
    kinds = torch.arange(len(x)) % 3

    def step() -> Tensor:
        noisy = x + 0.1 * torch.randn_like(x)
        error = (net(noisy, embedding(kinds)) - x).square().mean()
        return error + 0.01 * embedding.weight.square().sum()

    return step


@pytest.mark.slow
@pytest.mark.parametrize("per_structure", [False, True])
def test_a_step_of_the_users_own(per_structure: bool) -> None:
    torch.manual_seed(0)
    net, embedding, x = Head().train(), nn.Embedding(3, 4).double(), draw(5, 4, 3)
    step = noisy_step(net, embedding, x)
    plan = ep.RotationPlan("haar", replicates=3)
    loss = ep.analysis.OrbitLoss.of_step(net, step, plan, schema=HEAD, per_structure=per_structure)
    assert len(loss.parameters) == 5
    first = loss()
    torch.rand(3)  # whatever was drawn in the meantime, the random state is that of the construction
    state = torch.get_rng_state()
    second = loss()
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # the same noise and the same dropout each time
    torch.testing.assert_close(loss_without_graph(loss), tuple(v.detach() for v in first))
    require_slopes(loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None for value in loss.parameters.values())


@pytest.mark.slow
def test_a_step_gives_what_the_data_give() -> None:
    model, x = Energy().train(), draw(3, 4, 3)
    energy, forces = draw(3, seed=3), draw(3, 4, 3, seed=4)

    def step() -> dict[str, Tensor]:
        out = model(x)
        return {"loss": (out["energy"] - energy).square().mean() + (out["forces"] - forces).square().mean()}

    by_step = ep.analysis.OrbitLoss.of_step(model, step, TETRAHEDRAL, schema=BOTH)
    of_data = ep.analysis.OrbitLoss(model, x, {"energy": energy, "forces": forces}, BOTH, TETRAHEDRAL)
    torch.testing.assert_close(by_step(), of_data())
    for which in range(3):
        torch.testing.assert_close(gradients(by_step, which), gradients(of_data, which))


def test_forces_that_the_step_takes_itself() -> None:
    model, x, forces = Energy(inside=False).train(), draw(3, 4, 3), draw(3, 4, 3, seed=4)

    def step() -> Tensor:
        pos = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(pos)["energy"].sum(), pos, create_graph=True)
        return (-slope - forces).square().mean()

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar})
    loss = ep.analysis.OrbitLoss.of_step(model, step, ep.RotationPlan("haar", replicates=3), schema=schema)
    inside = Energy().train()
    inside.load_state_dict(model.state_dict())
    of_data = ep.analysis.OrbitLoss(inside, x, {"forces": forces}, BOTH, ep.RotationPlan("haar", replicates=3))
    torch.testing.assert_close(loss(), of_data())
    torch.testing.assert_close(gradients(loss, 1)[:3], gradients(of_data, 1)[:3])


def test_blocks_are_of_different_rotations_and_structures() -> None:
    model, x, y = Forces(), draw(6, 5, 3), draw(6, 5, 3, seed=2)
    plan = ep.RotationPlan("haar", replicates=5)
    loss = ep.analysis.OrbitLoss(model, x, y, FORCES, plan, per_structure=True)
    by_rotation, by_structure = loss.blocks(2), loss.blocks(3, "structures")
    assert [one.replicates for one in by_rotation] == [2, 3]
    assert [one.structures for one in by_structure] == [2, 2, 2]
    torch.testing.assert_close(sum(one().equiv for one in by_structure) / 3, loss().equiv)
    total = (2 * by_rotation[0]().total + 3 * by_rotation[1]().total) / 5
    torch.testing.assert_close(total, loss().total)
    alike = ep.analysis.OrbitLoss(model, x, y, FORCES, plan)
    with pytest.raises(ep.EquivProbeError, match="per_structure=True"):
        alike.blocks(2, "structures")
    with pytest.raises(ep.EquivProbeError, match="replicates=8"):
        alike.blocks(3)


def test_lines_in_parameter_space_are_smooth() -> None:
    """Along a line the linear model's losses are parabolas: third differences vanish to rounding."""
    model, x, y = Forces(), draw(6, 5, 3), draw(6, 5, 3, seed=2)
    loss, direction = (
        ep.analysis.OrbitLoss(model, x, y, FORCES, ep.RotationPlan("haar", replicates=2)),
        draw(3, 3, seed=9),
    )
    start, rows = model.matrix.detach().clone(), []
    with torch.no_grad():
        for step in range(4):
            model.matrix.copy_(start + step * direction)
            rows.append(torch.stack(list(loss())))
    third = rows[3] - 3 * rows[2] + 3 * rows[1] - rows[0]
    assert third.abs().max() < 1e-10 * rows[3].abs().max()


def test_old_names_of_arguments_give_the_same_and_warn() -> None:
    model, x, y = Forces(), draw(6, 5, 3), draw(6, 5, 3, seed=2)
    plan = ep.RotationPlan("haar", replicates=4)
    loss = ep.analysis.OrbitLoss(model, x, y, FORCES, plan, per_structure=True, stacked=False)
    with pytest.warns(DeprecationWarning, match=r"stack of OrbitLoss\(\) is now called stacked"):
        old = ep.analysis.OrbitLoss(model, x, y, FORCES, plan, per_structure=True, stack=False)  # type: ignore[call-arg]
    torch.testing.assert_close(old(), loss())
    with pytest.warns(DeprecationWarning, match="is now called of"):
        by_structure = loss.blocks(3, over="structures")  # type: ignore[call-arg]
    assert [one.structures for one in by_structure] == [2, 2, 2]
    new = ep.analysis.gradients(loss, blocks="structures", n_blocks=3)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = ep.analysis.gradients(loss, over="structures", blocks=3)  # type: ignore[call-arg, arg-type]
        assert found.over == new.blocks == "structures"
        line = ep.analysis.along_line(loss, steps=[0.1], over="structures", progress=False)  # type: ignore[call-arg]
        assert line.over == line.blocks == line.to_dict()["over"] == "structures"
    assert found.to_dict() == new.to_dict()
    assert [str(one.message).partition(": ")[2] for one in heard] == [
        "the argument blocks of gradients() is now called n_blocks",
        "the argument over of gradients() is now called blocks",
        "Gradients.over is now called Gradients.blocks",
        "the argument over of along_line() is now called blocks",
        "Line.over is now called Line.blocks",
    ]
    assert {one.filename for one in heard} == {__file__}
