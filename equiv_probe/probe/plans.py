"""Which rotations a measurement takes: the plan of its stage, fitted to the grids of the call, and draws from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.hook import CallRotation, rotation_of_calls
from equiv_probe.live.outputs import read_outputs
from equiv_probe.rotations.drawing import RotationSource, draw
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.affordable import Size
    from equiv_probe.probe.recorded import RecordedStep

LIGHT = RotationPlan("haar", replicates=2)
"""Two rotations: the fewest with which ``L_equiv`` can be estimated without bias."""
SMALL = RotationPlan("haar", replicates=4)
"""Of evaluation where the whole plan would cost too much: the fewest that give an error bar on one batch."""


class Plans:
    """The plan of training and that of evaluation.

    Args:
        full: of evaluation; None is the usual one, or what fits the grids of the first call.
        light: of training; of the usual one likewise.
        seed: of the rotations.

    Raises:
        EquivProbeError: a plan of one replicate.
    """

    def __init__(self, full: PlanLike | None, light: PlanLike, seed: int) -> None:
        self.full, self.light = rotation_plan(full) or RotationPlan(), rotation_plan(light)
        self.small = SMALL if full is None else self.full  # a plan that was chosen is kept to
        self._chosen = full is not None, light is not LIGHT
        self.source = RotationSource(seed)
        for each in (self.full, self.light):
            if each.R < 2 and each.is_random:
                raise EquivProbeError("a plan of one replicate", "at least two", "RotationPlan(..., replicates=4)")

    def fitted(
        self,
        live: LiveOrbit,
        call: Call,
        raw: Any,
        stage: str = "",
        given: PlanLike | None = None,
        *,
        size: Size = "whole",
    ) -> RotationPlan:
        """The plan of a stage: where nobody chose one, what fits the grids of the call.

        Args:
            live: how the network is evaluated.
            call: a captured call.
            raw: the network's output.
            stage: whose plan.
            given: a plan in its place.
            size: of the measurement: whether it takes few rotations in evaluation too, and of a part of a batch two.

        Raises:
            EquivProbeError: a plan that does not fit.
        """
        schema = live.resolve(call, raw)
        outputs = read_outputs(raw, schema)
        full_chosen, light_chosen = self._chosen
        if not full_chosen:
            self.full = fitting_plan(self.full, schema, call.inputs, outputs)
            self.small = fitting_plan(self.small, schema, call.inputs, outputs, subset=SMALL.size)
        if not light_chosen:
            self.light = fitting_plan(self.light, schema, call.inputs, outputs, subset=2)
        few = self.light if stage == "train" or size == "part" else self.small
        plan = rotation_plan(given) or (self.full if size == "whole" and stage != "train" else few)
        require_fit(plan, schema, call.inputs, outputs)
        return plan

    def takes_parts(self, stage: str) -> bool:
        """Whether a part of a batch may be measured: by two rotations, where nobody chose others."""
        full_chosen, light_chosen = self._chosen
        return not light_chosen and (stage == "train" or not full_chosen)

    def of_part(self, live: LiveOrbit, part: SubBatch, plan: RotationPlan) -> Tensor:
        """A plan's rotations for each structure of a part of a batch, ``(R, n, S, 3, 3)``."""
        inputs = part.call.inputs
        return live.repeats_rotated_alike(inputs, self.source.draw(plan, inputs, live.structures(inputs).count))

    def augmentation(self, module: nn.Module, live: LiveOrbit) -> CallRotation | None:
        """What rotates the training calls, if its rotations will do for light mode."""
        light = self.light
        if not (live.network.training and (light.design, light.R, light.improper) == ("haar", 2, False)):
            return None
        return rotation_of_calls(module, live.network)

    def rotated_by(self, module: nn.Module, live: LiveOrbit) -> Tensor | None:
        """The rotations of the latest training call, ``(U, 3, 3)``."""
        augmentation = self.augmentation(module, live)
        return None if augmentation is None else augmentation.rotations

    def of_step(
        self, run: RecordedStep, plan: RotationPlan, *, per_structure: bool | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """A plan's rotations for a recorded step, and the rotated-back outputs of the first one where they are known.

        Args:
            run: the step.
            plan: the plan.
            per_structure: as for :meth:`equiv_probe.Probe.replay`.

        Returns:
            ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)``.
        """
        count = structures_of_their_own(run, per_structure)
        # Where an augmentation rotated the input, the user's own output is that of the first rotation.
        alone = count is not None and len(run.calls) == 1 and plan is self.light
        rotated, inputs = self.rotated_by(run.module, run.live) if alone else None, run.calls[0].call.inputs
        rotations = self.source.draw(plan, inputs, count, rotated)
        if rotated is None:
            return (rotations if count is None else run.live.repeats_rotated_alike(inputs, rotations)), None
        outputs = read_outputs(run.calls[0].raw, run.live.known_schema)
        return rotations, {name: value.detach() for name, value in outputs.items()}


def structures_of_their_own(run: RecordedStep, per_structure: bool | None) -> int | None:
    """How many structures of a step are rotated each on its own, U; None where all are rotated alike.

    Args:
        run: the step.
        per_structure: None rotates each on its own if all calls see the same structures, as far as their number tells.

    Raises:
        EquivProbeError: they do not, and it was asked for.
    """
    counts = {batch.count for batch in run.structures}
    if per_structure and len(counts) > 1:
        raise EquivProbeError(
            f"calls of {sorted(counts)} structures in one step", "the same structures", "per_structure=False"
        )
    own = len(counts) == 1 if per_structure is None else per_structure
    return counts.pop() if own else None


def drawn_for(
    run: RecordedStep, plan: RotationPlan, generator: torch.Generator, *, per_structure: bool | None
) -> Tensor:
    """A plan's rotations for a recorded step, from a generator that is given; as :meth:`Plans.of_step`."""
    with torch.no_grad():
        count = structures_of_their_own(run, per_structure)
        rotations = draw(plan, generator, count).to(run.device, non_blocking=True)
        return rotations if count is None else run.live.repeats_rotated_alike(run.calls[0].call.inputs, rotations)
