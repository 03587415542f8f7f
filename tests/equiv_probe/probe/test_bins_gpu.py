"""On a device: bins without waiting, and what they give on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import equiv_probe as ep

from ..timed_models import SCALE, TIMED, Timed, drawn, exact

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
EDGES = [0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", ["split", "returned", "hooks"])
def test_bins_on_a_device(kind: str) -> None:
    torch.manual_seed(0)
    net = Timed().cuda()
    probe = ep.Probe(net, TIMED, every=1, over="t", bins=EDGES)

    def measure(x: Tensor, t: Tensor) -> None:
        def losses() -> Tensor:
            return (net(x, t) - SCALE * x).square().mean((1, 2))

        if kind == "hooks":
            with probe:
                losses()
        else:
            probe.step(losses if kind == "returned" else lambda: losses().mean())

    for _ in range(40):
        x, t = (one.cuda() for one in drawn())
        # The first measurement looks at the times, and whether the loss was split by structure.
        torch.cuda.set_sync_debug_mode("error" if probe.running else "default")
        try:
            measure(x, t)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = probe.over_time("train", "v" if kind == "hooks" else "loss", window=False)
    assert not probe.failures
    assert not probe.over.notes
    assert sum(one.structures for one in found.bins) == 40 * 64
    for one in found.bins:
        total, equiv = exact(one.low, one.high)
        assert abs(one.equiv - equiv) < 4 * one.equiv_stderr
        assert kind == "hooks" or abs(one.share - equiv / total) < 4 * one.share_stderr
