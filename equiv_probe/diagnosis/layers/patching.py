"""What each call adds to the error of an output: its activations are replaced by their group averages.

With the group average in the place of what comes out of a call, what is left of the error is added after it or around
it. With the group average in the place of what goes in, the call's own part is left as well. The difference is what the
call adds. (Activation patching: K. Meng et al., Locating and editing factual associations in GPT, arXiv:2202.05262.)
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import variance
from equiv_probe.diagnosis.layers.measuring import Patch
from equiv_probe.diagnosis.layers.traced_model import children
from equiv_probe.errors import in_one_line
from equiv_probe.progress import progress as progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.layers.calls import Call
    from equiv_probe.diagnosis.layers.sites import CallRecord
    from equiv_probe.diagnosis.layers.traced_model import TracedModel

ROTATIONS = 8
"""At which a patched model is evaluated."""
WORTH = 0.01
"""Part of the error that a call must add for the calls inside it to be asked."""


@dataclass
class Patched:
    """What became of an output's error, as parts of its square.

    Attributes:
        removed: that goes with the group average in the place of what comes out of the call.
        adds: that the call adds.
        why: it is not known.
    """

    removed: float = math.nan
    adds: float = math.nan
    why: str = ""


class Patching:
    """The calls of a traced model, patched one after the other, those inside of what adds most first.

    Args:
        traced: measured already.
        output: whose error is explained.
        budget: evaluations that may be spent.
    """

    def __init__(self, traced: TracedModel, output: str, budget: int) -> None:
        self._traced, self._output, self._left = traced, output, budget
        step = max(1, len(traced.rotations) // ROTATIONS)
        self._rotations = traced.rotations[::step][:ROTATIONS]
        self._whole = variance(traced.values[output][::step][:ROTATIONS])
        self.evaluations = 0

    def run(self, *, progress: bool = False) -> dict[int, Patched]:
        """What is known of each call, by its place in the order; calls that are not asked are not among them."""
        with progress_bar(len(self._traced.calls), "trace", "calls", shown=progress) as advance:
            return self._run(advance)

    def _run(self, advance: Callable[[int], None]) -> dict[int, Patched]:
        inside = children(self._traced.calls)
        found: dict[int, Patched] = {}
        waiting = [(-1.0, self._breaks_later(place), place) for place in inside.get(None, [])]
        heapq.heapify(waiting)
        while waiting:
            worth, _, place = heapq.heappop(waiting)
            advance(1)
            call = self._traced.calls[place]
            found[place] = self._patched(call) if self._left > 0 else Patched(why="the budget was spent")
            adds = found[place].adds
            if not abs(adds) < WORTH:
                worth = -abs(adds) if math.isfinite(adds) else worth
                for one in inside.get(place, []):
                    heapq.heappush(waiting, (worth, self._breaks_later(one), one))
        return found

    def _breaks_later(self, place: int) -> bool:
        """Whether a call is not the first to break: those that are come first."""
        call, broken = self._traced.calls[place], self._traced.is_broken
        return not any(map(broken, call.outputs.values())) or any(map(broken, call.inputs.values()))

    def _patched(self, call: CallRecord) -> Patched:
        if not call.finished or not call.outputs:
            return Patched()
        try:
            before, after = (self._variance_with(call, side) for side in ("in", "out"))
        except (Exception, SystemExit) as error:  # a module may refuse what no layer before it makes
            return Patched(why=in_one_line(error))
        return Patched(1 - after / self._whole, (before - after) / self._whole)

    def _variance_with(self, call: CallRecord, side: str) -> float:
        """What is left with averages in the place of what goes in or comes out; of what is equivariant they are it."""
        sites = call.inputs if side == "in" else call.outputs
        broken = {name: site for name, site in sites.items() if site.mean is not None and self._traced.is_broken(site)}
        if not broken:
            return self._whole
        patch = Patch(call.key, side, broken)
        values = []
        for rotation in self._rotations:
            values.append(self._traced.rotated_back(patch.at(rotation), rotation)[self._output])
            self._left -= 1
            self.evaluations += 1
        return variance(torch.stack(values))


class _Steeper:
    """A visitor that doubles gradients and changes no value: what then changes was differentiated inside the model."""

    def enter(self, call: Call) -> None:
        """See :class:`Visitor`."""

    def leave(self, call: Call) -> Mapping[str, Tensor]:
        """See :class:`Visitor`."""
        return {name: value + (value - value.detach()) for name, value in call.outputs.items() if value.requires_grad}


def differentiated(traced: TracedModel) -> set[str]:
    """Outputs that the model obtains by differentiating another one, which activation patching cannot follow."""
    found = traced.run(_Steeper(), traced.rotated.rotated(None))
    changed = set()
    for name, value in found.items():
        own = traced.identity[name]
        if float((value - own).abs().max()) > 1e-3 * float(own.abs().max()):
            changed.add(name)
    return changed
