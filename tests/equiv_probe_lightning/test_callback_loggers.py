"""What the callback logs reaches every logger, the same numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, centred, loader, trainer
from .test_callback import EXACT, truth

NAMES = {f"{name}{suffix}" for name in ("L_total", "L_mean", "L_equiv", "share") for suffix in ("", "_stderr")}


class Offline:
    """Collects what a W&B run was given, since offline runs are files that only its server reads."""

    def __init__(self, logger: Any) -> None:
        self.seen: dict[str, float] = {}
        log = logger.experiment.log

        def spy(data: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self.seen.update(data)
            return log(data, *args, **kwargs)

        logger.experiment.log = spy


@pytest.mark.slow
def test_all_loggers_get_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    by_csv = pl.loggers.CSVLogger(tmp_path / "csv")
    board = pl.loggers.TensorBoardLogger(tmp_path / "board")
    wandb = pl.loggers.WandbLogger(save_dir=tmp_path, offline=True, project="test")
    mlflow = pl.loggers.MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlflow")
    offline = Offline(wandb)
    callback = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, verbose=False)
    fit = trainer(tmp_path, [callback], logger=[by_csv, board, wandb, mlflow])
    fit.fit(LinearModule(), loader(), loader())
    expected = {f"equiv/{stage}/loss/{name}" for stage in ("train", "val") for name in NAMES}
    found: dict[str, dict[str, float]] = {}
    with (Path(by_csv.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found["csv"] = {key: float(row[key]) for row in rows for key in expected if row.get(key)}
    events = EventAccumulator(board.log_dir).Reload()
    found["tensorboard"] = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag in expected}
    found["wandb"] = {key: float(value) for key, value in offline.seen.items() if key in expected}
    run = mlflow.experiment.get_run(mlflow.run_id)
    found["mlflow"] = {key: float(value) for key, value in run.data.metrics.items() if key in expected}
    wandb.experiment.finish()
    figures = {"equiv/figures/share", "equiv/figures/history"}
    assert set(events.Tags()["images"]) == figures
    assert {key for key in offline.seen if "figures" in key} == figures
    stored = {file.path for file in mlflow.experiment.list_artifacts(mlflow.run_id, "equiv/figures")}
    assert stored == {f"{name}.png" for name in figures}
    for name, values in found.items():
        assert set(values) == expected, name
        # 1e-6: TensorBoard keeps float32; 1e-7 where the error of an exact plan is rounding alone
        assert values == pytest.approx(found["csv"], rel=1e-6, abs=1e-7), name
    total, mean = truth(centred(64))
    assert found["csv"]["equiv/val/loss/share"] == pytest.approx(1 - mean / total, rel=1e-9)


@pytest.mark.slow
def test_the_progress_bar_shows_the_share_alone(tmp_path: Path) -> None:
    for prog_bar in (True, False):
        fit = trainer(tmp_path, [EquivarianceCallback(every=1, light=EXACT, prog_bar=prog_bar, verbose=False)])
        fit.fit(LinearModule(), loader())
        shown = {name for name in fit.progress_bar_metrics if name.startswith("equiv/")}
        assert shown == ({"equiv/train/loss/share"} if prog_bar else set())


@pytest.mark.slow
def test_the_table_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, report=str(tmp_path / "out"))
    fit = trainer(tmp_path, [callback])
    fit.fit(LinearModule(), loader(), loader())
    printed = capsys.readouterr().out
    total, mean = truth(centred(64))
    assert "val/loss" in printed
    assert f"{100 * (1 - mean / total):.1f} %" in printed
    report = Report.load(tmp_path / "out" / "equiv_probe_report.json")
    labelled = report["val/loss"].labelled
    assert labelled is not None
    assert labelled.total == pytest.approx(total, rel=1e-9)
    assert labelled.share == pytest.approx(1 - mean / total, rel=1e-9)
    assert report.protocol["steps"] == 8
    assert report.protocol["seconds measuring"] > 0
    train = [entry for entry in report.history if entry["stage"] == "train"]
    assert [entry["step"] for entry in train] == list(range(1, 9))
    own = [(truth(centred(64)[8 * k : 8 * k + 8])) for k in range(8)]
    assert train[0]["L_total"] == pytest.approx(own[0][0], rel=1e-9)
    assert train[7]["L_total"] == pytest.approx(sum(t for t, _ in own) / 8, rel=1e-9)
    json.loads((tmp_path / "out" / "equiv_probe_report.json").read_text())


@pytest.mark.slow
def test_the_report_as_a_page(tmp_path: Path) -> None:
    callback = EquivarianceCallback(every=1, light=EXACT, report=str(tmp_path / "share.html"), verbose=False)
    trainer(tmp_path, [callback]).fit(LinearModule(), loader())
    page = (tmp_path / "share.html").read_text()
    assert "Share of the loss over the run" in page
    total, mean = truth(centred(64))
    assert "because the model does not respect rotation" in page
    assert f"{100 * (1 - mean / total):.1f}" in page


@pytest.mark.slow
def test_figures_can_be_left_out(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = pl.loggers.TensorBoardLogger(tmp_path / "board")
    callback = EquivarianceCallback(every=1, light=EXACT, figures=False, verbose=False)
    trainer(tmp_path, [callback], logger=board).fit(LinearModule(), loader())
    assert EventAccumulator(board.log_dir).Reload().Tags()["images"] == []


@pytest.mark.slow
def test_what_fails_later_is_listed_and_ends_nothing(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    # An iterator, which nobody can put back.
    noise = iter(lambda: torch.randn(8, 5, 3, dtype=torch.float64, generator=source), None)

    class Moody(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            if batch_idx >= 4:
                x = x + next(noise)[: len(x), : x.shape[1]]
            return super().training_step((x, y), batch_idx)

    module = Moody()
    callback = EquivarianceCallback(every=1, light=EXACT, verbose=False)
    with pytest.warns(UserWarning, match="could not measure, and carries on"):
        trainer(tmp_path, [callback]).fit(module, loader())
    assert callback.probe is not None
    assert len(callback.probe.failures) == 4
    assert callback.probe.running["train", "loss"].structures == 4


@pytest.mark.slow
def test_what_a_step_logs_by_hand_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    calls: list[int] = []
    monkeypatch.setattr(wandb, "log", lambda data: calls.append(data["batch"]))

    class ByHand(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            wandb.log({"batch": batch_idx})
            return super().training_step(batch, batch_idx)

    callback = EquivarianceCallback(every=1, light=EXACT, verbose=False)
    trainer(tmp_path, [callback]).fit(ByHand(), loader())
    assert calls == list(range(8))
    assert callback.probe is not None
    assert callback.probe.running["train", "loss"].structures == 8


class OwnLog(LinearModule):
    """A ``log`` of the user's own gets every value, at every row."""

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().log(name, *args, **kwargs)


