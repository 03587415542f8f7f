"""Later noise: every way of drawing it rotates, what cannot rotate is refused by name, and all is put back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from .samplers import langevin, quiet

SHAPE = (6, 4, 3)
OWN = torch.Generator()


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def out_of(shape: Any) -> Tensor:
    place = torch.empty(shape, dtype=torch.float64)
    return torch.randn(shape, dtype=torch.float64, out=place)


def ones(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.randn_like(x).clone()


NORMAL = {
    "randn": lambda x: torch.randn(x.shape, dtype=x.dtype),
    "randn, generator": lambda x: torch.randn(x.shape, dtype=x.dtype, generator=OWN),
    "randn, out": lambda x: out_of(x.shape),
    "randn_like": torch.randn_like,
    "randn_like, float32": lambda x: torch.randn_like(x, dtype=torch.float32).double(),
    "normal, about a tensor": lambda x: torch.normal(x, 0.5) - x,
    "normal, two tensors": lambda x: torch.normal(x, 0.5 * ones(x), generator=OWN) - x,
    "normal, by width": lambda x: torch.normal(0.0, 0.5 * ones(x)),
    "normal, by size": lambda x: torch.normal(0.0, 0.5, x.shape, dtype=x.dtype),
    "normal_": lambda x: torch.empty_like(x).normal_(0.0, 2.0, generator=OWN),
    "Normal.sample": lambda x: torch.distributions.Normal(x, 0.3).sample() - x,
    "Normal.rsample": lambda x: torch.distributions.Normal(0 * x, ones(x)).rsample(),
    "all steps in advance": lambda x: torch.randn(7, *x.shape, dtype=x.dtype)[3],
    "one vector per sample": lambda x: torch.randn(len(x), 1, 3, dtype=x.dtype),
    "vectors in channels": lambda x: torch.randn(len(x), 4, 8, 3, dtype=x.dtype).mean(2),
    "scripted": lambda x: scripted(x) - x,
    "inference mode": inference,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", NORMAL)
def test_normal_noise_rotates_however_it_is_drawn(how: str) -> None:
    """Equivariant to rounding (float32 draws are rotated in float32), and moved by the noise all the same."""
    OWN.manual_seed(1)
    audit = quiet(lambda x: x + NORMAL[how](x), SHAPE)
    assert audit.rms < (1e-6 if "float32" in how else 1e-14)
    fixed = quiet(lambda x: x + NORMAL[how](x), SHAPE, rotates=lambda draw: False)
    assert fixed.rms > 0.1, "negative control: left as it is, the same noise breaks the symmetry"
    assert all(one["turned"] for one in audit.draws)


@torch.jit.script
def scripted_langevin(x: Tensor) -> Tensor:
    for _ in range(5):
        x = 0.9 * x + 0.3 * torch.randn_like(x)
    return x


def test_samplers_without_a_file_of_their_own() -> None:
    """Scripted as a whole, or typed into an interpreter."""
    assert quiet(scripted_langevin, SHAPE).verdict == "round-off"
    assert quiet(scripted_langevin, SHAPE, rotates=lambda draw: False).verdict == "broken"
    names: dict[str, Any] = {"torch": torch}
    exec("def typed(x):\n    return x + torch.randn_like(x)", names)
    audit = quiet(names["typed"], SHAPE)
    assert audit.verdict == "round-off"
    assert audit.draws[0]["where"] == "<string>:2"


def test_noise_has_the_law_that_was_asked_for() -> None:
    """Mean and width of the numbers that take the place of the sampler's own: 5 σ of 60000 of them is 0.02."""
    seen: dict[str, Tensor] = {}

    def sampler(x: Tensor) -> Tensor:
        seen["normal_"] = torch.empty(5000, 4, 3).normal_(1.0, 2.0)
        seen["normal"] = torch.normal(-torch.ones(5000, 4, 3), 0.5)
        seen["randn"] = torch.randn(5000, 4, 3)
        return x

    quiet(sampler, (5000, 4, 3), plan=ep.RotationPlan("haar", 1))
    for name, mean, width in (("normal_", 1.0, 2.0), ("normal", -1.0, 0.5), ("randn", 0.0, 1.0)):
        assert abs(float(seen[name].mean()) - mean) < 0.02 * width
        assert abs(float(seen[name].std()) / width - 1) < 0.02
    assert abs(float((seen["randn"] * seen["normal_"]).mean())) < 0.05, "draws are independent"


def test_initial_and_later_noise_are_independent() -> None:
    kept: list[Tensor] = []

    def sampler(x: Tensor) -> Tensor:
        kept.extend((x, torch.randn_like(x)))
        return x

    quiet(sampler, (5000, 4, 3), plan=ep.RotationPlan("haar", 1))
    assert abs(float((kept[0] * kept[1]).mean())) < 0.02


