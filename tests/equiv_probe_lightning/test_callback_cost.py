"""What measuring may cost is kept for the end of a run, and a report says of which step its numbers are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.callback import Measuring
from equiv_probe_lightning.trainers import last_evaluation

from .lightning_models import LinearModule, centred, loader, trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)
NOTHING = 1e-9
"""A cost that no measurement is worth."""


class Endless(IterableDataset[Any]):
    """Batches of which nobody knows how many there are."""

    def __iter__(self) -> Iterator[Any]:
        x = centred(64)
        return iter(zip(x, 1.5 * x, strict=True))


class Foreseen(pl.Callback):
    """Of every validation whether it was foreseen to be the last."""

    def __init__(self) -> None:
        self.flags: list[bool | None] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.flags.append(last_evaluation(trainer))


@pytest.mark.parametrize(
    ("options", "endless", "validations"),
    [
        ({"max_epochs": 3}, False, 3),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, False, 2),
        ({"max_epochs": 2, "val_check_interval": 0.25}, False, 8),
        ({"max_epochs": 3, "val_check_interval": 5, "check_val_every_n_epoch": None}, False, 4),
        ({"max_epochs": -1, "max_steps": 20}, False, 2),
        ({"max_epochs": -1, "max_steps": 20, "val_check_interval": 4}, False, 5),
        ({"max_epochs": -1, "max_steps": 6, "accumulate_grad_batches": 4}, False, 3),
        ({"max_epochs": 2, "limit_train_batches": 3}, False, 2),
        ({"max_epochs": 3}, True, 3),
    ],
)
def test_the_last_validation_is_foreseen(
    options: dict[str, Any], endless: bool, validations: int, tmp_path: Path
) -> None:
    seen = Foreseen()
    batches = DataLoader(Endless(), batch_size=8) if endless else loader()
    trainer(tmp_path, [seen], **options).fit(LinearModule(), batches, loader(count=8))
    assert seen.flags == [False] * (validations - 1) + [True]


@pytest.mark.slow
def test_where_there_is_no_room_the_last_validation_is_measured_and_no_other(tmp_path: Path) -> None:
    """By few rotations of one batch, whose rotations give the error bar."""
    target = tmp_path / "report.json"
    callback = EquivarianceCallback(every=1, cost=NOTHING, report=str(target), verbose=False)
    trainer(tmp_path, [callback], max_epochs=3).fit(LinearModule(), loader(), loader())
    report = Report.load(target)
    assert callback.probe is not None
    schedule = callback.probe.schedules["step", "val"]
    assert (schedule.step, schedule.measured, schedule.small) == (24, 1, 1)
    assert (report["val/loss"].step, report["val/loss"].structures) == (24, 1)
    assert report["train/loss"].structures == 10
    assert report.complete
    (alone,) = report.notes
    assert alone.startswith("val/loss was measured on one batch alone")


@pytest.mark.slow
def test_without_a_limit_every_epoch_is_measured(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    callback = EquivarianceCallback(every=1, cost=None, full=1, report=str(target), verbose=False)
    trainer(tmp_path, [callback], max_epochs=3).fit(LinearModule(), loader(), loader())
    report = Report.load(target)
    assert report["val/loss"].structures == 8
    assert [entry["step"] for entry in report.history if entry["stage"] == "val"] == [8, 16, 24]
    assert report.notes == []


def test_a_run_that_stops_early_says_that_validation_was_not_measured(tmp_path: Path) -> None:
    class Stopping(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    target = tmp_path / "report.json"
    callback = EquivarianceCallback(every=1, cost=NOTHING, report=str(target), verbose=False)
    trainer(tmp_path, [callback, Stopping()], max_epochs=5).fit(LinearModule(), loader(), loader())
    report = Report.load(target)
    assert {m.name for m in report.measured} == {"train/loss"}
    assert report.notes == [
        "val was not measured: there was no room in the time for it (cost); cost=None measures every epoch."
    ]


def test_logging_and_steps_between_two_measurements_count(tmp_path: Path) -> None:
    """Where a module's own log is slow, the report says so, and the account has less room for the next measurement."""

    class Slow(LinearModule):
        slept, logged = 0.05, 0

        def log(self, name: str, *args: Any, **kwargs: Any) -> None:
            if name.startswith("equiv/"):
                self.logged += 1
                time.sleep(self.slept)
            super().log(name, *args, **kwargs)

    callback, module = EquivarianceCallback(verbose=False), Slow()
    trainer(tmp_path, [callback], max_epochs=1).fit(module, loader())
    assert callback.probe is not None
    account = callback.probe.schedules.account
    assert module.logged >= 8
    assert account.around > module.logged * module.slept
    assert account.around < account.elapsed
    assert account.rate(evaluation=False) == 0.5 * account.cost
    assert "into logging and waiting" in callback.probe.report().protocol["cost"]


def test_a_test_is_measured_whatever_it_costs(tmp_path: Path) -> None:
    callback = EquivarianceCallback(every=None, cost=NOTHING, verbose=False)
    run = trainer(tmp_path, [callback])
    run.test(LinearModule(), loader(), verbose=False)
    assert callback.probe is not None
    assert callback.probe.schedules["step", "test"].measured == 1
    assert torch.isfinite(run.callback_metrics["equiv/test/loss/share"])


def test_the_old_name_of_the_cost_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DeprecationWarning, match="budget .* is now called cost"):
        assert EquivarianceCallback(budget=0.05).settings.options["cost"] == 0.05
    monkeypatch.setenv("EQUIV_PROBE", "budget=none")
    with pytest.warns(DeprecationWarning, match="budget"):
        (added,) = (one for one in trainer(tmp_path, []).callbacks if isinstance(one, Measuring))
    assert added.settings.options["cost"] is None


@pytest.mark.parametrize("network", [None, "net"])
def test_the_search_for_the_network_is_in_the_account(network: str | None, tmp_path: Path) -> None:
    """It runs the step once beside the user's own run, which costs what the step costs."""
    seconds = 0.2

    class Slow(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            time.sleep(seconds)
            return super().training_step(batch, batch_idx)

    callback = EquivarianceCallback(network=network, every=10**9, verbose=False)
    trainer(tmp_path, [callback], max_steps=2).fit(Slow(), loader())
    assert callback.probe is not None
    around = callback.probe.schedules.account.around
    assert (around > seconds) == (network is None), "the user's own run is none of it"


def test_a_test_too_short_to_earn_a_measurement_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = EquivarianceCallback(warmup="earned", verbose=True)
    with caplog.at_level("INFO"):
        trainer(tmp_path, [callback]).test(LinearModule(), loader(), verbose=False)
    assert callback.probe.schedules["step", "test"].step > 0
    assert not callback.probe.running
    assert "measured nothing: the run is too short to earn a measurement within cost=0.01" in caplog.text