class Seen(pl.Callback):
    """What Lightning shows and lets others monitor after each step."""

    def __init__(self) -> None:
        self.after: list[tuple[dict[str, float], dict[str, float]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.after.append((_of_ours(trainer.callback_metrics), _of_ours(trainer.progress_bar_metrics)))


def _of_ours(values: Any) -> dict[str, float]:
    return {name: float(v) for name, v in values.items() if name.startswith("equiv/") and "seconds" not in name}


@pytest.mark.parametrize(
    "options",
    [
        {"log_every_n_steps": 3, "max_epochs": 3},
        {"log_every_n_steps": 1, "max_epochs": 2},
        {"log_every_n_steps": 5, "accumulate_grad_batches": 2, "max_epochs": 4},
        {"log_every_n_steps": 4, "val_check_interval": 3, "max_epochs": 2},
    ],
)
def test_rows_are_those_of_the_modules_own_log(options: dict[str, Any], tmp_path: Path) -> None:
    """Lightning is given known names past ``module.log``, which is slow; nobody can tell by what was logged."""
    written, shown = [], []
    for kind in (LinearModule, OwnLog):
        logger = pl.loggers.CSVLogger(tmp_path / kind.__name__)
        callback, seen = EquivarianceCallback(every=7, full=1, cost=None, window=2, verbose=False), Seen()
        fit = trainer(tmp_path, [callback, seen], logger=logger, **options)
        fit.fit(kind(), loader(), loader(count=16))
        with (Path(logger.log_dir) / "metrics.csv").open() as file:
            table = list(csv.DictReader(file))
        written.append([{name: v for name, v in row.items() if name != "equiv/seconds"} for row in table])
        shown.append(seen.after)
    assert written[0] == written[1]
    assert any(row.get("equiv/train/loss/share") for row in written[0])
    assert shown[0] == shown[1]


def test_lightning_is_left_with_nothing_of_ours_to_look_through(tmp_path: Path) -> None:
    """What was logged is not copied once more at every step."""
    standing: list[int] = []

    class Standing(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            results = trainer._results
            assert results is not None
            standing.append(sum("equiv/" in name for name, _ in results.valid_items()))

    callback = EquivarianceCallback(every=100, verbose=False)
    fit = trainer(tmp_path, [callback, Standing()], log_every_n_steps=4)
    fit.fit(LinearModule(), loader())
    names = standing[0]
    assert names >= 5
    assert standing == [names, 0, 0, names, 0, 0, 0, names]
    assert torch.isfinite(fit.callback_metrics["equiv/train/loss/share"])
