"""The probe on a CUDA device: right, invisible, in mixed precision, and without waiting for it."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - pytest reads the annotations of fixtures
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.testing import LinearField, QuadraticEnergy

from ..live_models import BOTH, FORCES, Energy, Noisy, Planted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def positions(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(8, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).cuda()


def test_the_watch_would_notice() -> None:
    with pytest.raises(RuntimeError), no_waiting():
        float(positions().sum())


@pytest.mark.parametrize("augmented", [False, True], ids=["", "augmented"])
@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("network", [lambda: Planted(QuadraticEnergy(MATRIX.cuda())), Noisy, Energy])
def test_light_mode_does_not_wait(network: Any, mode: str, augmented: bool) -> None:
    torch.manual_seed(0)
    model = network().cuda().train()
    schema, x = (FORCES, positions(torch.float32)) if isinstance(model, Noisy) else (BOTH, positions())
    with ep.augment(model, schema) if augmented else nullcontext(), ep.Probe(model, schema, every=1) as probe:

        def run() -> None:
            if mode == "step":
                probe.step(lambda: model(x)["forces"].square().mean())
            else:
                model(x)

        run()  # the first measurement finds out what can be stacked, and puts constants where they are used
        run()
        with no_waiting():
            run()
    assert not probe.failures
    for running in probe.running.values():
        assert running.sums.first.is_cuda
        assert running.everything.count > 0


@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_the_closed_form(mode: str) -> None:
    planted, x = LinearField(MATRIX), positions()
    model = Planted(planted).cuda().eval()
    with ep.Probe(model, FORCES, ep.RotationPlan("icosahedral", 2), full=1, cost=None) as probe:
        if mode == "step":
            probe.step(lambda: model(x)["forces"].square().mean())
        else:
            model(x)
    exact = sum(planted.equiv(one.cpu())["forces"] for one in x) / len(x)
    found = probe.compute()["equiv/val/loss/L_equiv" if mode == "step" else "equiv/val/forces/L_equiv"]
    assert abs(found / exact - 1) < 1e-10


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_training_is_bit_identical(mode: str, amp: torch.dtype | None) -> None:
    def train(probing: bool) -> tuple[list[Tensor], Tensor, ep.Probe]:
        torch.manual_seed(0)
        model: nn.Module = Noisy().cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        probe = ep.Probe(model, FORCES, every=3)
        with probe if probing else nullcontext():
            for _ in range(150):
                x = torch.randn(8, 4, 3, device="cuda")

                def step(x: Tensor = x) -> Tensor:
                    with torch.autocast("cuda", amp or torch.bfloat16, enabled=amp is not None):
                        return (model(x)["forces"].float() - 0.3 * x).square().mean()

                loss = probe.step(step) if probing and mode == "step" else step()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [*model.state_dict().values()], torch.cuda.get_rng_state(), probe

    (weights, state, _), (found, probed_state, probe) = train(False), train(True)
    assert all(torch.equal(a, b) for a, b in zip(weights, found, strict=True))
    assert torch.equal(state, probed_state)
    assert not probe.failures
    assert probe.compute()


def test_running_out_of_memory_halves_the_pass() -> None:
    model, x = Planted(LinearField(MATRIX)).cuda().eval(), positions().repeat(4096, 1, 1)
    plan = ep.RotationPlan("icosahedral", 2)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(0, free - (3 << 30)), dtype=torch.uint8, device="cuda")  # 3 GiB are left
    with ep.Probe(model, FORCES, plan, full=1, cost=None, stacked=True) as probe:
        model(x)
    del hog
    exact = sum(LinearField(MATRIX).equiv(one.cpu())["forces"] for one in x[:8]) / 8
    assert abs(probe.compute()["equiv/val/forces/L_equiv"] / exact - 1) < 1e-10
