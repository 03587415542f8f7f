"""What the callback says: by Lightning's own logger, as lines where there is no terminal, and not at all if asked."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback, progress

from .lightning_models import LinearModule, heard, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


def probed(path: Path, **kwargs: Any) -> EquivarianceCallback:
    return EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, report=str(path), **kwargs)


@pytest.mark.slow
def test_it_speaks_by_lightnings_logger(tmp_path: Path) -> None:
    def said(**kwargs: Any) -> list[str]:
        with heard() as lines:
            trainer(tmp_path, [probed(tmp_path, **kwargs)]).fit(LinearModule(), loader())
        return [line for line in lines if "equiv_probe" in line and "at step" not in line]

    assert said() == [
        'equiv_probe measures network="net" (Linear)',
        f"equiv_probe saved its report to {tmp_path / 'equiv_probe_report.json'}",
    ]
    assert said()[-1].endswith("equiv_probe_report_1.json (equiv_probe_report.json is that of another run)")
    assert said(verbose=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_the_shares_are_lines_where_there_is_no_terminal(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    callback = probed(tmp_path)
    with heard() as everything:
        trainer(tmp_path, [callback], max_epochs=2).fit(LinearModule(), loader(), loader(count=16))
    lines = [line for line in everything if "equiv_probe at step" in line]
    if terminal:
        assert lines == []
        return
    share = callback.logbook.history[-1]["share"]
    assert {line.split(":")[0] for line in lines} == {"equiv_probe at step 8", "equiv_probe at step 16"}
    # The matrix of the closed form has the same share for all structures: 8/9.
    assert share == pytest.approx(8 / 9)
    assert all("88.9 % of val/loss" in line for line in lines)


@pytest.mark.slow
def test_before_its_first_step_a_run_loses_less_than_a_second() -> None:
    """By the processor's time, which others who use it do not change: what is imported, made and checked."""
    code = """
import time, pytorch_lightning as pl, torch
from torch.utils.data import DataLoader
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 3)
    def training_step(self, x, i): return (self.net(x) - 2 * x).square().mean()
    def on_train_batch_end(self, *a): self.seen = getattr(self, "seen", time.process_time())
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 1e-3)
def run(callbacks):
    began, module = time.process_time(), Module()
    pl.Trainer(callbacks=callbacks(), max_epochs=1, logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False).fit(module, DataLoader(torch.randn(16, 4, 3), 4))
    return module.seen - began
def asked():
    from equiv_probe_lightning import EquivarianceCallback
    return [EquivarianceCallback(verbose=False)]
run(list)
without = run(list)
print(run(asked) - without)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert float(done.stdout.splitlines()[-1]) < 1.0
