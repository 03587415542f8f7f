"""Gradients of a user's own step in a live run: measured now and then beside the user's own, which do not notice."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.estimates import Sums
from equiv_probe.landscape.gradient_sums import GradientSums
from equiv_probe.landscape.gradients import of_blocks, of_losses
from equiv_probe.landscape.measured_gradients import Gradients
from equiv_probe.landscape.orbit_step import loss_among, replay_attached
from equiv_probe.landscape.parameter_groups import grouped, parameters_of
from equiv_probe.live.isolation import isolated
from equiv_probe.probe.plans import drawn_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.landscape.parameter_groups import Groups
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.probe.schedule import Cadence
    from equiv_probe.results.gradient_record import GradientRecord
    from equiv_probe.rotations.plan import RotationPlan

USUAL = 500
"""Steps between two measurements: with 6 rotations one costs about as much as 15 training steps, so 3 %; of steps of a
few milliseconds, in which the calls themselves count, 25."""
BLOCKS = 3
"""The fewest that give error bars."""
HALF_SCALE = 2.0**12
"""By which a loss is multiplied, and its gradient divided: half precision, if any takes part, holds no small ones."""


class LiveGradients:
    """What was measured, by output; how it is measured."""

    def __init__(self, every: Cadence | bool, groups: Groups, window: int) -> None:
        self.every: Cadence = USUAL if every is True else every
        self.groups, self.window = groups, window
        self.recent: dict[str, deque[Gradients]] = {}
        self.everything: dict[str, Gradients] = {}
        self.notes: list[str] = []
        self._new: dict[str, Gradients] = {}

    def measure(
        self, run: RecordedStep, plan: RotationPlan, generator: torch.Generator, *, per_structure: bool | None
    ) -> None:
        """Differentiate a recorded step, in blocks of independent rotations; nothing waits for the device."""
        modules = [run.live.network, *run.protect]
        every = {n: p for n, p in parameters_of(modules).items() if p.requires_grad}
        members, given = grouped(every, self.groups), list(every.values())
        scale = 1.0 if all(one.dtype == torch.float64 for one in given) else HALF_SCALE
        name, mean, equiv = "", [], []
        # Isolated as a whole: what is checkpointed is evaluated again, batch norm and all, in the backward pass.
        with torch.enable_grad(), without_hooks(given), isolated(*run.modules, gradients=True):
            for _ in range(BLOCKS):
                rotations = drawn_for(run, plan, generator, per_structure=per_structure)
                found = replay_attached(run, plan, rotations)
                name = name or loss_among(found)
                one = found.pop(name)
                mean.append(of_losses(one.mean, given, keep=True, scale=scale))
                # Kept too: what the step names from outside of it may hang on the user's own graph.
                equiv.append(of_losses(one.equiv, given, keep=True, scale=scale))
                del found, one  # their graph, before the next one is made
        self.add(name, of_blocks(mean, equiv, every, members))

    def add(self, name: str, found: Gradients) -> None:
        """Take in a measurement of one output; what is not finite does not count."""
        found = found.finite()
        device = next(iter(found.groups.values())).sums.first.device
        if name in self.everything:  # a checkpoint was read onto another device
            self.everything[name] = self.everything[name].to(device)
            self.recent[name] = deque((one.to(device) for one in self.recent[name]), maxlen=self.window)
        self.recent.setdefault(name, deque(maxlen=self.window)).append(found)
        self._new[name] = found
        known = self.everything.get(name)
        same = known is not None and known.groups.keys() == found.groups.keys()
        self.everything[name] = known + found if known is not None and same else found

    def latest(self) -> dict[str, Gradients]:
        """The last measurement of each output."""
        return {name: rows[-1] for name, rows in self.recent.items()}

    def new(self) -> dict[str, Gradients]:
        """What was measured since this was asked last: nothing, where it could not be."""
        found, self._new = self._new, {}
        return found

    def shown(self, recent: Mapping[str, Sequence[Gradients]] | None = None) -> dict[str, GradientRecord]:
        """For a report, by ``train/<output>``: the numbers over the latest measurements; waits for the device."""
        rows = self.recent if recent is None else recent
        return {f"train/{name}": _merged(list(one)).record() for name, one in rows.items()}

    def values(self, found: Mapping[str, Gradients]) -> dict[str, Tensor]:
        """What is logged, as 0-d tensors: ``<output>/grad_ratio``, and of a group ``<output>/<group>/grad_ratio``."""
        return {
            f"{name}/{key}" if group == "all" else f"{name}/{group}/{key}": value
            for name, one in found.items()
            for group, sums in one.groups.items()
            for key, value in sums.tensors().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

        def plain(one: Gradients) -> dict[str, Any]:
            return {"sums": {name: sums.sums.flat() for name, sums in one.groups.items()}, "sizes": dict(one.sizes)}

        return {
            "recent": {name: [plain(one) for one in rows] for name, rows in self.recent.items()},
            "everything": {name: plain(one) for name, one in self.everything.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""

        def read(one: Mapping[str, Any]) -> Gradients:
            sums = {name: GradientSums(Sums.from_flat(flat)) for name, flat in one["sums"].items()}
            return Gradients(sums, sizes=one["sizes"])

        self.recent = {
            name: deque((read(one) for one in rows), maxlen=self.window) for name, rows in state["recent"].items()
        }
        self.everything = {name: read(one) for name, one in state["everything"].items()}


def _merged(rows: Sequence[Gradients]) -> Gradients:
    """Those measurements that are of the groups of the last one, as one."""
    alike = [one for one in rows if one.groups.keys() == rows[-1].groups.keys()]
    return reduce(add, alike)


@contextmanager
def without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Parameters without the hooks that their user put on them for another backward pass."""
    kept = [(one, one._backward_hooks) for one in parameters if one._backward_hooks]
    for one, _ in kept:
        one._backward_hooks = None
    try:
        yield
    finally:
        for one, hooks in kept:
            one._backward_hooks = hooks