def test_what_has_no_direction_is_the_same_in_every_frame() -> None:
    """Times, features, orders and choices: an invariant use of them stays equivariant."""
    drawn: list[list[Tensor]] = []

    def sampler(x: Tensor) -> Tensor:
        t = torch.rand(len(x), 1, 1, dtype=x.dtype, generator=OWN)
        features = torch.randn(len(x), 4, 8, dtype=x.dtype)
        order = torch.randperm(4)
        kept = torch.bernoulli(0.5 * torch.ones(len(x), 4, 1, dtype=x.dtype))
        drawn.append([t, features, order, kept])
        return (x * t * features.mean(-1, keepdim=True) * kept)[:, order]

    audit = quiet(sampler, SHAPE)
    assert audit.verdict == "round-off"
    assert all(torch.equal(a, b) for run in drawn[3:] for a, b in zip(drawn[0][1:], drawn[4][1:], strict=True) if run)
    assert not torch.equal(drawn[3][1], drawn[0][1]), "other noise is other noise"
    assert not any(one["turned"] for one in audit.draws)


REFUSED = {
    "uniform": (lambda x: x + torch.rand_like(x), "rand_like of shape"),
    "uniform_": (lambda x: x + torch.empty_like(x).uniform_(-1, 1), "uniform_ of shape"),
    "dropout": (lambda x: nn.functional.dropout(x, 0.5, training=True), "dropout"),
    "bernoulli": (lambda x: x * torch.bernoulli(0.5 * torch.ones_like(x)), "bernoulli"),
    "laplace": (lambda x: x + torch.distributions.Laplace(0 * x, 1.0).sample(), "that are not normal"),
    "numpy": (lambda x: x + torch.from_numpy(np.random.randn(*x.shape)), "NumPy's global random state"),  # noqa: NPY002
    "python": (lambda x: x * random.gauss(), "Python's global random state"),
    "sample by sample": (lambda x: torch.stack([one + torch.randn_like(one) for one in x]), "per_sample=False"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_noise_that_cannot_be_rotated_is_refused_by_name(how: str) -> None:
    sampler, words = REFUSED[how]
    with pytest.raises(ep.EquivProbeError, match=words) as error:
        quiet(sampler, SHAPE)
    assert error.value.fix
    if how in {"uniform", "uniform_", "dropout", "bernoulli", "laplace", "sample by sample"}:
        assert "test_noise.py:" in str(error.value), "where in the sampler's code"


def test_noise_that_nobody_sees_is_found_by_running_again() -> None:
    source = np.random.default_rng(0)
    with pytest.raises(ep.EquivProbeError, match="same noise"):
        quiet(lambda x: 0.5 * x + torch.from_numpy(source.standard_normal(x.shape)), SHAPE)


def test_a_sampler_that_is_not_quite_repeatable_is_said_to_be_so() -> None:
    source = np.random.default_rng(0)
    audit = quiet(lambda x: x + 1e-3 * torch.from_numpy(source.standard_normal(x.shape)), SHAPE)
    assert audit.verdict == "non-deterministic"
    one = audit["end points"]
    assert abs(one.nondeterminism / (1e-3 * 6**0.5) - 1) < 0.3, "the difference of two draws of width 1e-3"


def test_dropout_that_is_off_or_elsewhere_is_no_matter() -> None:
    network = nn.Dropout(0.5)
    features = nn.Dropout(0.5).train()

    def sampler(x: Tensor) -> Tensor:
        weight = features(x.square().sum(-1, keepdim=True)[..., None]).squeeze(-1)
        return network.eval()(x) + nn.functional.dropout(x, 0.0, training=True) * weight

    assert quiet(sampler, SHAPE).verdict == "round-off"


def test_ways_out() -> None:
    one_by_one = REFUSED["sample by sample"][0]
    assert quiet(one_by_one, SHAPE, per_sample=False).verdict == "round-off"
    assert quiet(lambda x: x * float(np.random.rand()), SHAPE, foreign="same").verdict == "round-off"  # noqa: NPY002
    noise = quiet(lambda x: x * torch.rand_like(x), SHAPE, rotates=lambda draw: False)
    assert noise.verdict == "broken"
    assert noise.draws[0]["turned"] is False


def test_a_source_that_the_sampler_takes() -> None:
    """By position or by name; it says itself what has a direction: features of three channels have none."""

    def sampler(x: Tensor, randn: Any) -> Tensor:
        weight = randn(x.shape, rotates=False).mean(-1, keepdim=True)
        return x * weight + randn(len(x), 4, 3) + randn(x, dtype=torch.float64)

    assert quiet(sampler, SHAPE).verdict == "round-off"
    assert quiet(lambda x, steps=3, *, randn: x + randn(x.shape), SHAPE).verdict == "round-off"
    assert quiet(lambda x, source: x + source(x.shape), SHAPE).verdict == "round-off"
    assert quiet(lambda x, source: x + source(x.shape, rotates=False), SHAPE).verdict == "broken"
    with pytest.raises(ep.EquivProbeError, match="arguments"):
        quiet(lambda x, steps, temperature: x, SHAPE)


def test_the_old_name_of_what_has_a_direction() -> None:
    """As ``rotates``, with a warning; the draws are still those of the sampler's own line."""
    with pytest.warns(DeprecationWarning, match="turns of audit_sampler"):
        noise = quiet(lambda x: x * torch.rand_like(x), SHAPE, turns=lambda draw: False)
    assert noise.verdict == "broken"
    with pytest.warns(DeprecationWarning, match="turns of Randn.__call__"):
        old = quiet(lambda x, randn: x + randn(x.shape, turns=False), SHAPE)
    new = quiet(lambda x, randn: x + randn(x.shape, rotates=False), SHAPE)
    assert (old.rms, old.verdict) == (new.rms, "broken")
    assert old.draws[0]["where"].startswith("test_noise.py")


def test_orientations_rotate_from_the_left() -> None:
    """Frames ``(x, R)``: forces by body-fixed vectors are equivariant if R rotates; each frame is a rotation, Haar."""
    kept: list[Tensor] = []

    def sampler(x: Tensor, randn: Any) -> dict[str, Tensor]:
        frames = randn.orientations(len(x), 4)
        kept.append(frames)
        return {"x": x + frames @ torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype), "R": frames}

    audit = quiet(sampler, SHAPE, outputs={"x": ep.point, "R": ep.orientation})
    assert [one.verdict for one in audit.measured] == ["round-off", "round-off"]
    assert (kept[0] @ kept[0].mT - torch.eye(3)).abs().max() < 1e-14
    assert (torch.linalg.det(kept[0]) - 1).abs().max() < 1e-14
    wrong = quiet(sampler, SHAPE, outputs={"R": ep.tensor(2)})
    assert wrong.verdict == "broken", "negative control: columns rotate, rows are local"
    quiet(lambda x, randn: kept.append(randn.orientations(6, 2000)) or x, SHAPE, plan=ep.RotationPlan("haar", 1))
    entries = kept[-1].flatten(0, 1)
    assert entries.mean(0).abs().max() < 0.03  # 12000 rotations, entries of width 0.58: 5 σ
    assert (entries.square().mean(0) - 1 / 3).abs().max() < 0.02


def test_everything_is_put_back() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(4), nn.Dropout(0.1)).double().train()
    own = torch.Generator().manual_seed(5)

    def sampler(x: Tensor) -> Tensor:
        network.train()
        network[1](x)
        network.eval()
        torch.rand(4, generator=own)
        return langevin(x) + 0 * torch.randn(x.shape, generator=own, dtype=x.dtype)

    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), own.get_state()  # noqa: NPY002
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    quiet(sampler, SHAPE)
    with pytest.raises(ep.EquivProbeError):
        quiet(lambda x: sampler(x) + np.random.randn() + torch.rand_like(x), SHAPE)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(own.get_state(), states[3])
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())
    assert torch.is_grad_enabled()


