"""What a network is for: what its outputs are compared with, and what else a step touches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equiv_probe.estimation.objectives import label_free, labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from torch import nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate


@dataclass(frozen=True)
class Task:
    """What is measured against.

    Attributes:
        evaluate: makes the losses of a call, structure by structure.
        replays: whether steps are run again; not where the losses of a call are known.
        protect: other modules that a step touches.
        quiet: makes contexts in which steps are run again.
    """

    evaluate: Evaluate
    replays: bool = True
    protect: tuple[nn.Module, ...] = ()
    quiet: Callable[[], AbstractContextManager[Any]] = nullcontext

    @classmethod
    def of(
        cls,
        targets: Mapping[str, str] | Evaluate | None,
        loss: AnyLoss | Mapping[str, AnyLoss],
        objectives: Evaluate | None,
        protect: Iterable[nn.Module],
        quiet: Callable[[], AbstractContextManager[Any]],
    ) -> Task:
        """From the arguments of :class:`equiv_probe.Probe`."""
        if objectives is not None:
            return cls(objectives, False, tuple(protect), quiet)
        evaluate = targets if callable(targets) else labelled(targets, loss) if targets else label_free
        return cls(evaluate, True, tuple(protect), quiet)
