"""One callback in several runs, and in the trial runs of Lightning's Tuner: each run's numbers are its own."""

from __future__ import annotations

import copy
import csv
import io
import warnings
from typing import TYPE_CHECKING

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


class Scaled(LinearModule):
    """The closed form with the matrix scaled, so that its share is another."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net.matrix.data *= scale


@pytest.mark.slow
@pytest.mark.parametrize("another_model", [True, False])
def test_a_second_run_knows_nothing_of_the_first(another_model: bool, tmp_path: Path) -> None:
    """Before its first measurement nothing is logged; the other scale would show as another share."""
    callback = EquivarianceCallback(every=1, warmup=4, light=EXACT)
    module = Scaled(1.0)
    trainer(tmp_path, [callback]).fit(module, loader())
    first = callback.logbook.history[-1]["share"]
    if another_model:
        module = Scaled(3.0)
    else:
        module.net.matrix.data *= 3
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, [callback], logger=logger).fit(module, loader())
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("equiv/train/loss/share")]
    assert [int(row["step"]) for row in rows] == [4, 5, 6, 7]
    shares = [float(row["equiv/train/loss/share"]) for row in rows]
    assert abs(shares[0] - first) > 0.05
    assert shares == pytest.approx([shares[0]] * 4, rel=1e-9), "the first run's measurements are not averaged in"
    assert [entry["step"] for entry in callback.logbook.history] == [5, 6, 7, 8]
    assert copy.deepcopy(callback).logbook.history == []


@pytest.mark.slow
def test_fitting_on_with_the_same_trainer_carries_on(tmp_path: Path) -> None:
    callback = EquivarianceCallback(every=1, light=EXACT)
    run = trainer(tmp_path, [callback])
    module = LinearModule()
    run.fit(module, loader())
    run.fit_loop.max_epochs = 2
    run.fit(module, loader())
    assert [entry["step"] for entry in callback.logbook.history] == list(range(1, 17))


@pytest.mark.parametrize("cost", [0.01, None])
def test_what_monitors_a_share_that_may_be_outdated_is_warned_of(cost: float | None, tmp_path: Path) -> None:
    stop = pl.callbacks.EarlyStopping("equiv/val/loss/share")
    callback = EquivarianceCallback(cost=cost, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, [callback, stop]).fit(LinearModule(), loader(), loader())
    about = [str(one.message) for one in caught if "equiv_probe: EarlyStopping monitors" in str(one.message)]
    assert len(about) == (0 if cost is None else 1)


@pytest.mark.slow
def test_a_report_that_cannot_be_printed_or_saved_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should be, and a terminal that knows no ``±``."""
    (tmp_path / "taken").write_text("")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", out)
    callback = EquivarianceCallback(every=1, light=EXACT, report=str(tmp_path / "taken" / "report.json"))
    with pytest.warns(UserWarning, match="could not save its report"):
        trainer(tmp_path, [callback]).fit(LinearModule(), loader())
    out.seek(0)
    assert "train/loss" in out.read()


@pytest.mark.slow
def test_trials_of_learning_rates_are_not_measured(tmp_path: Path) -> None:
    class Rated(LinearModule):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), self.lr)

    callback = EquivarianceCallback(every=1, light=EXACT, window=100)
    module = Rated()
    run = trainer(tmp_path, [callback])
    Tuner(run).lr_find(module, loader(), num_training=6, update_attr=False)
    assert callback.probe is None
    run.fit(module, loader())
    assert callback.probe is not None
    assert callback.probe.running["train", "loss"].structures == 8, "the eight steps of the run itself"
