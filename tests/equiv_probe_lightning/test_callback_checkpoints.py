"""A resumed run's estimates are those of one that was not interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


def fresh() -> EquivarianceCallback:
    return EquivarianceCallback(every=3, plan="klein", full=2, cost=None, window=4, verbose=False)


def augmenting() -> EquivarianceCallback:
    return EquivarianceCallback(every=None, full=None, schema=FORCES, augment=True, verbose=False)


def run(path: Path, epochs: int, callback: EquivarianceCallback, checkpoint: str | None = None) -> LinearModule:
    keep = pl.callbacks.ModelCheckpoint(path, filename="{epoch}", save_top_k=-1)
    torch.manual_seed(0)
    module = LinearModule(lr=1e-2)
    fit = trainer(path, [callback, keep], max_epochs=epochs, enable_checkpointing=True)
    fit.fit(module, loader(), loader(seed=1), ckpt_path=checkpoint)
    return module


def state(callback: EquivarianceCallback) -> Any:
    assert callback.probe is not None
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in callback.logbook.history]
    return callback.probe.compute(), callback.probe.compute(window=False), history


@pytest.mark.slow
def test_resuming_gives_the_same_numbers(tmp_path: Path) -> None:
    whole, first, second = fresh(), fresh(), fresh()
    run(tmp_path / "whole", 4, whole)
    run(tmp_path / "parts", 2, first)
    assert state(first) != state(whole)
    weights = run(tmp_path / "parts", 4, second, str(tmp_path / "parts" / "epoch=1.ckpt"))
    assert state(second) == state(whole)
    assert whole.probe is not None
    assert second.probe is not None
    assert second.probe.schedules["step", "train"].step == whole.probe.schedules["step", "train"].step == 32
    assert weights.net.matrix.isfinite().all()
    # Training time goes on where it was: without what lay between the two runs, and never backwards.
    seconds = [entry["seconds"] for entry in second.logbook.history]
    assert seconds == sorted(seconds)
    assert [entry["seconds"] for entry in first.logbook.history] == seconds[: len(first.logbook.history)]
    assert seconds[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_augmentation_goes_on_where_it_was(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights to the last bit; negative control: without its state the rotations are others."""
    if not kept:
        monkeypatch.setattr(ep.Augmentation, "load_state_dict", lambda self, state: None)
    run(tmp_path / "parts", 2, augmenting())
    resumed = run(tmp_path / "parts", 4, augmenting(), str(tmp_path / "parts" / "epoch=1.ckpt"))
    whole = run(tmp_path / "whole", 4, augmenting())
    assert torch.equal(resumed.net.matrix, whole.net.matrix) == kept


@pytest.mark.slow
def test_a_checkpoint_without_the_sums_would_be_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    whole, first, second = fresh(), fresh(), fresh()
    run(tmp_path / "whole", 4, whole)
    run(tmp_path / "parts", 2, first)
    monkeypatch.setattr(EquivarianceCallback, "load_state_dict", lambda self, state: None)
    run(tmp_path / "parts", 4, second, str(tmp_path / "parts" / "epoch=1.ckpt"))
    assert state(second) != state(whole)


def test_state_survives_a_run_that_never_stepped(tmp_path: Path) -> None:
    """A checkpoint that is loaded and saved again before the first step holds what it held."""
    first, second = fresh(), fresh()
    run(tmp_path, 1, first)
    kept = first.state_dict()
    second.load_state_dict(kept)
    assert second.state_dict() == kept


def test_a_checkpoint_is_read_with_weights_only(tmp_path: Path) -> None:
    callback = fresh()
    run(tmp_path, 1, callback)
    stored = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert set(stored["callbacks"]["EquivarianceCallback"]) == {"probe", "generators", "turns", "logbook", "saving"}
