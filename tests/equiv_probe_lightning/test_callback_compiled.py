"""A LightningModule that is compiled as a whole, into whose steps hooks do not reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import MATRIX, LinearModule, centred, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


class Whole(LinearModule):
    """Logs nothing: Lightning's own ``log`` cannot be compiled in every version of torch."""

    def __init__(self, lr: float = 0.0) -> None:
        super().__init__(lr=lr)
        self.noise, self.seen = nn.Dropout(0.5), 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen = self.seen + 1
        return self.loss(batch) + 0 * self.noise(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


@pytest.mark.slow
def test_a_compiled_module_trains_the_same_and_is_measured(tmp_path: Path) -> None:
    matrices, counts, states = [], [], []
    for callbacks in ([], [EquivarianceCallback(every=2, plan=EXACT, light=EXACT, full=1, cost=None, window=100)]):
        torch.compiler.reset()
        torch.manual_seed(0)
        module = Whole(lr=1e-2)
        trainer(tmp_path, callbacks).fit(torch.compile(module, backend="eager"), loader(), loader())
        matrices.append(module.net.matrix.detach())
        counts.append(module.seen)
        states.append(torch.get_rng_state())
    assert torch.equal(*matrices)
    assert torch.equal(*states)
    assert counts == [8, 8]


@pytest.mark.slow
def test_a_compiled_module_s_share_is_the_closed_form(tmp_path: Path) -> None:
    torch.compiler.reset()
    callback = EquivarianceCallback(every=1, plan=EXACT, light=EXACT, full=1, cost=None, window=100)
    module: Any = torch.compile(Whole(), backend="eager")
    trainer(tmp_path, [callback]).fit(module, loader(), loader())
    square, trace = float((MATRIX.T @ MATRIX).trace()) / 3, float(MATRIX.trace()) / 3
    total, mean = square - 3 * trace + 1.5**2, (trace - 1.5) ** 2  # in units of the mean square of x
    assert callback.probe is not None
    assert not callback.probe.failures
    found = callback.probe.compute(window=False)
    size = float(centred(64).square().mean())
    for stage in ("train", "val"):
        assert found[f"equiv/{stage}/loss/L_total"] == pytest.approx(total * size, rel=1e-9)
        assert found[f"equiv/{stage}/loss/share"] == pytest.approx(1 - mean / total, rel=1e-9)
