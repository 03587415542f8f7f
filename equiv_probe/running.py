"""Running estimates: over everything since the start, and over a window of the latest measurements."""

from __future__ import annotations

from collections import deque
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimates import Sums
from equiv_probe.metric import EquivarianceMetric

if TYPE_CHECKING:
    from torch import Tensor


class Running:
    """The sums of one output in one stage. They stay on the device until someone asks.

    Args:
        window: how many measurements the running estimate is over.
    """

    def __init__(self, window: int) -> None:
        self.metric = EquivarianceMetric()
        self.recent: deque[Sums] = deque(maxlen=window)
        self.structures = 0
        """How many were added, whatever their weight: known without asking the device."""
        self.labelled = True

    def update(self, equiv: Tensor, total: Tensor, weight: Tensor) -> None:
        """Add one measurement's structures, each argument ``(U,)``; what is not finite does not count."""
        weight = torch.where(equiv.isfinite(), weight, torch.zeros_like(weight))
        if self.metric.first.device != equiv.device:
            self.metric.to(equiv.device)
            self.recent = deque((sums.to(equiv.device) for sums in self.recent), self.recent.maxlen)
        self.metric.update(equiv, total, weight)
        self.recent.append(Sums.of(equiv, total, weight))
        self.structures += len(equiv)

    @property
    def latest(self) -> Sums:
        """Sums over the window, where they are."""
        return reduce(add, self.recent) if self.recent else self.metric.sums

    @property
    def window(self) -> Sums:
        """Sums over the window; fetches them from the device."""
        return self.latest.to("cpu")

    @property
    def everything(self) -> Sums:
        """Sums since the start; fetches them from the device."""
        return self.metric.sums.to("cpu")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        recent = [vars(sums.to("cpu")) for sums in self.recent]
        known = {"structures": self.structures, "labelled": self.labelled}
        return {"everything": vars(self.everything), "recent": recent, **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        for name, value in state["everything"].items():
            setattr(self.metric, name, value.to(getattr(self.metric, name)))
        self.recent.extend(Sums(**sums) for sums in state["recent"])
        self.structures, self.labelled = state["structures"], state["labelled"]


def estimates(sums: Sums) -> dict[str, float]:
    """``L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr``; without labels ``L_equiv`` alone."""
    found = {"L_total": sums.total, "L_mean": sums.mean, "L_equiv": sums.equiv, "share": sums.share}
    values: dict[str, float] = {}
    for name, estimate in found.items():
        if estimate.value == estimate.value:  # not NaN
            values |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
    return values
