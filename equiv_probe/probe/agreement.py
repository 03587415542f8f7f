"""What processes that train together decide as one: the first one decides, the others do the same.

It goes through the key-value store by which the processes found each other, not through a collective: a probe on the
first process alone waits for nobody.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.wrappers import sharded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

PATIENCE = 30.0
"""Seconds that a process waits for the others."""

_ORDINAL, _ORDINAL_OF_MEETINGS = itertools.count(), itertools.count()
"""Of what processes agree on, in the order in which it first comes up: the same in all of them."""


class Agreement:
    """Decisions that are the same in all processes.

    Every process makes as many of them, in the same order: they hang on counts alone.
    """

    def __init__(self) -> None:
        self._name = ""
        self._count = 0
        self._alone = False

    def decide(self, mine: Callable[[Sequence[float]], list[Any]], known: Sequence[float]) -> list[Any]:
        """The first process's decision.

        Args:
            mine: decides, by numbers; makes something that JSON can hold.
            known: the numbers of this process; the largest that any process has told are decided by.
        """
        store = _store()
        if store is None or self._alone:
            return mine(known)
        self._name = self._name or f"equiv_probe/{next(_ORDINAL)}"
        key, self._count = f"{self._name}/{self._count}", self._count + 1
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if rank == 0:
            told = [f"{self._name}/known/{one}" for one in range(1, world)]
            others = [json.loads(store.get(one)) for one in told if store.check([one])]
            found = mine([max(values) for values in zip(known, *others, strict=True)])
            store.set(key, json.dumps(found))
            return found
        store.set(f"{self._name}/known/{rank}", json.dumps(list(known)))
        if not _heard(store, [key]):
            self._alone = True
            warnings.warn(
                f"equiv_probe: rank {rank} decides on its own when to measure: rank 0 has not measured for "
                f"{PATIENCE:.0f} s; attach the probe on every rank",
                stacklevel=2,
            )
            return mine(known)
        decided: list[Any] = json.loads(store.get(key))
        return decided


class Meeting:
    """The first measurement of a network that is spread over processes: all of them must be about to measure."""

    def __init__(self) -> None:
        self._met = False

    def require(self, network: nn.Module) -> None:
        """Raise EquivProbeError unless they are; once.

        Args:
            network: whose every call is a collective, if it is sharded; of another one nothing is required.
        """
        store = None if self._met else _store()
        if store is None or not sharded(network.modules()):
            return
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        place = f"equiv_probe/meeting/{next(_ORDINAL_OF_MEETINGS)}"
        keys = [f"{place}/{one}" for one in range(world)]
        store.set(keys[rank], "1")
        if not _heard(store, keys):
            missing = [str(one) for one, key in enumerate(keys) if not store.check([key])]
            raise EquivProbeError(
                f"a network that is sharded over {world} processes, and no measurement on rank {', '.join(missing)}",
                "a probe on every rank: each pass of a sharded network needs all of them",
                "attach it without `if rank == 0`",
            )
        self._met = True


def alone() -> bool:
    """Whether this is the only process: others would have to evaluate a network as often as this one does."""
    return _store() is None


def _store() -> Any:
    """The store of several processes; None of one alone."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return None
    return distributed.distributed_c10d._get_default_store()


def _heard(store: Any, keys: list[str]) -> bool:
    """Whether keys are there, or come soon; asked for again and again, since a store's own waiting logs its failure."""
    patient_until = time.monotonic() + PATIENCE
    while not store.check(keys):
        if time.monotonic() > patient_until:
            return False
        time.sleep(0.002)
    return True
