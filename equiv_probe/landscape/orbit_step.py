"""A user's own step on networks that are averages over rotations, with the graph of the weights kept."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.orbit_parts import Decomposed
from equiv_probe.live.capture import wide
from equiv_probe.live.isolation import isolated, observed
from equiv_probe.live.reachable import modules_of
from equiv_probe.probe.operators import Runs, by_name
from equiv_probe.probe.per_structure import Differentiable, differentiating
from equiv_probe.probe.plans import drawn_for
from equiv_probe.probe.player import Player
from equiv_probe.probe.step_losses import entries_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from equiv_probe.estimation.jackknife import Jackknife
    from equiv_probe.probe.probe import Probe
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.rotations.plan import RotationPlan


def replay_attached(run: RecordedStep, plan: RotationPlan, rotations: Tensor) -> dict[str, Jackknife]:
    """The scalars of a step that was recorded, decomposed, by name; each hangs on the parameters it was computed from.

    As :func:`equiv_probe.probe.replay.replay_step`, but every output in the network's place keeps its graph. Where
    gradients are disabled, so is the graph.

    Args:
        run: the step.
        plan: which drew the rotations.
        rotations: ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` where every call sees the same structures.

    Raises:
        EquivProbeError: no number came back that hangs on a graph.
    """
    runs = Runs.of(plan, len(rotations))
    player = Player(run, rotations, plan.weights, graph=True)
    scalars: dict[Any, dict[str, Tensor]] = {}
    graph = torch.is_grad_enabled()
    with run.repeating(), differentiating(run.modules), Differentiable():
        for operator in runs.all:
            with torch.set_grad_enabled(graph), player.standing_in(operator):
                scalars[operator] = numbers_of(run.step(), attached=graph)
    strayed = torch.stack(player.strayed).any() if player.strayed else None
    names = [name for name in scalars[runs.mean] if all(name in one for one in scalars.values())]
    if not names:
        raise EquivProbeError(
            "a step that returned no number with a graph",
            "a loss that can be differentiated by the parameters",
            "return loss, not loss.item() or loss.detach()",
        )
    return {name: runs.jackknife(one, strayed) for name, one in by_name(scalars, names).items()}


def numbers_of(result: Any, *, attached: bool) -> dict[str, Tensor]:
    """The numbers that a step returned, in float64; of losses by structure their mean."""
    entries = {name: v for name, v in entries_of(result).items() if isinstance(v, torch.Tensor)}
    entries = {name: v for name, v in entries.items() if v.is_floating_point() and (v.requires_grad or not attached)}
    found = {name: wide(value.reshape(())) for name, value in entries.items() if value.numel() == 1}
    return found or {name: wide(value).mean() for name, value in entries.items() if value.ndim == 1}


def loss_among(numbers: Mapping[str, Any]) -> str:
    """The number that is differentiated where nobody says which: ``"loss"``, or else the first."""
    return "loss" if "loss" in numbers else next(iter(numbers))


class StepPart:
    """A step of the user's own, deterministic: the random state before it is put back every time."""

    def __init__(
        self,
        probe: Probe,
        step: Callable[[], Any],
        plan: RotationPlan,
        *,
        name: str | None,
        generator: torch.Generator | None,
        per_structure: bool,
    ) -> None:
        self._probe, self._step, self._plan, self._protect = probe, step, plan, modules_of(step)
        result: list[Any] = []
        with isolated(probe.live.network, *self._protect, gradients=True, contents=True), observed():
            run = probe.record(step, result)
            self._before = run.before
            self._plan = probe.fitted(run, plan)
            run.resolve()
            drawn = generator or self._plan.generator()
            self.rotations = drawn_for(run, self._plan, drawn, per_structure=per_structure)
            found = numbers_of(result[0], attached=False)
            run.undo()
        if not found or name not in {None, *found}:
            raise EquivProbeError(
                f"a step that returned the numbers {sorted(found)}", f"{name or 'its loss'!r} among them", "return loss"
            )
        self.name = name or loss_among(found)
        self.weights: Mapping[str, Tensor] = {self.name: found[self.name].new_ones(1)}
        self.factors: Mapping[str, float] = {self.name: 1.0}
        self.count = 1

    @property
    def replicates(self) -> int:
        """See :class:`equiv_probe.landscape.orbit_parts.Part`."""
        return len(self.rotations)

    @contextmanager
    def _recorded(self) -> Iterator[RecordedStep]:
        with isolated(self._probe.live.network, *self._protect, gradients=True, contents=True), observed():
            self._before.restore()
            yield self._probe.record(self._step, [])

    def redrawn(self, generator: torch.Generator) -> Self:
        """See :class:`equiv_probe.landscape.orbit_parts.Part`."""
        found = copy.copy(self)
        with self._recorded() as run:
            run.resolve()
            found.rotations = drawn_for(run, self._plan, generator, per_structure=self.rotations.ndim == 5)
            run.undo()
        return found

    def sums(self, start: int, stop: int, replicates: Sequence[int]) -> dict[str, Decomposed]:
        """See :class:`equiv_probe.landscape.orbit_parts.Part`."""
        del start, stop
        # Recorded anew: with other weights, the network may be asked something else.
        with self._recorded() as run:
            run.undo()
        found = replay_attached(run, self._plan, self.rotations[list(replicates)])
        if self.name not in found:
            raise EquivProbeError(f"a step whose {self.name!r} has no graph", f"one of {sorted(found)}", "name=")
        one = found[self.name]
        return {self.name: Decomposed(one.total, one.mean, one.equiv)}
