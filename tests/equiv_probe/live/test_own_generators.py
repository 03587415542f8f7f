"""Steps that draw from generators of their own: the noise is the same in every run of the step, and nothing is left."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.held_by_modules import held
from equiv_probe.live.isolation import isolated
from equiv_probe.live.random_state import generators_of

MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
EXACT = ep.RotationPlan("tetrahedral", replicates=2)


class Sampler:
    """Holds a generator, and is no module."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)


class Unmeasured(tuple):  # as e3nn's Irrep
    """A tuple that does not tell its length."""

    __slots__ = ()

    def __len__(self) -> int:
        raise NotImplementedError


def test_generators_and_modules_in_tuples_without_a_length() -> None:
    generator, metric = torch.Generator(), nn.Linear(1, 1)
    module = nn.Module()
    module.kept = [Unmeasured((generator, metric))]
    assert generators_of([module]) == [generator]
    assert list(held(module)) == [metric]
    with isolated(module, contents=True):
        torch.rand(3, generator=generator)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=torch.Generator()))


class Noisy(nn.Module):
    """``M x``, and noise for the loss from five generators that a user may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())
        self.torch = torch.Generator().manual_seed(0)
        self.sampler, self.many = Sampler(), {"numpy": [np.random.default_rng(2)]}
        self.old, self.python = np.random.RandomState(3), random.Random(4)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": pos @ self.matrix.T}

    def noise(self) -> Tensor:
        """One number, of which everything drawn so far decides."""
        drawn = [torch.randn((), generator=one).double() for one in (self.torch, self.sampler.generator)]
        return sum(drawn, torch.tensor(self.many["numpy"][0].normal() + self.old.normal() + self.python.random()))

    def states(self) -> list[Any]:
        tensors = [self.torch.get_state().tolist(), self.sampler.generator.get_state().tolist()]
        numpy = [self.many["numpy"][0].bit_generator.state, self.old.get_state()[1].tolist(), self.old.get_state()[2]]
        return [*tensors, *numpy, self.python.getstate()]


@pytest.mark.slow
@pytest.mark.parametrize("before_the_call", [True, False])
def test_the_same_noise_in_every_run(before_the_call: bool) -> None:
    """``(tr(MᵀM)/3 − (tr M/3)²) ⟨x²⟩`` whatever the noise on input or label, if it is the same each time.

    With a label of zero and noise ``s`` that scales the input, ``L_equiv`` is that times ``s²``.
    """
    x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x - x.mean(-2, keepdim=True)
    plain, probed = Noisy(), Noisy()

    def step(model: Noisy) -> Tensor:
        if before_the_call:
            return model(x * (1 + model.noise()))["forces"].square().mean()
        return model(x)["forces"].square().mean() + model.noise()

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
    scale = 1 + float(Noisy().noise()) if before_the_call else 1.0
    probe = ep.Probe(probed, schema, every=1, light=EXACT)
    with probe:
        losses = [float(probe.step(lambda: step(probed)).detach()) for _ in range(3)]
    assert losses == [float(step(plain).detach()) for _ in range(3)]
    assert plain.states() == probed.states()
    assert not probe.failures
    first = ep.Probe(Noisy(), schema, light=EXACT)
    model: Any = first.model
    found = first.replay(lambda: step(model), EXACT)
    exact = float((MATRIX.T @ MATRIX).trace() / 3 - (MATRIX.trace() / 3) ** 2) * float(x.square().mean()) * scale**2
    assert found.equiv == pytest.approx(exact, rel=1e-9)


def in_closure(kind: str) -> tuple[Any, Any]:
    """A generator that a step names, and a number drawn from it."""
    made = {
        "torch": torch.Generator().manual_seed(0),
        "held": Sampler(),
        "numpy": np.random.default_rng(0),
        "python": random.Random(0),
    }[kind]
    draws = {
        "torch": lambda: float(torch.randn((), generator=made)),
        "held": lambda: float(torch.randn((), generator=made.generator)),
        "numpy": lambda: float(made.normal()),
        "python": lambda: float(made.random()),
    }
    return made, draws[kind]


@pytest.mark.slow
@pytest.mark.parametrize("before_the_call", [True, False])
@pytest.mark.parametrize("kind", ["torch", "held", "numpy", "python"])
def test_generators_that_the_step_names(kind: str, before_the_call: bool) -> None:
    """Beside the network, as flow code has them: the same noise in every run, and nothing is left of the others."""
    x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, net = x - x.mean(-2, keepdim=True), Noisy()
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})

    def steps(draw: Any) -> Any:
        if before_the_call:
            return lambda: net(x * (1 + draw()))["forces"].square().mean()
        return lambda: net(x)["forces"].square().mean() + draw()

    found = ep.Probe(net, schema).replay(steps(in_closure(kind)[1]), EXACT)
    scale = 1 + in_closure(kind)[1]() if before_the_call else 1.0
    exact = float((MATRIX.T @ MATRIX).trace() / 3 - (MATRIX.trace() / 3) ** 2) * float(x.square().mean()) * scale**2
    assert found.equiv == pytest.approx(exact, rel=1e-9)
    probe, plain, probed = ep.Probe(net, schema, every=1), steps(in_closure(kind)[1]), steps(in_closure(kind)[1])
    assert [float(probe.step(probed).detach()) for _ in range(3)] == [float(plain().detach()) for _ in range(3)]
    assert not probe.failures


def test_generators_that_are_not_put_back_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: other noise after every call of the network, which the step's own number gives away."""
    monkeypatch.setattr("equiv_probe.probe.recorder.generators_in", lambda step: [])
    with pytest.raises(ep.EquivProbeError, match="run again with the very outputs"):
        test_generators_that_the_step_names("torch", False)
