"""A run's report is that of the whole run, in a file of its own: tests add to it, and nobody else writes over it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


def probed(where: Path | str, **kwargs: Any) -> EquivarianceCallback:
    options = {"every": 2, "light": EXACT, "plan": "klein", "full": 1, "cost": None, "verbose": False, **kwargs}
    return EquivarianceCallback(report=str(where), **options)


def fitted(folder: Path, callback: EquivarianceCallback, epochs: int = 3, **kwargs: Any) -> pl.Trainer:
    """Trained with a checkpoint after every epoch."""
    keep = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    fit = trainer(folder, [callback, keep], max_epochs=epochs, enable_checkpointing=True)
    fit.fit(LinearModule(lr=1e-2), loader(), loader(seed=1), **kwargs)
    return fit


@pytest.mark.slow
def test_a_test_of_an_early_checkpoint_adds_rows_and_takes_nothing_back(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    fit = fitted(tmp_path, probed(target))
    before = Report.load(target)
    early = str(tmp_path / "epoch=0.ckpt")
    fit.validate(LinearModule(), loader(seed=2), ckpt_path=early, verbose=False)
    fit.test(LinearModule(), loader(seed=2), ckpt_path=early, verbose=False)
    after = Report.load(target)
    assert before.protocol["steps"] == after.protocol["steps"] == 24
    assert {m.name for m in after.measured} == {m.name for m in before.measured} | {"test/loss"}
    assert after["train/loss"] == before["train/loss"]
    assert after.history[: len(before.history)] == before.history
    assert not (tmp_path / "report_1.json").exists()


@pytest.mark.slow
def test_a_fresh_callback_is_no_older_for_what_it_tests(tmp_path: Path) -> None:
    """The rows of the run that made the checkpoint are that run's, not those of a test in another process."""
    fitted(tmp_path, probed(tmp_path / "fit.json"), epochs=1)
    alone = probed(tmp_path / "test.json")
    early = str(tmp_path / "epoch=0.ckpt")
    trainer(tmp_path, [alone]).test(LinearModule(), loader(), ckpt_path=early, verbose=False)
    assert {m.name for m in Report.load(tmp_path / "test.json").measured} == {"test/loss"}


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_two_trainers_never_share_a_file(named: bool, tmp_path: Path) -> None:
    where = tmp_path / "equiv_probe_report.json" if named else tmp_path
    for epochs in (1, 2, 3):
        trainer(tmp_path, [probed(where)], max_epochs=epochs).fit(LinearModule(), loader())
    files = ["equiv_probe_report.json", "equiv_probe_report_1.json", "equiv_probe_report_2.json"]
    assert sorted(one.name for one in tmp_path.glob("*.json")) == files
    assert [Report.load(tmp_path / one).protocol["steps"] for one in files] == [8, 16, 24]


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_its_file_and_a_forked_one_does_not(tmp_path: Path) -> None:
    fitted(tmp_path, probed(tmp_path), epochs=2)
    fitted(tmp_path, probed(tmp_path), epochs=4, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    whole = Report.load(tmp_path / "equiv_probe_report.json")
    assert whole.protocol["steps"] == 32
    assert [entry["step"] for entry in whole.history if entry["stage"] == "train"] == list(range(1, 33, 2))
    fitted(tmp_path, probed(tmp_path), epochs=3, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    assert Report.load(tmp_path / "equiv_probe_report.json") == whole, "which knows more than the second fork"
    assert Report.load(tmp_path / "equiv_probe_report_1.json").protocol["steps"] == 24


SCRIPT = """
import sys, pytorch_lightning as pl
from tests.equiv_probe_lightning.lightning_models import LinearModule, loader, trainer
from equiv_probe_lightning import EquivarianceCallback
callback = EquivarianceCallback(every=2, report=sys.argv[1], verbose=False)
sys.stdin.readline()  # until all are ready
trainer(sys.argv[2], [callback], max_epochs=int(sys.argv[3])).fit(LinearModule(), loader())
"""


@pytest.mark.slow
def test_processes_that_end_together_save_apart_and_a_named_file_is_replaced_by_the_next(tmp_path: Path) -> None:
    def start(where: Path, epochs: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(where), str(tmp_path), str(epochs)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    both = [start(tmp_path, epochs) for epochs in (1, 2)]
    for process in both:
        process.communicate("\n", timeout=300)
    files = ["equiv_probe_report.json", "equiv_probe_report_1.json"]
    assert sorted(Report.load(tmp_path / one).protocol["steps"] for one in files) == [8, 16]
    for epochs in (1, 2):  # one after the other, as somebody runs a script again
        start(tmp_path / "mine.json", epochs).communicate("\n", timeout=300)
    assert Report.load(tmp_path / "mine.json").protocol["steps"] == 16
    assert not (tmp_path / "mine_1.json").exists()
