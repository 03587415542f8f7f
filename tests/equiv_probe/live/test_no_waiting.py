"""On the training path nothing reads a number back from the device: seen on any machine by watching the operators.

The same is tested on a real device where there is one, under ``torch.cuda.set_sync_debug_mode``.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import equiv_probe as ep
from equiv_probe.testing import LinearField, QuadraticEnergy

from ..live_models import BOTH, FORCES, Energy, Noisy, Planted

READING = {"_local_scalar_dense", "item", "equal", "nonzero", "is_nonzero", "masked_select", "_unique2", "allclose"}
"""Operators whose result, or its shape, the host must wait for."""


class NoReading(TorchDispatchMode):
    """Raises when an operator would wait for a device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        index = args[1] if name in {"index", "index_put_"} else ()
        if name in READING or any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


class Stressed(nn.Module):
    """Outputs of every kind that needs a matrix of its own: Voigt stress, irreps, axial vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6 + 9 + 3).double()

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        stress, features, spins = self.layer(pos - pos.mean(1, keepdim=True)).split([6, 9, 3], -1)
        return {"stress": stress.mean(1), "features": features, "spins": spins}


KINDS = ep.Schema({"pos": ep.point}, {"stress": ep.voigt(), "features": ep.irreps("1o+2e+0e"), "spins": ep.axial})


class Flat(nn.Module):
    def forward(self, pos: Tensor, batch: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
        arrows = pos[edge_index[0]] - pos[edge_index[1]]
        return {"forces": torch.zeros_like(pos).index_add(0, edge_index[0], arrows * arrows[:, :1])}


def flat() -> tuple[Tensor, ...]:
    edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
    return torch.randn(6, 3, dtype=torch.float64), torch.arange(2).repeat_interleave(3), edges


def dense(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return (torch.randn(8, 4, 3, dtype=dtype),)


CASES: dict[str, tuple[Any, ep.Schema, tuple[Tensor, ...]]] = {
    "planted": (lambda: Planted(QuadraticEnergy(torch.diag(torch.tensor([2.0, 1.0, 1.0])).double())), BOTH, dense()),
    "dropout and batch norm": (Noisy, FORCES, dense(torch.float32)),
    "autograd forces": (Energy, BOTH, dense()),
    "voigt, irreps, axial": (Stressed, KINDS, dense()),
    "flat batch": (Flat, FORCES, flat()),
}


@pytest.mark.slow
@pytest.mark.parametrize("augmented", [False, True], ids=["", "augmented"])
@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("case", CASES)
def test_light_mode_reads_nothing(case: str, mode: str, augmented: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("probe.player", "live.kept_numbers"):
        monkeypatch.setattr(f"equiv_probe.{where}.at_hand", lambda value: False)
    torch.manual_seed(0)
    make, schema, inputs = CASES[case]
    model = make().train()
    with ep.augment(model, schema) if augmented else nullcontext(), ep.Probe(model, schema, every=1) as probe:

        def run() -> Any:
            step = lambda: sum(value.square().mean() for value in model(*inputs).values())  # noqa: E731
            return probe.step(step) if mode == "step" else model(*inputs)

        run()  # the first measurement finds out what can be stacked
        with NoReading():
            run()
    assert not probe.failures
    assert all(running.everything.count > 0 for running in probe.running.values())
    for running in probe.running.values():
        assert running.everything.equiv.value >= 0


def test_the_watch_would_notice() -> None:
    x = torch.randn(3)
    for read in (lambda: float(x.sum()), lambda: torch.equal(x, x), lambda: x[x > 0], lambda: bool((x > 0).any())):
        with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
            read()


def test_a_step_that_cannot_be_repeated_spoils_only_its_own_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the inputs of a replay cannot be compared at once, a step that strays is dropped, not believed."""
    for where in ("probe.player", "live.kept_numbers"):
        monkeypatch.setattr(f"equiv_probe.{where}.at_hand", lambda value: False)
    model, x = Planted(LinearField(torch.diag(torch.tensor([2.0, 1.0, 1.0])).double())), dense()[0]

    def straying() -> Tensor:  # by a clock, which nobody puts back
        return model(x * (1 + 1e-9 * time.perf_counter_ns()))["forces"].square().mean()

    with ep.Probe(model, FORCES, every=1) as probe:
        probe.step(lambda: model(x)["forces"].square().mean())
        before = probe.compute(window=False)
        probe.step(straying)
    assert probe.compute(window=False) == before
    assert before["equiv/train/loss/L_equiv"] > 0
