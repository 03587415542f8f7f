"""A module's step as the callback runs it: in the place of the method, off again without a trace; and silence."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from equiv_probe.isolation import measuring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step."""
        if measuring():
            return self.original(*args, **kwargs)
        return self.run(STEPS[self.name], self.original, args, kwargs)

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
    """Let nothing reach loggers and the console through the module, and lists that a step appends to stay as they were.

    Args:
        module: the LightningModule.
        trainer: its Trainer.
        dummy: Lightning's logger that logs nothing.
    """
    loggers = list(trainer.loggers)
    contents = [(kept, _copied(kept)) for m in module.modules() for kept in _containers(vars(m))]
    own = vars(module).get("print")
    trainer.loggers = [dummy() for _ in loggers]
    vars(module)["print"] = _nothing
    try:
        yield
    finally:
        trainer.loggers = loggers
        if own is None:
            vars(module).pop("print", None)
        else:
            vars(module)["print"] = own
        for kept, before in contents:
            _restore(kept, before)


def _nothing(*_: Any, **__: Any) -> None:
    """Print nothing."""


def _containers(attributes: dict[str, Any]) -> list[Any]:
    """A module's own lists, dicts, sets and queues, and those in them; torch's and Lightning's are left out."""
    todo = [value for name, value in attributes.items() if not name.startswith("_")]
    found: dict[int, Any] = {}
    while todo:
        value = todo.pop()
        if isinstance(value, (list, dict, set, deque)) and id(value) not in found:
            found[id(value)] = value
            todo.extend(value.values() if isinstance(value, dict) else value)
    return list(found.values())


def _copied(kept: Any) -> Any:
    return dict(kept) if isinstance(kept, dict) else list(kept)


def _restore(kept: Any, before: Any) -> None:
    """Give a container back its contents, in place."""
    kept.clear()
    (kept.update if isinstance(kept, (dict, set)) else kept.extend)(before)
