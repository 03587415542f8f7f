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
from equiv_probe.scaling import fit, gap, joined, read_table, table_of
from equiv_probe_lightning import EquivarianceCallback


class Module(pl.LightningModule):
    """Learns ``y = −x`` with a matrix."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 3, bias=False)

    def training_step(self, batch, index):
        x, y = batch
        return (self.net(x) - y).square().mean()

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
    assert len(list(csv.DictReader((folder / "metrics.csv").open()))) == 16
    table = read_table(folder / "metrics.csv")
    assert set(table["output"]) == {"loss"}
    # The CSV log counts steps from 0, the history counts those that were done; every step repeats the last estimate.
    by_step = dict(zip(table.numbers("step"), table.numbers("L_total"), strict=True))
    for entry in history:
        assert by_step[entry["step"] - 1] == pytest.approx(entry["L_total"], rel=1e-6)
    seconds = dict(zip(table.numbers("step"), table.numbers("seconds"), strict=True))
    for entry in history:  # the callback's own clock, read a moment later
        assert 0 <= seconds[entry["step"] - 1] - entry["seconds"] < 0.1
    assert len(table) == len(history)  # and not once more for every step that repeats the last estimate
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
    # The same clock as the history's, in float32.
    np.testing.assert_allclose(times, [entry["seconds"] for entry in history], atol=0.1)


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


HEADER = "step,seconds,equiv/val/binding_energy/L_total,equiv/train/forces/L_total,equiv/train/forces/grad_ratio"


def test_a_run_that_was_begun_again_is_read_once(tmp_path):
    """Stopped after step 30, begun again from step 15 on: what came between is no part of the run."""
    lines = [f"{s},{s / 10},{9 - s / 10},," for s in (0, 10, 20, 30)] + [f"{s},,{8 - s / 10},," for s in (15, 25, 35)]
    (tmp_path / "metrics.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    table = read_table(tmp_path)
    assert table.numbers("step").tolist() == [0, 10, 15, 25, 35]
    assert table.numbers("L_total").tolist() == [9, 8, 6.5, 5.5, 4.5]
    assert table.numbers("seconds")[2:4].tolist() == [1.5, 2.5]  # of a user's own clock, as far as it is known
    assert set(table["output"]) == {"binding_energy"}
    assert table_of({"model": ["a"] * 3, "step": [1, 5, 5], "L_total": [3, 2, 1]}).final()["L_total"].tolist() == [1.0]


def test_gradients_between_the_losses_are_no_rows_of_their_own(tmp_path):
    lines = ["0,0,,9.0,", "0,0,,,0.5", "10,1,,8.0,", "15,1.5,,,0.3", "20,2,5.0,7.0,0.2"]
    (tmp_path / "metrics.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    table = read_table(tmp_path)
    train = table.where(stage="train")
    assert train.numbers("L_total").tolist() == [9, 8, 7]
    np.testing.assert_array_equal(train.numbers("grad_ratio"), [0.5, np.nan, 0.2])
    with pytest.raises(EquivProbeError, match="rows of 2 kinds of stage: val, train"):
        gap(table, table, "step")
    with pytest.raises(EquivProbeError, match="2 kinds of output"):
        fit({"output": ["energy", "forces"] * 3, "D": [1, 2, 3] * 2, "L_total": [3, 2, 1] * 2}, "D")


def test_event_files_of_several_runs_and_of_one_run_in_parts(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    def write(folder, entries, clock=None):
        writer = SummaryWriter(folder, filename_suffix=f".{entries[0][2]:.0f}")
        for step, loss, time in entries:
            writer.add_scalar("equiv/val/energy/L_total", loss, step, walltime=time)
            if clock is not None:
                writer.add_scalar("equiv/seconds", clock + step, step, walltime=time)
        writer.close()

    first = [(0, 5.0, 1e9), (10, 4.0, 1e9 + 1), (20, 3.0, 1e9 + 2), (30, 2.0, 1e9 + 3)]
    next_day = [(15, 3.5, 2e9), (25, 2.5, 2e9 + 1)]
    write(tmp_path / "one", first)
    write(tmp_path / "one", next_day)
    table = read_table(tmp_path / "one")
    assert table.numbers("step").tolist() == [0, 10, 15, 25]
    assert table.numbers("seconds").tolist() == [0, 1, 3, 4]  # the night between is no training
    for model in ("plain", "egnn"):
        write(tmp_path / "two" / model / "version_0", first, clock=100.0)
    table = read_table(tmp_path / "two")
    assert {key[0]: len(rows) for key, rows in table.by("run").items()} == {"egnn/version_0": 4, "plain/version_0": 4}
    assert table.numbers("seconds")[:4].tolist() == [100, 110, 120, 130]


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
    (tmp_path / "d.csv").write_bytes("model,L_total\n\xe4,1\n".encode("latin-1"))
    with pytest.raises(EquivProbeError, match=r"d\.csv, which is no table"):
        read_table(tmp_path / "d.csv")
    (tmp_path / "e.csv").write_bytes(b"\xef\xbb\xbfstep,L_total\n1,2\n2,diverged\n")  # as spreadsheets write it
    assert read_table(tmp_path / "e.csv").numbers("step").tolist() == [1.0, 2.0]
    with pytest.raises(EquivProbeError, match="L_total with 'diverged'"):
        read_table(tmp_path / "e.csv").numbers("L_total")
    for odd in ([1], "abc", {"step": 1}):
        (tmp_path / "f.json").write_text(json.dumps({"history": odd}))
        with pytest.raises(EquivProbeError, match="another history"):
            read_table(tmp_path / "f.json")
    with pytest.raises(EquivProbeError, match="columns of one length"):
        table_of({"a": [1], "b": [1, 2]})
