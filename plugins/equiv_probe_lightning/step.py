"""A module's step as the callback runs it: in the place of the method, off again without a trace; and silence."""

from __future__ import annotations

import copy
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from equiv_probe.live.isolation import measuring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MANY = 10**6
STEPS = {"training_step": "train", "validation_step": "val", "test_step": "test"}


class Step:
    """Stands for a method of a LightningModule, as an attribute of the instance.

    Lightning looks through ``__wrapped__`` at the signature and at whether the method is overridden. A copy of the
    module, pickled or deep, gets its class's own method back.

    Args:
        module: the LightningModule.
        name: of the method.
        run: called with the stage, the method, and the step's arguments.
    """

    def __init__(self, module: Any, name: str, run: Callable[..., Any]) -> None:
        self.module, self.name, self.run = module, name, run
        self.before = vars(module).get(name)
        self.original = getattr(module, name)
        self.__wrapped__ = getattr(self.original, "__wrapped__", self.original)
        self.__name__ = name
        self._passing: float = 0
        """How many of the next steps are none of our business."""
        self._let: float = 0
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step."""
        if self._passing:
            self._passing -= 1
            return self.original(*args, **kwargs)
        if measuring():
            return self.original(*args, **kwargs)
        return self.run(STEPS[self.name], self.original, args, kwargs)

    def let_pass(self, steps: float) -> None:
        """Let the next steps go by; after a training step of milliseconds whatever is asked then costs microseconds."""
        self._passing = self._let = min(steps, _MANY)

    def gone_by(self) -> int:
        """How many of them did; the others are looked at again."""
        gone = int(self._let - self._passing)
        self._passing = self._let = 0
        return gone

    def remove(self) -> None:
        """Put back what was there, unless somebody else put something there in the meantime."""
        if vars(self.module).get(self.name) is not self:
            return
        if self.before is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.before)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, self.name)


@contextmanager
def recorded_logs(module: Any, *, forward: bool) -> Iterator[dict[str, Any]]:
    """Keep what a step logs with ``self.log`` and ``self.log_dict``.

    Args:
        module: the LightningModule.
        forward: whether it is logged as well.
    """
    seen: dict[str, Any] = {}
    own = vars(module).get("log")
    log = module.log

    def record(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        seen[name] = value
        if forward:
            log(name, value, *args, **kwargs)

    vars(module)["log"] = record
    try:
        yield seen
    finally:
        if own is None:
            vars(module).pop("log", None)
        else:
            vars(module)["log"] = own


@contextmanager
def silent(module: Any, trainer: Any, dummy: type[Any]) -> Iterator[None]:
    """Let nothing reach loggers and progress bars through the module, nor W&B through ``wandb.log``.

    Args:
        module: the LightningModule.
        trainer: its Trainer.
        dummy: Lightning's logger that logs nothing.
    """
    loggers = list(trainer.loggers)
    own = vars(module).get("print")
    trainer.loggers = [dummy() for _ in loggers]
    wandb = sys.modules.get("wandb")
    log = getattr(wandb, "log", None)
    if log is not None:
        wandb.log = _nothing  # type: ignore[union-attr]
    vars(module)["print"] = _nothing
    try:
        yield
    finally:
        trainer.loggers = loggers
        if log is not None:
            wandb.log = log  # type: ignore[union-attr]
        if own is None:
            vars(module).pop("print", None)
        else:
            vars(module)["print"] = own


def _nothing(*_: Any, **__: Any) -> None:
    """Print nothing."""


def copied(given: Any) -> Any:
    """A step's arguments for another run of it; None where they cannot be copied."""
    try:
        return copy.deepcopy(given)
    except Exception:  # whatever a batch is made of may say no in its own way
        return None
