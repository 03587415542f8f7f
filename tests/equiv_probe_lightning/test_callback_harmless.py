"""What goes wrong in the callback itself ends no run, and changes none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.logbook import Logbook
from equiv_probe_lightning.run import Run

from .lightning_models import LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("float division by zero")


@pytest.mark.filterwarnings("always:equiv_probe failed in")
@pytest.mark.parametrize(
    ("owner", "method", "hook"),
    [
        (Run, "report", "on_fit_end"),
        (Run, "tell", "on_train_epoch_end"),
        (Run, "begin_evaluation", "on_validation_epoch_start"),
        (Logbook, "training", "_log_training"),
        (Logbook, "evaluation", "on_validation_epoch_end"),
    ],
)
def test_a_fault_of_the_callback_is_a_warning(
    owner: type, method: str, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, module = LinearModule(lr=0.1), LinearModule(lr=0.1)
    trainer(tmp_path, [], max_epochs=2).fit(plain, loader(), loader(seed=1))
    monkeypatch.setattr(owner, method, broken)
    callback = EquivarianceCallback(every=1, verbose=False, report=True)
    with pytest.warns(UserWarning, match=rf"equiv_probe failed in {hook}, and the run goes on: ZeroDivisionError"):
        trainer(tmp_path, [callback], max_epochs=2).fit(module, loader(), loader(seed=1))
    assert torch.equal(plain.net.matrix, module.net.matrix)


def test_what_was_asked_for_still_ends_it(tmp_path: Path) -> None:
    """Negative control: a share above ``fail_above``."""
    with pytest.raises(EquivProbeError, match="at most"):
        trainer(tmp_path, [EquivarianceCallback(every=1, verbose=False, cost=None, fail_above=0.01)]).fit(
            LinearModule(), loader()
        )


@pytest.mark.filterwarnings("always:equiv_probe failed in")
def test_a_fault_while_a_checkpoint_is_written_leaves_the_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Logbook, "state_dict", broken)
    runner, module = (
        trainer(tmp_path, [EquivarianceCallback(every=1, verbose=False)], max_epochs=1),
        LinearModule(lr=0.1),
    )
    runner.fit(module, loader())
    with pytest.warns(UserWarning, match="equiv_probe failed in state_dict, and the run goes on: ZeroDivisionError"):
        runner.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert torch.equal(state["state_dict"]["net.matrix"], module.net.matrix)
    assert not any("Equivariance" in key for key in state["callbacks"])


@pytest.mark.filterwarnings("always:equiv_probe failed in")
@pytest.mark.parametrize("damaged", [{"probe": {}}, {"of another version": 1}, {"generators": [1], "probe": 3}])
def test_a_state_that_cannot_be_read_is_measured_anew(damaged: dict[str, Any], tmp_path: Path) -> None:
    first = EquivarianceCallback(every=1, verbose=False)
    runner, module = trainer(tmp_path, [first], max_epochs=1), LinearModule(lr=0.1)
    runner.fit(module, loader())
    runner.save_checkpoint(tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=False)
    state["callbacks"] = {key: damaged if key == first.state_key else one for key, one in state["callbacks"].items()}
    torch.save(state, tmp_path / "model.ckpt")
    ends = []
    for callbacks in ([], [EquivarianceCallback(every=1, verbose=False)]):
        ends.append(LinearModule(lr=0.1))
        resumed = trainer(tmp_path, callbacks, max_epochs=2)
        if callbacks:
            with pytest.warns(UserWarning, match="equiv_probe failed in _restore, and the run goes on"):
                resumed.fit(ends[-1], loader(), ckpt_path=tmp_path / "model.ckpt")
            assert callbacks[0].probe.schedules["step", "train"].measured == resumed.num_training_batches
        else:
            resumed.fit(ends[-1], loader(), ckpt_path=tmp_path / "model.ckpt")
    assert torch.equal(ends[0].net.matrix, ends[1].net.matrix)
