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
