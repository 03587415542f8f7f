"""What an average of ``h_g`` gives at the inputs of a step's calls: evaluated once, then looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.live.capture import wide
from equiv_probe.live.outputs import all_outputs
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.representations.grids import filled_outside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.random_state import RandomState
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.recorded import Recorded

Known = dict[tuple[int, int], dict[str, "Tensor"]]
"""``h_g`` at one input, by rotation and output."""


class Averages:
    """Evaluates ``Σ w h_g / Σ w``.

    Args:
        live: how the network is evaluated at rotated inputs.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)``.
        weights: of the plan, ``(n,)``.
    """

    def __init__(self, live: LiveOrbit, rotations: Tensor, weights: Tensor) -> None:
        self.live, self.rotations, self.weights = live, rotations, weights
        self.evaluations = 0

    def of(
        self,
        operator: Operator,
        call: Call,
        known: Known,
        start: RandomState,
        own: Mapping[str, Tensor],
        *,
        attached: bool,
    ) -> dict[str, Tensor]:
        """The average over an operator's rotations by output; a single one is given as it is.

        Args:
            operator: which rotations.
            call: the input.
            known: what was evaluated at this input before; the rest is added to it.
            start: the random state before the call.
            own: the network's own output, which stands where a rotated grid has nothing.
            attached: whether the outputs keep the graph of the call's inputs and the network's weights.
        """
        self._evaluate([key for key in operator if key not in known], call, known, start, own, attached=attached)
        if len(operator) == 1:
            return known[operator[0]]
        scale = torch.stack([self.weights[i] for _, i in operator])
        scale = scale / scale.sum()
        averaged = {}
        for name, like in known[operator[0]].items():
            stacked = wide(torch.stack([known[key][name] for key in operator]))
            averaged[name] = torch.einsum(
                "k,k...->...", (scale / scale.sum()).to(stacked, non_blocking=True), stacked
            ).to(like.dtype)
        return averaged

    def _evaluate(
        self,
        missing: list[tuple[int, int]],
        call: Call,
        known: Known,
        start: RandomState,
        own: Mapping[str, Tensor],
        *,
        attached: bool,
    ) -> None:
        live, structures = self.live, self.live.structures(call.inputs)
        # In train mode one by one, each with the same dropout mask and its own batch statistics.
        alone = attached or live.network.training
        together = 1 if alone else live.copies_at_once(structures, call.inputs)

        def evaluate(a: int, b: int) -> dict[str, Tensor]:
            start.restore()
            rotations = torch.stack([self.rotations[key] for key in missing[a:b]])
            return (live.attached if attached else live.rotated_back)(call, structures, rotations)

        done = 0
        for values in in_chunks(evaluate, len(missing), together):
            for k in range(len(next(iter(values.values())))):
                one = {name: value[k] for name, value in values.items()}
                known[missing[done]] = filled_outside(one, live.known_schema.outputs, own)
                done += 1
        self.evaluations += done


def beside(live: LiveOrbit, known: dict[str, Tensor], call: Call, one: Recorded, start: RandomState) -> None:
    """Fill in what the network puts out beside what is measured, on a graph of ours: it may hang on the same weights.

    What it only left behind in the dict it was given (layers' features) is not counted among its outputs.

    Args:
        live: how the network is evaluated.
        known: what it put out for the same input before, to be filled.
        call: the input.
        one: that call in the user's own run.
        start: the random state before that.
    """
    outputs = live.known_schema.outputs
    held = {} if one.own is None else one.call.dicts[one.own][1]
    given = {n: v for n, v in all_outputs(one.raw, list(outputs)).items() if n not in outputs}
    given = {n: v for n, v in given.items() if isinstance(v, torch.Tensor) and v is not held.get(n)}
    wanted = [n for n, v in given.items() if v.requires_grad]
    if wanted and not known:
        start.restore()
        fresh = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in call.inputs.items()}
        args, kwargs = call.rebuild(fresh)
        found = all_outputs(live.network(*args, **kwargs), list(outputs))
        known.update({n: found[n] for n in wanted})
