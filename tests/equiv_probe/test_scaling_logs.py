"""One real Lightning run, read from all that it left behind; and tables of one's own."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.scaling import gap, joined, read_table, table_of
from equiv_probe_lightning import EquivarianceCallback


class Module(pl.LightningModule):
    """Learns ``y = −x`` with a matrix."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 3, bias=False)

    def training_step(self, batch, index):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        self.log("seconds", float(index))  # what a user might log; CSV then has a clock
        return loss

    validation_step = None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    x = torch.randn(128, 5, 3)
    loggers = [pl.loggers.CSVLogger(folder / "csv"), pl.loggers.TensorBoardLogger(folder / "board")]
    callback = EquivarianceCallback(
        every=2,
        network="net",
        schema=ep.Schema(inputs={"input": ep.vector}, outputs={"output": ep.vector}),
        report=str(folder / "report.json"),
        verbose=False,
        figures=False,
        stages=("train",),
    )
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=loggers,
        max_epochs=1,
        log_every_n_steps=1,
        callbacks=[callback],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(x, -x), batch_size=8))
    return folder, callback.logbook.history, Path(loggers[0].log_dir), Path(loggers[1].log_dir)


def test_the_report_s_history_is_read(trained):
    folder, history, _, _ = trained
    table = read_table(folder / "report.json")
    assert len(history) == 8
    for name in ("step", "seconds", "L_total", "L_mean", "L_equiv", "share", "L_total_stderr"):
        wanted = [entry.get(name, np.nan) for entry in history]
        np.testing.assert_allclose(table.numbers(name), wanted, rtol=1e-15)
    seconds = table.numbers("seconds")
    assert seconds[0] > 0
    assert (np.diff(seconds) > 0).all()
    assert set(table["stage"]) == {"train"}


def test_lightning_s_csv_log_is_read(trained):
    _, history, folder, _ = trained
    table = read_table(folder / "metrics.csv")
    assert set(table["output"]) == {"loss"}
    # The CSV log counts steps from 0, the history counts those that were done; every step repeats the last estimate.
    by_step = dict(zip(table.numbers("step"), table.numbers("L_total"), strict=True))
    for entry in history:
        assert by_step[entry["step"] - 1] == pytest.approx(entry["L_total"], rel=1e-6)
    np.testing.assert_array_equal(table.numbers("seconds"), table.numbers("step"))
    assert read_table(folder)["L_total"].tolist() == table["L_total"].tolist()


def test_tensorboard_s_event_files_are_read(trained):
    _, history, _, folder = trained
    table = read_table(folder)
    by_step = {
        step: (loss, s) for step, loss, s in zip(*map(table.numbers, ("step", "L_equiv", "seconds")), strict=True)
    }
    for entry in history:
        assert by_step[entry["step"] - 1][0] == pytest.approx(entry["L_equiv"], rel=1e-6)  # float32
    times = [by_step[entry["step"] - 1][1] for entry in history]
    assert times == sorted(times)
    assert times[0] >= 0
    # The same clock as the history's: both from the first step on, to within what logging it took.
    own = [entry["seconds"] for entry in history]
    assert times[-1] - times[0] == pytest.approx(own[-1] - own[0], abs=0.25)


def test_without_tensorboard_the_extra_is_named(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(EquivProbeError, match=r"pip install 'equiv-probe\[tensorboard\]'"):
        read_table(trained[3])


def test_logs_of_one_run_compare_as_equal(trained):
    folder, _, logs, board = trained
    a, b = read_table(folder / "report.json"), read_table(board)
    found = gap(a, b.where(step=lambda step: step > 0), "step", names=("report", "board"))
    assert not found.crossings or found.crossings[0].x.value < 16
    again = gap(read_table(logs), b, "step", smooth="none")
    np.testing.assert_allclose(again.ratio, 1, rtol=1e-5)


def test_the_study_s_table(tmp_path):
    """Columns as a study of several models writes them: sizes, steps, seconds, and missing values."""
    path = tmp_path / "runs.csv"
    rows = [
        {
            "model": m,
            "parameters": n,
            "structures": d,
            "seed": s,
            "step": t,
            "seconds": t / 10,
            "L_total": 1 / t,
            "share": "",
        }
        for m in ("plain", "egnn")
        for n in (100, 1000)
        for d in (50, 500)
        for s in (0, 1)
        for t in (1, 10, 100)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = read_table(path)
    assert len(table) == 48
    assert np.isnan(table.numbers("share")).all()
    final = table.final()
    assert len(final) == 16
    assert set(final.numbers("step")) == {100.0}
    assert len(table.final(by=["model"])) == 2
    assert set(final.where(model="egnn").numbers("D")) == {50.0, 500.0}
    assert [len(rows) for rows in table.by("model", "N").values()] == [12, 12, 12, 12]
    with pytest.raises(EquivProbeError, match="expected C or flops or compute"):
        table["C"]
    with pytest.raises(EquivProbeError, match="column model with 'plain'"):
        table.numbers("model")


def test_tables_below_each_other():
    whole = joined([table_of({"step": [1], "a": ["x"]}), table_of({"step": [2]})], model=["p", "q"])
    assert whole["model"].tolist() == ["p", "q"]
    assert whole["a"].tolist() == ["x", ""]


def test_errors_teach(tmp_path):
    with pytest.raises(EquivProbeError, match="no file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(EquivProbeError, match=r"with 0 metrics\.csv"):
        read_table(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"history": []}))
    with pytest.raises(EquivProbeError, match="empty history"):
        read_table(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(EquivProbeError, match="without a history"):
        read_table(tmp_path / "b.json")
    (tmp_path / "c.csv").write_text("a,b\n")
    with pytest.raises(EquivProbeError, match="without rows"):
        read_table(tmp_path / "c.csv")
    with pytest.raises(EquivProbeError, match="columns of one length"):
        table_of({"a": [1], "b": [1, 2]})
