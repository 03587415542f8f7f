"""What is asked of Lightning itself, the same for ``lightning`` and ``pytorch_lightning``."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

FLAVOURS = ("lightning.pytorch", "pytorch_lightning")


def flavour(thing: Any) -> str:
    """Of which package a Trainer or LightningModule is, subclasses of the user's included."""
    for kind in type(thing).__mro__:
        for name in FLAVOURS:
            if kind.__module__.startswith(f"{name}."):
                return name
    return FLAVOURS[-1]


def dummy_logger(trainer: Any) -> type[Any]:
    """Lightning's logger that logs nothing."""
    kind: type[Any] = importlib.import_module(f"{flavour(trainer)}.loggers.logger").DummyLogger
    return kind


def inform(trainer: Any, message: str) -> None:
    """Say something by the logger of Lightning's own package, on the first process: its level silences it.

    As ``rank_zero_info`` does, whose logger is that of whichever of the two packages was imported last.
    """
    if trainer.is_global_zero:
        logging.getLogger(f"{flavour(trainer)}.utilities.rank_zero").info(message)


def defines(module: Any, name: str) -> bool:
    """Whether a LightningModule has a method of its own, not Lightning's empty one."""
    if name in vars(module):
        return True
    owner = next((kind for kind in type(module).__mro__ if name in vars(kind)), None)
    return owner is not None and not owner.__module__.startswith(tuple(f"{each}." for each in FLAVOURS))


def reads_iterator(step: Any) -> bool:
    """Whether a step takes its batches from an iterator, and so gets another one when it is run again."""
    return "dataloader_iter" in inspect.signature(step).parameters


def compiled_as_a_whole(module: Any) -> bool:
    """Whether the Trainer was given ``torch.compile(module)``: then its steps are compiled, not the network alone."""
    return getattr(module, "_compiler_ctx", None) is not None


def loaders_of(trainer: Any, stage: str) -> list[tuple[str, float]]:
    """The loaders of an evaluation, by the name that tells them apart, and how many batches each has.

    A single one has no name; of several, those of a dict have its keys, and others are called as Lightning's own logs
    call them: ``dataloader_idx_1``.
    """
    loaders, batches = {
        "val": (trainer.val_dataloaders, trainer.num_val_batches),
        "test": (trainer.test_dataloaders, trainer.num_test_batches),
    }[stage]
    if len(batches) < 2:
        return [("", sum(batches))]
    names = list(map(str, loaders)) if isinstance(loaders, Mapping) else []
    if len(names) != len(batches):
        names = [f"dataloader_idx_{place}" for place in range(len(batches))]
    return list(zip(names, batches, strict=True))


def last_evaluation(trainer: Any) -> bool | None:
    """Whether no other epoch of the evaluation that begins is to come; early stopping is not foreseen."""
    if trainer.state.fn != "fit":
        return True
    if trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step:
        return True
    here = trainer.fit_loop.epoch_loop.batch_idx + 1
    epoch, between = trainer.num_training_batches, trainer.val_check_batch
    most, epochs = trainer.max_epochs, trainer.check_val_every_n_epoch
    if not math.isfinite(epoch):
        return most is not None and 0 <= most <= trainer.current_epoch + (epochs or 1)
    in_epoch = epochs is None or here + between <= epoch
    ahead = between if in_epoch else epochs * epoch - here + min(between, epoch)
    left = math.inf if most is None or most < 0 else (most - trainer.current_epoch) * epoch - here
    steps = math.inf if trainer.max_steps < 0 else trainer.max_steps - trainer.global_step
    return bool(ahead > min(left, steps * trainer.accumulate_grad_batches))


def is_running(trainer: Any, stage: str) -> bool:
    """Whether a stage is what the Trainer does now; a sanity check is none."""
    return bool({"train": trainer.training, "val": trainer.validating, "test": trainer.testing}[stage])


def loader_place(step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Which of several loaders a step's batch comes from."""
    given = inspect.signature(step).bind_partial(*args, **kwargs).arguments
    return int(given.get("dataloader_idx", 0))


_LOGGED_AFTER_A_STEP = "on_train_batch_end."
"""Before a name, where Lightning keeps what a callback logs in that hook."""


def not_updated(trainer: Any, module: Any, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give Lightning new values of what was logged in ``on_train_batch_end`` before, and return the others.

    A call of ``module.log`` takes it half a millisecond for each name, most of it to look through what it keeps of that
    name. This is the last of what it does there.

    Args:
        trainer: which keeps them.
        module: whose ``log`` may be the user's own: then all are left to it.
        values: by name.
    """
    kept: Any = getattr(trainer, "_results", None)
    connector = getattr(trainer, "_logger_connector", None)
    # At the first batch of an epoch ``module.log`` forgets what it has of the epoch before.
    known = hasattr(kept, "update_metrics") and getattr(connector, "_first_loop_iter", None) is False
    if not known or defines(module, "log"):
        return dict(values)
    left = {}
    for name, value in values.items():
        one = kept.get(_LOGGED_AFTER_A_STEP + name)
        if one is None or getattr(getattr(one, "value", None), "device", None) != value.device:
            left[name] = value
        else:
            kept.update_metrics(_LOGGED_AFTER_A_STEP + name, value.detach(), 1)
    return left


def rest(trainer: Any, names: Iterable[str]) -> None:
    """Keep Lightning from copying values that were logged in ``on_train_batch_end`` once more at every step.

    They stay in its ``callback_metrics`` and in the progress bar until the epoch ends.
    """
    kept = getattr(trainer, "_results", None) or {}
    for name in names:
        one: Any = kept.get(_LOGGED_AFTER_A_STEP + name)
        if hasattr(one, "has_reset"):
            one.has_reset = True


def about_to_write(trainer: Any) -> bool:
    """Whether Lightning gives this step's values to its loggers; True where that cannot be known."""
    connector = getattr(trainer, "_logger_connector", None)
    return bool(getattr(connector, "should_update_logs", True)) or bool(trainer.fast_dev_run)


def until_row(trainer: Any) -> float:
    """How many batches end, after this one, before one at which Lightning may write; 0 where that is not known."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    stepped, every = getattr(loop, "_batches_that_stepped", None), trainer.log_every_n_steps
    if stepped is None or trainer.fast_dev_run:
        return 0
    return every - 1 - (stepped + 1) % every if every else math.inf
