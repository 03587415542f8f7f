"""Augmentation by hooks equals rotating data and labels by hand, in value and in gradient."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from ..live_models import BOTH, FORCES, MUTATING, Energy, Mutating, Noisy, mutating_batch

SAME = 1e-12


def data(seed: int, count: int = 6, atoms: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, atoms, 3, generator=generator, dtype=torch.float64) + 2.0


def rotated(x: Tensor, g: Tensor) -> Tensor:
    centre = x.mean(1, keepdim=True)
    return (x - centre) @ g.mT + centre


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        assert (one - other).abs().max() < SAME * other.abs().max().clamp_min(1)


@pytest.mark.parametrize("inside", [True, False], ids=["forces inside", "forces outside"])
def test_equals_explicit_rotation_of_data_and_labels(inside: bool) -> None:
    torch.manual_seed(0)
    model = Energy(inside=inside).train()
    x, energies, forces = data(0), data(1)[:, 0, 0], data(2)
    schema = BOTH if inside else ep.Schema({"pos": ep.point}, {"energy": ep.scalar})

    def loss_of(pos: Tensor, target: Tensor) -> Tensor:
        pos = pos.clone().requires_grad_()
        found = model(pos)
        if not inside:
            (gradient,) = torch.autograd.grad(found["energy"].sum(), pos, create_graph=True)
            found = {**found, "forces": -gradient}
        return (found["energy"] - energies).square().mean() + (found["forces"] - target).square().mean()

    with ep.augment(model, schema) as augmentation:
        loss = loss_of(x, forces)
    loss.backward()
    by_hooks = gradients(model)
    model.zero_grad()
    g = augmentation.rotations
    by_hand = loss_of(rotated(x, g), forces @ g.mT)
    by_hand.backward()
    assert abs(float((loss - by_hand).detach())) < SAME * float(by_hand.detach())
    assert_same(by_hooks, gradients(model))
    model.zero_grad()
    plain = loss_of(x, forces)
    assert abs(float((plain - by_hand).detach())) > 1e-3, "negative control: the rotation matters"


def test_batch_norm_and_dropout_see_the_rotated_data() -> None:
    torch.manual_seed(0)
    model = Noisy().double().train()
    twin, x, y = copy.deepcopy(model), data(0), data(1)
    with ep.augment(model, FORCES) as augmentation:
        torch.manual_seed(3)
        loss = (model(x)["forces"] - y).square().mean()
        loss.backward()
    g = augmentation.rotations
    torch.manual_seed(3)
    by_hand = (twin(rotated(x, g))["forces"] - y @ g.mT).square().mean()
    by_hand.backward()
    assert abs(float((loss - by_hand).detach())) < SAME
    assert_same(gradients(model), gradients(twin))
    assert_same([b.double() for b in model.buffers()], [b.double() for b in twin.buffers()])


def test_rotations_are_haar_fresh_and_one_for_each_structure() -> None:
    model = Noisy().train()
    with ep.augment(model, FORCES) as augmentation:
        drawn = []
        for _ in range(250):
            model(torch.randn(8, 4, 3))
            drawn.append(augmentation.rotations)
    g = torch.cat(drawn)
    assert len(g) == 2000
    assert torch.allclose(torch.linalg.det(g), torch.ones(2000, dtype=torch.float64))
    assert g.mean(0).abs().max() < 4 / (3 * 2000) ** 0.5  # E g = 0, E g_ij² = 1/3
    assert (g.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 2000) ** 0.5
    with ep.augment(model, FORCES, improper=True) as augmentation:
        signs = []
        for _ in range(50):
            model(torch.randn(8, 4, 3))
            signs.append(torch.linalg.det(augmentation.rotations))
    assert abs(torch.cat(signs).mean()) < 4 / 400**0.5


def test_only_in_train_mode_and_gone_after_removal() -> None:
    model, x = Noisy().eval(), torch.randn(8, 4, 3)
    plain = model(x)["forces"]
    augmentation = ep.augment(model, FORCES)
    assert torch.equal(model(x)["forces"], plain)
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.BatchNorm1d)):
            module.eval()
    assert not torch.allclose(model(x)["forces"], plain)
    augmentation.remove()
    assert torch.equal(model(x)["forces"], plain)


def test_the_global_random_state_and_the_batch_are_untouched() -> None:
    torch.manual_seed(0)
    model, batch = Mutating(), mutating_batch()
    positions = batch["_positions"]
    kept, state = positions.clone(), torch.get_rng_state()
    with ep.augment(model, MUTATING):
        outputs = model(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert batch["_positions"] is positions
    assert torch.equal(positions, kept)
    assert torch.equal(batch["forces"], outputs["forces"]), "what the model writes is rotated back there too"
    assert outputs["energy"].requires_grad


@pytest.mark.parametrize("make", [lambda: (Noisy(), torch.randn(8, 4, 3)), lambda: (Energy(), data(0))])
def test_the_schema_is_inferred_without_a_trace(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for schema in (None, FORCES if isinstance(make()[0], Noisy) else BOTH):
        torch.manual_seed(0)
        model, x = make()
        with ep.augment(model, schema):
            results.append(model(x)["forces"].detach())
        assert all(m.training for m in model.modules())
    assert torch.equal(*results)


def test_probe_and_augmentation_together() -> None:
    """The probe measures the model, not the augmented model, and changes nothing of the training."""
    runs = []
    for probing in (False, True):
        torch.manual_seed(0)
        model = Noisy().train()
        with ep.augment(model, FORCES), ep.Probe(model, FORCES, every=1) if probing else nullcontext() as probe:
            torch.manual_seed(1)
            runs.append([model(torch.randn(8, 4, 3))["forces"] for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert probe.running["train", "forces"].everything.count == 24


def test_replay_of_an_augmented_model_is_in_the_datas_frame() -> None:
    torch.manual_seed(0)
    model = Energy().train()
    x, y = data(0), data(1)
    plan = ep.RotationPlan("klein", 2)
    values = []
    for context in (nullcontext(), ep.augment(model, BOTH)):
        with context:
            probe = ep.Probe(model, BOTH)
            values.append(probe.replay(lambda: (model(x)["forces"] - y).square().mean(), plan).equiv)
    assert values[0] == values[1]


def test_a_resumed_augmentation_goes_on_with_the_same_rotations() -> None:
    model, x = Noisy().double().train(), data(0)
    with ep.augment(model, FORCES, seed=3) as augmentation:
        model(x)
        state = augmentation.state_dict()
        model(x)
        expected = augmentation.rotations
    with ep.augment(model, FORCES, seed=3) as again:
        model(x)
        first = again.rotations
        again.load_state_dict(state)
        model(x)
        assert torch.equal(again.rotations, expected)
        assert not torch.equal(first, expected)  # without the state it would begin anew
