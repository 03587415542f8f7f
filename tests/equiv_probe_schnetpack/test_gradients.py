"""Gradients in a real training of an `AtomisticTask`, whose loss is replayed for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import schnetpack as spk
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import equiv_probe as ep
from equiv_probe.schema.schema import Schema
from equiv_probe_schnetpack import EquivarianceCallback

from .spk_models import Quadratic, batch, copied, make_task, output

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = torch.tensor([[2.0, 0.3, 0.0], [0.1, 1.0, 0.2], [0.0, -0.4, 0.5]], dtype=torch.float64)


def trained(path: Path, callbacks: list[Any], lr: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Four steps on one batch; the weights, and the batch."""
    torch.manual_seed(0)
    given = batch()
    task = make_task(Quadratic(MATRIX), output("forces", nn.MSELoss(), 0.7))
    task.optimizer_cls, task.optimizer_kwargs = torch.optim.SGD, {"lr": lr}
    fit = pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=pl.loggers.CSVLogger(path),
        log_every_n_steps=1,
        max_epochs=1,
        precision="64-true",
    )
    fit.fit(task, DataLoader([copied(given) for _ in range(4)], batch_size=None))
    return task.model.matrix.detach(), given


@pytest.mark.slow
def test_closed_form_and_bit_identical_weights(tmp_path: Path) -> None:
    """``E = Σ xᵀ A x`` has forces ``−2 S x``, linear in x: tetrahedral rotations make the gradients exact."""
    light = {"design": "tetrahedral", "replicates": 2}
    callback = EquivarianceCallback(every=2, gradients=2, full=None, verbose=False)
    without, given = trained(tmp_path / "without", [], 1e-3)
    found, _ = trained(tmp_path / "with", [callback], 1e-3)
    assert torch.equal(found, without)
    assert not torch.equal(found, MATRIX)
    probe = callback.probe
    assert probe is not None
    assert not probe.failures
    assert probe.schedules["gradients", "train"].measured == 2
    assert {"equiv/train/forces/L_equiv", "equiv/train/loss/grad_ratio"} <= set(probe.compute())
    still = EquivarianceCallback(every=None, gradients=4, light=light, full=None, verbose=False)
    trained(tmp_path / "still", [still], 0.0)
    assert still.probe is not None
    values = still.probe.compute()
    model = Quadratic(MATRIX).train()
    schema = Schema({"_positions": ep.point}, {"forces": ep.vector}, batch="_idx_m")
    plan = ep.RotationPlan("tetrahedral", replicates=6)
    expected = ep.analysis.gradients(ep.analysis.OrbitLoss(model, copied(given), {"forces": "forces"}, schema, plan))
    assert values["equiv/train/loss/grad_norm_L_mean"] == pytest.approx(0.7 * expected.norm_mean.value, rel=1e-6)
    assert values["equiv/train/loss/grad_norm_L_equiv"] == pytest.approx(0.7 * expected.norm_equiv.value, rel=1e-6)
    x = (
        given["_positions"]
        - torch.zeros(len(given["_n_atoms"]), 3)
        .double()
        .index_add(0, given["_idx_m"], given["_positions"])
        .div(given["_n_atoms"][:, None])[given["_idx_m"]]
    )
    symmetric = (MATRIX + MATRIX.T) / 2
    slope = 4 * (2 / 3 * symmetric - 2 / 9 * symmetric.trace() * torch.eye(3).double()) * x.square().mean()
    assert expected.norm_equiv.value == pytest.approx(float(slope.norm()), rel=1e-6)
    assert isinstance(model, spk.model.AtomisticModel)