def test_a_seed_gives_the_same_numbers_and_another_others() -> None:
    def sampler(x: Tensor) -> Tensor:
        return langevin(x, 2.0)

    torch.manual_seed(1)
    first = quiet(sampler, SHAPE).rms
    torch.manual_seed(2)
    assert quiet(sampler, SHAPE).rms == first
    assert quiet(sampler, SHAPE, seed=1).rms != first


def test_draws_that_depend_on_the_frame_are_noted() -> None:
    def adaptive(x: Tensor) -> Tensor:
        for _ in range(2 + int(x[0, 0, 0] > 0)):
            x = x + torch.randn_like(x)
        return x

    audit = quiet(adaptive, SHAPE)
    assert any("same order" in note for note in audit.notes)
    assert not quiet(langevin, SHAPE).notes


def test_guidance_needs_gradients() -> None:
    def guided(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return x - torch.autograd.grad(x.square().square().sum(), x)[0] / 10

    with pytest.raises(RuntimeError, match="grad"):
        quiet(guided, SHAPE)
    assert quiet(guided, SHAPE, grad=True).verdict == "broken"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu_the_same_noise() -> None:
    before = torch.cuda.get_rng_state()
    there = ep.audit_sampler(lambda x: langevin(x, 2.0), SHAPE, device="cuda", dtype=torch.float64, progress=False)
    assert abs(there.rms / quiet(lambda x: langevin(x, 2.0), SHAPE).rms - 1) < 1e-10
    assert torch.equal(torch.cuda.get_rng_state(), before)
    well = ep.audit_sampler(langevin, SHAPE, device="cuda", progress=False)
    assert well.verdict == "round-off"
