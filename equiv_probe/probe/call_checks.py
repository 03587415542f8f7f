"""Controls of the calls of a network: what their outputs depend on, and how they rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import Control, nothing_elsewhere, nothing_rotates
from equiv_probe.estimation.second_opinion import DECLARED
from equiv_probe.live.better_fits import better_fits
from equiv_probe.live.dependence import Passes, drawn_outputs, rotates
from equiv_probe.live.drawn_directions import directions_drawn
from equiv_probe.live.seen_elsewhere import seen_elsewhere
from equiv_probe.messages import logger
from equiv_probe.probe.agreement import alone
from equiv_probe.probe.call_controls import of_neighbours, of_rotation, of_translation
from equiv_probe.probe.own_loss import loss_already
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.random_state import RandomState
    from equiv_probe.probe.found_controls import FoundControls
    from equiv_probe.rotations.plan import RotationPlan

CHANCE = "is not drawn at random"
FITS = "outputs rotate as was assumed"
_DRAWN = (
    "{} draws {} in its own call, which may be directions: they are the same in every orientation and do not rotate "
    "with the inputs, so that what they do to the outputs is counted in L_equiv, as broken symmetry. Draw them outside "
    "of the probed module and give them to it as inputs that rotate"
)


class CallChecks:
    """Controls of calls, each run once for every mode of the network, at the first that has something to rotate."""

    def __init__(self, found: FoundControls) -> None:
        self.found = found
        self.waits = False
        """Whether all that was measured yet has no orientation, as batches of single atoms."""
        self._coupled: dict[bool, bool] = {}

    def rotates_alike(self, live: LiveOrbit) -> bool:
        """Whether all structures of a batch must be rotated alike, since their outputs depend on each other."""
        return self._coupled.get(live.network.training, False)

    def of_call(self, live: LiveOrbit, call: Call, start: RandomState, plan: RotationPlan) -> None:
        """Whether a call's outputs depend on what is rotated, and not on each other; waits for the device, once.

        Args:
            live: how the network is evaluated, in the mode it is in.
            call: of the network.
            start: the random state before it.
            plan: whose rotations fit the inputs.
        """
        training = live.network.training
        device = next(v.device for v in call.inputs.values() if isinstance(v, torch.Tensor))
        if device.type == "meta" or self.found.looked_at("call", training):
            return
        rotations = plan.rotations(plan.generator()).flatten(0, 1)[1:4].to(device)
        passes = Passes(live, call, start)
        alone_atoms = nothing_rotates([shown(name) for name in live.known_schema.outputs])
        self.waits = alone() and not rotates(passes, rotations)  # several processes ask at the same call
        if self.waits:
            self.found.note(alone_atoms)
            return
        self.found.first("call", training)
        self.found.withdraw(alone_atoms)
        for control in (*of_translation(passes), *of_rotation(passes, rotations)):
            self.found.note(control)
        self._of_representations(passes, rotations)
        if drawn := directions_drawn(passes):
            self.found.failed(CHANCE, _DRAWN.format(type(live.network).__name__, ", ".join(drawn[:3])))
        for name, what in seen_elsewhere(passes).items():
            self.found.note(nothing_elsewhere(name, what))
        for control in of_neighbours(passes):
            self.found.note(control)
            if control.failed:
                self._coupled[training] = True
                if not training:
                    live.copies.stacks = False

    def _of_representations(self, passes: Passes, rotations: Tensor) -> None:
        """Whether outputs rotate as was assumed: a wrong guess reads like a broken model."""
        guessed = {one.name for one in passes.live.known_schema.assumptions if one.role == "outputs"}
        for name, sentence in better_fits(passes, rotations).items():
            if name in guessed and DECLARED in sentence:
                self.found.failed(FITS, f"{sentence}. L_equiv of it is that of a wrong guess")
            else:
                self.found.notes.append(sentence)

    def of_chance(self, live: LiveOrbit, call: Call) -> None:
        """Whether a call that is measured without its step draws random numbers in eval mode.

        Raises:
            EquivProbeError: it does, and puts out single numbers: a loss, of noise that it draws.
        """
        if not self.found.first("chance", live.network.training):
            return
        if not drawn_outputs(live, call):
            self.found.passed(CHANCE, "no random numbers are drawn in eval mode")
            return
        name = type(live.network).__name__
        if all(not rep.event_shape for rep in live.known_schema.outputs.values()):
            raise loss_already(live, call, f"{name}, which draws random numbers and puts out single numbers: a loss")
        if any(one.failed and one.name == CHANCE for one in self.found.controls):
            return
        self.found.failed(
            CHANCE,
            f"{name} draws random numbers in eval mode: what its outputs differ by from call to call is counted in "
            "L_equiv. Probe the network inside, or the step: probe.step(lambda: ...) repeats its noise.",
        )

    def leaves_transformed_alone(self) -> None:
        """Say, once, that calls inside of ``torch.func`` are not measured."""
        what = "calls inside of torch.func (vmap, grad, jvp) are left alone: hooks measure those on ordinary tensors"
        logger.warning(f"equiv_probe: {what}. Probe a module whose forward does the transforming, or a step with jvp")
        self.found.note(Control("all calls are measured", None, what))
