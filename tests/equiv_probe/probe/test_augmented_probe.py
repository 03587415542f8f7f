"""Where an augmentation already rotated the input, the user's own output is one of light mode's two rotations."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.testing import LinearField

from ..live_models import FORCES, Noisy, Planted, Unseen

SEEN = Unseen(0)
"""Structures evaluated; not an attribute of the module, for that is put back after a replay."""


class Counting(nn.Module):
    """``f(x) = x Aᵀ`` about the centroid."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.field = Planted(LinearField(matrix))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        SEEN.number += len(pos)
        return self.field(pos)


class Masked(nn.Module):
    """Equivariant for any one dropout mask, so that two masks look like broken symmetry."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        x = pos - pos.mean(1, keepdim=True)
        return {"forces": x * self.drop(torch.ones(len(x), x.shape[1], 1, dtype=x.dtype))}


def data(count: int, seed: int) -> Tensor:
    return torch.randn(count, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(model: nn.Module, mode: str, repeats: int, *, augmented: bool = True) -> ep.Probe:
    x, y = data(8, 0), data(8, 1)
    with ep.augment(model, FORCES) if augmented else nullcontext(), ep.Probe(model, FORCES, every=1) as probe:
        for _ in range(repeats):
            if mode == "step":
                probe.step(lambda: (model(x)["forces"] - y).square().mean())
            else:
                model(x)
    return probe


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize(("augmented", "forward_passes"), [(True, 2), (False, 3)])
def test_one_more_forward_pass_is_enough(mode: str, augmented: bool, forward_passes: int, matrix: Tensor) -> None:
    model = Counting(matrix)
    with ep.augment(model, FORCES) if augmented else nullcontext():
        probe = ep.Probe(model, FORCES, every=1, stacked=True)
        with probe:
            x = data(8, 0)
            for _ in range(3):  # with the first come the controls, with the first two the floor
                SEEN.number = 0
                if mode == "step":
                    probe.step(lambda: model(x)["forces"].square().mean())
                else:
                    model(x)
    assert SEEN.number == forward_passes * 8, "the user's own among them"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("independent", [True, False], ids=["", "negative-control"])
def test_it_is_unbiased(mode: str, independent: bool, matrix: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over 400 measurements is the closed form within four standard errors."""
    if not independent:  # the second rotation is the augmentation's own again
        monkeypatch.setattr("equiv_probe.rotations.drawing.torch.cat", lambda parts: parts[0].expand(2, -1, -1, -1, -1))
    planted = LinearField(matrix)
    probe = measured(Planted(planted), mode, 400)
    sums = probe.running["train", "loss" if mode == "step" else "forces"].everything
    exact = sum(planted.equiv(one)["forces"] for one in data(8, 0)) / 8
    score = (sums.equiv.value - exact) / max(sums.equiv.stderr, 1e-9)
    assert (abs(score) < 4) == independent
    if mode == "step" and independent:
        twirl = torch.stack([planted.twirl(one)["forces"] for one in data(8, 0)])
        best = float((twirl - data(8, 1)).square().mean())
        assert abs(sums.mean.value - best) < 4 * sums.mean.stderr
        assert abs(sums.total.value - best - exact) < 4 * sums.total.stderr


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("restored", [True, False], ids=["", "negative-control"])
def test_both_predictions_have_the_same_dropout(mode: str, restored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not restored:
        monkeypatch.setattr("equiv_probe.live.random_state.RandomState.restore", lambda self: None)
    torch.manual_seed(0)
    probe = measured(Masked(), mode, 3)
    sums = probe.running["train", "loss" if mode == "step" else "forces"].everything
    assert (sums.equiv.value < 1e-14) == restored, "rounding of the loss, which is near one"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_augmented_training_is_bit_identical(mode: str) -> None:
    """Weights, running statistics and losses of 200 steps with dropout and batch norm."""
    results = []
    for probing in (False, True):
        torch.manual_seed(0)
        model = Noisy()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        probe = ep.Probe(model, FORCES, every=3)
        with ep.augment(model, FORCES), probe if probing else nullcontext():
            for _ in range(200):
                x = torch.randn(8, 4, 3)

                def step(x: Tensor = x, model: nn.Module = model) -> Tensor:
                    return (model(x)["forces"] - 0.3 * x).square().mean()

                loss = probe.step(step) if probing and mode == "step" else step()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
        results.append((losses, [value.clone() for value in model.state_dict().values()], torch.get_rng_state()))
    (without, weights, state), (found, probed, probed_state) = results
    assert without == found
    assert all(torch.equal(a, b) for a, b in zip(weights, probed, strict=True))
    assert torch.equal(state, probed_state)
    assert not probe.failures
    assert probe.running["train", "loss" if mode == "step" else "forces"].everything.count > 60
