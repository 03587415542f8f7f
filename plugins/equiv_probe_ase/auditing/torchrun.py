"""The ranks of ``torchrun``: they share the windows of an audit, and rank 0 keeps the journal and the report.

The ranks meet in the key-value store that torchrun has for them. Who is free takes the next window.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe.results.report import Report
from equiv_probe_ase.auditing.crew import Here, Work
from equiv_probe_ase.auditing.windows import measure_window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.distributed import Store  # type: ignore[attr-defined]

    from equiv_probe_ase.auditing.crew import Records, Window
    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Recipe
    from equiv_probe_ase.structures.loading import Structure

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MEETING = timedelta(minutes=10)
"""For which another rank waits for rank 0 to begin the same audit, before it makes it alone."""
PARTING = timedelta(minutes=1)
LONG = timedelta(days=30)

_audits = 0
"""How many this process has begun: ranks meet by the number."""


def world() -> int:
    """How many ranks there are: one, unless torchrun or its like has started this process."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in NEEDED) else 1


def is_first() -> bool:
    """Whether this process writes what all have found."""
    return world() == 1 or os.environ["RANK"] == "0"


def use_own_gpu() -> None:
    """What a model calls "cuda" is the device of this rank, where there are ranks."""
    if world() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) % torch.cuda.device_count())


class Ranks(Here):
    """This process and those that torchrun has started beside it.

    Args:
        recipe: how to make the calculator.
        name: of the audit: ranks with another one, of structures of their own, are left alone.
    """

    def __init__(self, recipe: Recipe, name: str) -> None:
        global _audits  # noqa: PLW0603 - torchrun numbers processes, not what they do
        super().__init__(recipe)
        from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

        self.rank, self.count = int(os.environ["RANK"]), world()
        self._others = Work()
        _audits += 1
        store, _, _ = next(iter(rendezvous("env://", self.rank, self.count, timeout=LONG)))
        self._store: Store = PrefixStore(f"equiv_probe/{_audits}", store)
        if self.rank == 0:
            self._store.set("name", name)
        self.follows = self.rank > 0 and self._meets(name)
        if self.rank > 0 and not self.follows:
            self._store = PrefixStore(f"alone/{self.rank}", self._store)

    def _meets(self, name: str) -> bool:
        try:
            self._store.wait(["name"], MEETING)
        except RuntimeError:
            logger.warning(f"rank 0 has begun no audit within {MEETING}: rank {self.rank} makes its own alone")
            return False
        return bool(self._store.get("name").decode() == name)

    @property
    def work(self) -> Work:
        """What all ranks have done."""
        return super().work + self._others

    @property
    def words(self) -> str:
        """Who they are, for the report."""
        return f"{self.count} ranks" if self._others.evaluations else ""

    def each(self, windows: Sequence[Window], options: Options) -> Iterator[Records]:
        """On rank 0: windows as they are finished, its own and the others'."""
        places = [[one.index for one in window] for window in windows]
        question = self._question(options)
        self._store.set("work", json.dumps({"windows": places, "question": question}))
        outstanding = set(range(len(windows)))
        for place in self._claimed(len(windows)):
            outstanding.discard(place)
            yield measure_window(self.subject, windows[place], options)
            for other in [one for one in outstanding if self._store.check([f"done/{one}"])]:
                outstanding.discard(other)
                yield self._received(other)
        for other in sorted(outstanding):
            self._store.wait([f"done/{other}"], LONG)
            yield self._received(other)

    def _question(self, options: Options) -> dict[str, object]:
        """What ranks must agree on, a plan that each has chosen by itself included."""
        return {**self.subject.findings().question(), "plan": str(options.plan)}

    def _claimed(self, count: int) -> Iterator[int]:
        """Windows that nobody else measures."""
        while (place := self._store.add("next", 1) - 1) < count:
            yield place

    def _send(self, place: int, found: Records | EquivProbeError, work: Work) -> None:
        self._store.set(f"done/{place}", base64.b64encode(pickle.dumps((found, work))).decode())

    def _received(self, place: int) -> Records:
        records, work = pickle.loads(base64.b64decode(self._store.get(f"done/{place}")))
        self._store.delete_key(f"done/{place}")
        if isinstance(records, EquivProbeError):
            raise records
        self._others += work
        found: Records = records
        return found

    def follow(self, structures: Sequence[Structure], options: Options) -> Report:
        """On another rank: measure what is left, and wait for the report.

        Raises:
            EquivProbeError: this rank's model is another than rank 0's.
        """
        self._store.set(f"takes part/{self.rank}", "")
        self._store.wait(["work"], LONG)
        told = json.loads(self._store.get("work"))
        own = json.loads(json.dumps(self._question(options)))
        other = {key: (told["question"][key], own[key]) for key in own if told["question"].get(key) != own[key]}
        by_index = {one.index: one for one in structures}
        for place in self._claimed(len(told["windows"])):
            if other:
                error = EquivProbeError(
                    f"rank {self.rank} with another model or plan than rank 0 ({other})", "the same on all ranks"
                )
                self._send(place, error, Work())
                raise error
            before = super().work
            records = measure_window(self.subject, [by_index[one] for one in told["windows"][place]], options)
            self._send(place, records, super().work - before)
        self._store.wait(["report"], LONG)
        report = Report.from_dict(json.loads(self._store.get("report")))
        self._store.set(f"has report/{self.rank}", "")
        return report

    def share(self, report: Report) -> None:
        """On rank 0: give the report to those that took part, and stay until they have it: the store may be ours."""
        self._store.set("report", json.dumps(report.to_dict()))
        for rank in range(1, self.count):
            if self._store.check([f"takes part/{rank}"]):
                with suppress(RuntimeError):  # it has ended before: an error of its own
                    self._store.wait([f"has report/{rank}"], PARTING)
