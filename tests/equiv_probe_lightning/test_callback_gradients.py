"""Gradients under Lightning: logged, reported, and unseen by the training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.live.isolation import measuring
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.conclusion import figures

from .lightning_models import MATRIX, LinearModule, centred, loader, trainer
from .test_callback_invisible import train

KEYS = ("grad_norm_L_mean", "grad_norm_L_equiv", "grad_ratio", "grad_cosine")


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{}, {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}]
)
def test_training_is_bit_identical(given: dict[str, Any], tmp_path: Path) -> None:
    without = train(tmp_path / "without", [], epochs=2, **given)
    callback = EquivarianceCallback(every=None, gradients=3, full=None, verbose=False)
    found = train(tmp_path / "with", [callback], epochs=2, **given)
    for key, value in without.items():
        assert found[key] == value, key
    assert callback.probe is not None
    assert not callback.probe.failures
    assert callback.probe.schedules["gradients", "train"].measured == 7


@pytest.mark.slow
def test_closed_form_in_logs_and_report(tmp_path: Path) -> None:
    """Tetrahedral rotations make the gradients of ``M x`` exact: logged numbers are met to single precision."""
    logger = pl.loggers.CSVLogger(tmp_path)
    callback = EquivarianceCallback(
        every=None,
        gradients=4,
        full=None,
        light={"design": "tetrahedral", "replicates": 2},
        report=str(tmp_path / "report.json"),
        verbose=False,
    )
    module = LinearModule()
    trainer(tmp_path, [callback], logger=logger).fit(module, loader())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("equiv/train/loss/grad_ratio")]
    size = [float(x.square().mean()) for x in torch.split(centred(64), 8)]
    trace, eye = MATRIX.trace(), torch.eye(3, dtype=torch.float64)
    mean = (2 / 9 * (trace - 4.5) * eye).norm()
    equiv = (2 / 3 * MATRIX - 2 / 9 * trace * eye).norm()
    for row, batch in zip((rows[0], rows[4]), (0, 4), strict=True):
        for key, expected in {"grad_norm_L_mean": mean, "grad_norm_L_equiv": equiv}.items():
            assert float(row[f"equiv/train/loss/{key}"]) == pytest.approx(float(expected) * size[batch], rel=1e-5)
    ratio = float(equiv / mean)
    assert float(rows[0]["equiv/train/loss/grad_ratio"]) == pytest.approx(ratio, rel=1e-5)
    assert float(rows[0]["equiv/train/loss/matrix/grad_ratio"]) == pytest.approx(ratio, rel=1e-5)
    assert float(rows[0]["equiv/train/loss/grad_cosine"]) == pytest.approx(0, abs=1e-6)
    assert all(f"equiv/train/loss/{key}_stderr" in rows[0] for key in KEYS)
    stored = json.loads((tmp_path / "report.json").read_text())["gradients"]["train/loss"]
    assert stored["groups"]["all"]["ratio"] == pytest.approx(ratio, rel=1e-9)
    assert [entry["step"] for entry in stored["history"]] == [1, 5]
    assert stored["history"][0]["grad_norm_L_equiv"] == pytest.approx(float(equiv) * size[0], rel=1e-9)
    drawn = dict(figures(Report.load(tmp_path / "report.json")))
    for value, expected in (("ratio", ratio), ("cosine", 0.0)):
        (line, _, _) = drawn[f"equiv/figures/gradients_loss_{value}"].axes[0].containers[0].lines
        assert line.get_xdata().tolist() == [1, 5]
        assert line.get_ydata() == pytest.approx([expected] * 2, rel=1e-9, abs=1e-9)


class ByHand(LinearModule):
    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        self.optimizers().step()  # type: ignore[union-attr]
        return loss


def test_manual_optimisation_says_what_it_cannot(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    callback = EquivarianceCallback(every=2, gradients=2, full=None, report=str(report), verbose=False)
    trainer(tmp_path, [callback]).fit(ByHand(), loader())
    stored = json.loads(report.read_text())
    assert any("manual optimisation" in note for note in stored["notes"])
    assert stored["gradients"] == {}
    assert stored["measured"]


class OnceOnly(LinearModule):
    """Its third batch is one that it takes once alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2 and measuring():
            raise RuntimeError("taken already")
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:equiv_probe could not measure gradients")
def test_a_measurement_that_fails_is_not_the_one_before_again(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    callback = EquivarianceCallback(every=None, gradients=2, full=None, report=str(report), verbose=False)
    trainer(tmp_path, [callback], max_epochs=1).fit(OnceOnly(), loader())
    assert callback.probe is not None
    assert len(callback.probe.failures) == 1
    stored = json.loads(report.read_text())["gradients"]["train/loss"]
    assert [entry["step"] for entry in stored["history"]] == [1, 5, 7]


class Penalised(LinearModule):
    """Trains against the penalty too, of the same network, by the prediction for its batch."""

    def __init__(self) -> None:
        super().__init__(lr=1e-3)
        self.penalty = ep.EquivariancePenalty(self.net)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        before = self.penalty(batch[0], 0.5)
        loss = super().training_step(batch, batch_idx)
        assert before.requires_grad or measuring()
        return loss + before


@pytest.mark.slow
def test_a_loss_with_the_penalty_is_decomposed_without_it(tmp_path: Path) -> None:
    light = {"design": "tetrahedral", "replicates": 2}
    seen = []
    for module in (LinearModule(lr=0.0), Penalised()):
        callback = EquivarianceCallback(every=3, gradients=3, light=light, full=None, verbose=False)
        trainer(tmp_path, [callback], limit_train_batches=1, max_epochs=1).fit(module, loader())
        assert callback.probe is not None
        assert not callback.probe.failures
        seen.append(callback.probe.compute())
    assert seen[1] == pytest.approx(seen[0], rel=1e-9, nan_ok=True)
    trained = []
    for callbacks in ([], [EquivarianceCallback(every=2, gradients=3, full=None, verbose=False)]):
        pl.seed_everything(0, verbose=False)
        module = Penalised()
        trainer(tmp_path, callbacks, max_epochs=1).fit(module, loader())
        trained.append(module.net.matrix.detach())
    assert torch.equal(*trained)
    assert not torch.equal(trained[0], MATRIX)
