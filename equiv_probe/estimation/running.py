"""Running estimates: over everything since the start, and over a window of the latest measurements."""

from __future__ import annotations

import math
from collections import deque
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.binned_sums import BinnedSums
from equiv_probe.estimation.estimates import LOGGED, Sums, flattened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


USER_DEFINED = "user-defined"
"""The loss of a step that was run again: whatever it is, it is one number for a batch."""
USER_DEFINED_BEFORE = "the step's own"
"""How it was called in files of earlier versions."""
ENOUGH = 4
"""Replicates from which the scatter of pseudo-values gives an error bar."""


class RunningEstimates(dict[tuple[str, str], "Running"]):
    """The running estimates of every stage and output.

    Args:
        window: how many measurements a running estimate is over.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self._earlier: dict[tuple[str, str], Running] = {}
        self.stale: set[str] = set()
        """Stages that begin anew with their next measurement."""

    def add(
        self,
        stage: str,
        name: str,
        equiv: Tensor,
        total: Tensor,
        weight: Tensor,
        *,
        pseudo: tuple[Tensor, Tensor] | None = None,
    ) -> Running:
        """Add one measurement's structures: ``L_equiv``, ``L_total`` (NaN without labels) and weights, each ``(U,)``.

        ``pseudo``, of one structure or batch alone, are jackknife pseudo-values of both losses over replicates,
        ``(R,)``.
        """
        if stage in self.stale:
            self.stale.discard(stage)
            for key in [key for key in self if key[0] == stage]:
                self._earlier[key] = self.pop(key)
        if (stage, name) not in self:
            self[stage, name] = Running(self.window)
            if (stage, name) in self._earlier:  # rounding is what it was
                self[stage, name].rounds_as(self._earlier[stage, name])
        running = self[stage, name]
        running.update(equiv, total, weight, pseudo)
        return running

    def compute(self, *, window: bool) -> dict[str, float]:
        """The estimates as ``equiv/<stage>/<output>/L_equiv`` and so on, each with ``_stderr``."""
        found = {}
        for (stage, name), running in self.items():
            sums = running.shown(running.window if window else running.everything)
            found.update({f"equiv/{stage}/{name}/{key}": value for key, value in estimates(sums).items()})
        return found

    def state_dict(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The state for a checkpoint."""
        return {key: running.state_dict() for key, running in self.items()}

    def load_state_dict(self, state: Mapping[tuple[str, str], dict[str, Any]], *, binned: bool = True) -> None:
        """Undo :meth:`state_dict`; without the sums in bins if these are others now."""
        self.clear()
        for key, stored in state.items():
            self[key] = Running(self.window)
            self[key].load_state_dict(stored)
            if binned:
                self[key].binned.load_state_dict(stored.get("binned", {}))


class Running:
    """The sums of one output in one stage. They stay on the device until someone asks.

    Args:
        window: how many measurements the running estimate is over.
    """

    def __init__(self, window: int) -> None:
        self.sums = Sums.of(*torch.zeros(3, 1, dtype=torch.float64))
        self.recent: deque[Sums] = deque(maxlen=window)
        self.binned = BinnedSums(window)
        self.structures = 0
        """How many were added, whatever their weight: known without asking the device."""
        self.labelled = True
        self.loss = USER_DEFINED
        self.floor: Tensor | None = None
        """``L_equiv`` from rounding alone, measured last; None if it was not."""
        self.precision = 0.0
        """Spacing of the numbers in which the loss itself came, relative to it."""
        self._single: Sums | None = None

    def update(self, equiv: Tensor, total: Tensor, weight: Tensor, pseudo: tuple[Tensor, Tensor] | None = None) -> None:
        """Add one measurement's structures, each ``(U,)``, or one with pseudo-values; NaN does not count."""
        weight = torch.where(equiv.isfinite(), weight, torch.zeros_like(weight))
        if self.sums.first.device != equiv.device:
            self.sums = self.sums.to(equiv.device)
            self.recent = deque((sums.to(equiv.device) for sums in self.recent), self.recent.maxlen)
        self.recent.append(Sums.of(equiv, total, weight))
        self.sums += self.recent[-1]
        self.structures += len(equiv)
        self._single = None
        if pseudo is not None and self.structures == 1 and len(pseudo[0]) >= ENOUGH:
            self._single = Sums.of(*pseudo, torch.ones_like(pseudo[0]))

    def rounds_as(self, other: Running) -> None:
        """Take over the floor of the same output."""
        self.floor, self.precision = other.floor, other.precision

    @property
    def has_error_bar(self) -> bool:
        """Whether there is more than one structure, or the replicates of one."""
        return self.structures > 1 or self._single is not None

    def shown(self, sums: Sums) -> Sums:
        """What error bars are taken from: of a single measurement its replicates, otherwise the sums given."""
        return sums if self._single is None else self._single.to(sums.first.device)

    def of_one(self, sums: Sums) -> bool:
        """Whether sums are those over the replicates of a single measurement; fetches them from the device."""
        return self._single is not None and torch.equal(sums.first.cpu(), self._single.first.cpu())

    @property
    def latest(self) -> Sums:
        """Sums over the window, where they are."""
        return reduce(add, self.recent) if self.recent else self.sums

    @property
    def window(self) -> Sums:
        """Sums over the window; fetches them from the device."""
        return self.latest.to("cpu")

    @property
    def everything(self) -> Sums:
        """Sums since the start; fetches them from the device."""
        return self.sums.to("cpu")

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        recent = [vars(sums.to("cpu")) for sums in self.recent]
        known = {"structures": self.structures, "labelled": self.labelled, "loss": self.loss}
        known |= {"floor": None if self.floor is None else float(self.floor), "precision": self.precision}
        binned = {"binned": self.binned.state_dict()} if self.binned.everything is not None else {}
        return {"everything": vars(self.everything), "recent": recent, **known, **binned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self.sums = Sums(**state["everything"])
        self.recent.extend(Sums(**sums) for sums in state["recent"])
        self.structures, self.labelled, self.loss = state["structures"], state["labelled"], state["loss"]
        floor, self.precision = state.get("floor"), state.get("precision", 0.0)
        self.floor = None if floor is None else torch.tensor(floor, dtype=torch.float64)


def estimates(sums: Sums) -> dict[str, float]:
    """``L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr``; without labels ``L_equiv`` alone."""
    found = {name: getattr(sums, key) for name, key in LOGGED.items()}
    return flattened({name: one for name, one in found.items() if not math.isnan(one.value)}, ())
