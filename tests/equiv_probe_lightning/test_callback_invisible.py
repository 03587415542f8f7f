"""Promise 1 under Lightning: with the callback, weights, metrics, logs and prints are to the last bit the same."""

from __future__ import annotations

import copy
import csv
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equiv_probe.errors import EquivProbeError
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import Awkward, LinearModule, Noise, loader, trainer


def train(path: Path, callbacks: list[Any], *, workers: int = 0, epochs: int = 21, **kwargs: Any) -> dict[str, Any]:
    """Train for 10 steps an epoch, and return all that is left behind."""
    pl.seed_everything(0, verbose=False)
    module, logger = Awkward(), pl.loggers.CSVLogger(path)
    data = DataLoader(Noise(), batch_size=8, shuffle=True, num_workers=workers)
    held = DataLoader(Noise(), batch_size=16, num_workers=workers)
    given = {"max_epochs": epochs, "logger": logger, "num_sanity_val_steps": 2, **kwargs}
    fit = trainer(path, callbacks, **given)
    fit.fit(module, data, held)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("equiv/")} for row in csv.DictReader(file)]
    optimizer = fit.optimizers[0].state_dict()["state"]
    return {
        "weights": {name: value.numpy().tobytes() for name, value in module.state_dict().items()},
        "optimizer": [{k: v.numpy().tobytes() for k, v in state.items()} for state in optimizer.values()],
        "random": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()),  # noqa: NPY002
        "rows": [row for row in rows if any(value for key, value in row.items() if key not in {"epoch", "step"})],
        "metrics": {k: float(v) for k, v in fit.callback_metrics.items() if not k.startswith("equiv/")},
        "attributes": sorted(vars(module)),
        "counts": (module.steps, module.seen),
    }


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_bit_identical(workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = 21 if workers == 0 else 3
    without = train(tmp_path / "without", [], workers=workers, epochs=epochs)
    printed = [line for line in capsys.readouterr().out.splitlines() if "batches" in line]
    callback = EquivarianceCallback(every=2, full=1, cost=None, plan="klein", verbose=False)
    found = train(tmp_path / "with", [callback], workers=workers, epochs=epochs)
    assert [line for line in capsys.readouterr().out.splitlines() if "batches" in line] == printed
    assert len(printed) == epochs + 1
    for key, value in without.items():
        assert found[key] == value, key
    assert callback.probe is not None
    assert not callback.probe.failures
    assert callback.probe.schedules["step", "train"].measured == 5 * epochs
    assert {"equiv/train/loss/share", "equiv/val/loss/share"} <= set(callback.probe.compute())


@pytest.mark.slow
def test_a_replay_that_is_not_isolated_would_be_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: batches that are not copied are written to by every further run of the step."""
    without = train(tmp_path / "without", [], epochs=2)
    monkeypatch.setattr("equiv_probe_lightning.measured_step.copied", lambda given: given)
    callback = EquivarianceCallback(every=2, full=1, cost=None, plan="klein", verbose=False)
    with pytest.raises(EquivProbeError, match="asks the network something else when it is run again"):
        train(tmp_path / "with", [callback], epochs=2)
    callback = EquivarianceCallback(every=2, full=1, cost=None, plan="klein", verbose=False)
    monkeypatch.setattr("equiv_probe_lightning.measured_step.copied", copy.deepcopy)
    monkeypatch.setattr("equiv_probe.live.isolation.ModuleState.restore", lambda self: None)
    found = train(tmp_path / "with", [callback], epochs=2)
    assert found["weights"] != without["weights"]
    assert found["rows"] != without["rows"]


@pytest.mark.slow
def test_mixed_precision_and_clipping_are_bit_identical(tmp_path: Path) -> None:
    how = {"precision": "bf16-mixed", "gradient_clip_val": 0.5, "accumulate_grad_batches": 3, "epochs": 4}
    without = train(tmp_path / "without", [], **how)
    callback = EquivarianceCallback(every=2, verbose=False)
    found = train(tmp_path / "with", [callback], **how)
    assert found == without
    assert callback.probe is not None
    assert not callback.probe.failures


@pytest.mark.slow
def test_weight_averaging_copies_a_module_with_steps_of_its_own(tmp_path: Path) -> None:
    def average() -> pl.Callback:
        return pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=2)

    without = train(tmp_path / "without", [average()], epochs=5)
    found = train(tmp_path / "with", [EquivarianceCallback(every=2, verbose=False), average()], epochs=5)
    assert found == without


class Inspector(pl.Callback):
    """Copies and pickles the module in the middle of training."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            assert "training_step" in vars(pl_module), "the callback is at work"
            kept, pl_module._trainer = pl_module._trainer, None
            self.copies = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]
            pl_module._trainer = kept


@pytest.mark.slow
def test_copies_have_their_classes_own_steps(tmp_path: Path) -> None:
    inspector = Inspector()
    module, callback = LinearModule(), EquivarianceCallback(every=1, verbose=False)
    trainer(tmp_path, [callback, inspector]).fit(module, loader())
    assert callback.probe is not None
    measured = callback.probe.schedules["step", "train"].step
    for made in inspector.copies:
        assert made.training_step.__func__ is LinearModule.training_step
        assert made.training_step.__self__ is made
    assert callback.probe.schedules["step", "train"].step == measured
    for made in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert made.probe is None
        assert made.settings.options["every"] == 1


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    class Failing(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise KeyError("mine")
            return super().training_step(batch, batch_idx)

    for kind in (LinearModule, Failing):
        module = kind()
        trainer(tmp_path, [], max_epochs=0).fit(module, loader(), loader())  # Lightning leaves things of its own
        before = set(vars(module))
        callback = EquivarianceCallback(every=1, verbose=False)
        fit = trainer(tmp_path, [callback])
        if kind is Failing:
            with pytest.raises(KeyError, match="mine"):
                fit.fit(module, loader(), loader())
        else:
            fit.fit(module, loader(), loader())
        assert set(vars(module)) == before
        assert "log" not in vars(module)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert callback.probe is not None
        assert callback.probe.schedules["step", "train"].step >= 3


@pytest.mark.slow
@pytest.mark.parametrize("what", ["module", "network"])
def test_compiled_training_is_the_same_and_is_measured(what: str, tmp_path: Path) -> None:
    """Lightning puts steps on the instance of a compiled module itself (and its ``self.log`` cannot be compiled)."""

    class Quiet(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
            return self.loss(batch)

    def trained(callbacks: list[Any]) -> Quiet:
        torch._dynamo.reset()
        module = Quiet(lr=1e-2)
        if what == "network":
            module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
        given = torch.compile(module, backend="eager") if what == "module" else module
        trainer(tmp_path, callbacks, max_epochs=2).fit(given, loader(), loader())
        return module

    callback = EquivarianceCallback(every=2, plan="klein", full=1, cost=None, verbose=False)
    plain, probed = trained([]), trained([callback])
    assert torch.equal(plain.net.matrix, probed.net.matrix)
    assert callback.probe is not None
    assert not callback.probe.failures
    found = callback.probe.compute()
    assert found["equiv/train/loss/share"] > 0.5
    assert found["equiv/val/loss/share"] > 0.5
