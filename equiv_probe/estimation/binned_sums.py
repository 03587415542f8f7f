"""Running sums of the structures in each bin, which merge over measurements, ranks and resumed runs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class BinnedSums:
    """The sums of one output in one stage by bins, ``(rows, 13)``: of everything, and of the latest measurements.

    Args:
        window: how many measurements.
    """

    def __init__(self, window: int) -> None:
        self.everything: Tensor | None = None
        self.recent: deque[Tensor] = deque(maxlen=window)

    def add(self, sums: Tensor) -> None:
        """Add one measurement's."""
        self.everything = sums if self.everything is None else self.everything.to(sums.device) + sums
        self.recent.append(sums)

    @property
    def count(self) -> int:
        """Structures in it, in a bin or outside; fetched from the device."""
        return 0 if self.everything is None else int(self.everything[:, 12].sum())

    @property
    def latest(self) -> Tensor | None:
        """Sums over the window."""
        return torch.stack([one.to(self.recent[-1].device) for one in self.recent]).sum(0) if self.recent else None

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; empty if nothing was binned."""
        if self.everything is None:
            return {}
        return {"everything": self.everything.cpu(), "recent": [one.cpu() for one in self.recent]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        if state:
            self.everything = state["everything"]
            self.recent.extend(state["recent"])


def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """States of :class:`BinnedSums` of several ranks added up, measurement by measurement from the latest."""
    full = [state for state in states if state]
    if not full:
        return {}
    length = max(len(state["recent"]) for state in full)
    recent = [
        torch.stack([state["recent"][-k] for state in full if k <= len(state["recent"])]).sum(0)
        for k in range(length, 0, -1)
    ]
    return {"everything": torch.stack([state["everything"] for state in full]).sum(0), "recent": recent}
