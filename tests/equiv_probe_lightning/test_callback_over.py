"""Bins of time under a real Trainer: met in closed form, logged when epochs end, saved, resumed; nothing changed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback

from ..equiv_probe.timed_models import SCALE, TIMED, Timed, drawn, exact
from .lightning_models import trainer

if TYPE_CHECKING:
    from pathlib import Path


class Flow(pl.LightningModule):
    """Draws its times itself; of a kind of loss that can be split by structure, or not."""

    def __init__(self, kind: str = "squared", lr: float = 0.0) -> None:
        super().__init__()
        self.net, self.kind, self.lr = Timed(), kind, lr

    def losses(self, x: Tensor) -> Tensor:
        t = torch.rand(len(x), dtype=x.dtype)
        gap = self.net(x, t) - SCALE * x
        elements = gap.square() if self.kind == "squared" else gap.square().sum(-1, keepdim=True).sqrt()
        return elements.mean((1, 2)) / (1.2 - t) ** 2

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        losses = self.losses(batch)
        return {"loss": losses.mean(), "losses": losses} if self.kind == "returned" else losses.mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.losses(batch).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def loader(batches: int = 8) -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(drawn(64 * batches, 4)[0], batch_size=64)  # type: ignore[arg-type]


def callback(**options: Any) -> EquivarianceCallback:
    given = {"every": 1, "full": 1, "cost": None, "schema": TIMED, "plan": "klein", "over": "t", "bins": [0, 0.5, 1]}
    return EquivarianceCallback(**{**given, "window": 100, "verbose": False, **options})


class Spy(pl.Callback):
    """What was logged at the steps, and at the ends of epochs."""

    def __init__(self) -> None:
        self.at_steps: set[str] = set()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.at_steps |= set(trainer.logged_metrics)


def test_bins_are_logged_and_reported(tmp_path: Path) -> None:
    torch.manual_seed(1)
    spy, saved = Spy(), tmp_path / "report.json"
    run = trainer(tmp_path, [callback(plan={"design": "klein", "replicates": 2}, report=str(saved)), spy])
    run.fit(Flow(), loader(), loader())
    assert not any("/t_" in name for name in spy.at_steps), "not at every step"
    report = Report.load(saved)
    assert [(one.stage, one.name) for one in report.over] == [("train", "loss"), ("val", "loss")]
    for profile in report.over:
        for one in profile.bins:
            total, equiv = exact(one.low, one.high, lambda t: 1 / (1.2 - t) ** 2)
            assert abs(one.share - equiv / total) < 4 * one.share_stderr < 0.4 * one.share
            assert abs(one.equiv - equiv) < 4 * one.equiv_stderr
    for one in report.over[1].bins:
        for key, value in (("share", one.share), ("L_equiv_stderr", one.equiv_stderr)):
            assert float(run.logged_metrics[f"equiv/val/loss/t_{one.label}/{key}"]) == pytest.approx(value, rel=1e-12)
    assert sum(one.structures for one in report.over[1].bins) == 8 * 64


def trained(path: Path, kind: str, callbacks: list[Any]) -> list[Tensor]:
    torch.manual_seed(2)
    module = Flow(kind, lr=0.01)
    trainer(path, callbacks, max_epochs=2).fit(module, loader(3), loader(2))
    return [module.net.matrix.detach(), torch.get_rng_state()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["squared", "norm", "returned"])
@pytest.mark.filterwarnings("ignore:equiv_probe")
def test_training_is_bit_identical(kind: str, tmp_path: Path) -> None:
    watching = callback()
    with_it, without = trained(tmp_path, kind, [watching]), trained(tmp_path, kind, [])
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert watching.probe is not None
    assert not watching.probe.failures


def test_a_loss_of_norms_is_said_and_works_by_returned_losses(tmp_path: Path) -> None:
    watching = callback()
    with pytest.warns(UserWarning, match="train/loss is not in bins"):
        trainer(tmp_path, [watching]).fit(Flow("norm"), loader(2))
    watching = callback()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "equiv_probe: train/loss is not in bins")
        trainer(tmp_path, [watching]).fit(Flow("returned"), loader(2))
    assert watching.probe is not None
    found = watching.probe.over_time("train", "losses")
    mean = sum(one.equiv * one.structures for one in found.bins) / 128
    assert mean == pytest.approx(watching.probe.compute()["equiv/train/loss/L_equiv"], rel=1e-9)


def test_a_checkpoint_carries_the_bins(tmp_path: Path) -> None:
    def fit(epochs: int, watching: EquivarianceCallback, checkpoint: Path | None = None) -> pl.Trainer:
        torch.manual_seed(3)
        run = trainer(tmp_path, [watching], max_epochs=epochs)
        run.fit(Flow(), loader(2), ckpt_path=checkpoint)
        return run

    first = callback()
    fit(1, first).save_checkpoint(tmp_path / "one.ckpt")
    second = callback()
    fit(2, second, tmp_path / "one.ckpt")
    assert first.probe is not None
    assert second.probe is not None
    before, after = (one.probe.running["train", "loss"].binned.everything for one in (first, second))
    assert before is not None
    assert after is not None
    assert float(before[:, 12].sum()) == 128
    assert float(after[:, 12].sum()) == 256


def test_it_is_configured_by_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIV_PROBE", f"over=t,bins=0+0.25+1,every=1,verbose=false,report={tmp_path / 'r.json'}")
    trainer(tmp_path, []).fit(Flow(), loader(2))
    (profile,) = Report.load(tmp_path / "r.json").over
    assert profile.edges == (0, 0.25, 1)
    assert sum(one.structures for one in profile.bins) == 128


def test_a_wrong_name_lists_the_inputs(tmp_path: Path) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"'t': \(64,\)"):
        trainer(tmp_path, [callback(over="time")]).fit(Flow(), loader(1))
