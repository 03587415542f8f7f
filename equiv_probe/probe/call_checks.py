"""Controls of the calls of a network: what their outputs depend on, and how they rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import (
    BATCH,
    SEES_ROTATION,
    TRANSLATION,
    Control,
    does_not_move,
    nothing_elsewhere,
    nothing_rotates,
)
from equiv_probe.estimation.second_opinion import DECLARED
from equiv_probe.live.better_fits import better_fits
from equiv_probe.live.dependence import (
    Passes,
    blind_outputs,
    coupled_outputs,
    differences_when_moved,
    drawn_outputs,
    rotates,
)
from equiv_probe.live.number_spacing import spacing
from equiv_probe.live.unrotated import directions_drawn, seen_elsewhere
from equiv_probe.messages import logger
from equiv_probe.probe.agreement import alone
from equiv_probe.probe.found_controls import names
from equiv_probe.probe.own_loss import loss_already
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def of_rotation(passes: Passes, rotations: Tensor) -> Iterator[Control]:
    """Whether outputs depend on what is rotated, by ``(C, [U,] 3, 3)`` that fit the inputs."""
    found = blind_outputs(passes, rotations)
    beside_others = len(found) < len(passes.live.known_schema.outputs)
    zero = [name for name, is_zero in found.items() if is_zero and beside_others]
    handed_on = [name for name in found if beside_others and name not in zero and _of_elements(passes, name)]
    if zero:  # as a Hessian that nobody asked for, beside outputs that do change
        yield Control(SEES_ROTATION, None, f"{names(zero)}: zero everywhere, so that nothing is measured")
    if handed_on:
        what = "features of atoms, the same wherever these are: their L_equiv is zero by construction"
        yield Control(SEES_ROTATION, None, f"{names(handed_on)}: {what}")
    if blind := [name for name in found if name not in (*zero, *handed_on)]:
        sentence = (
            f"{names(blind)}: these outputs do not depend on the rotated inputs (the same bit for bit when these are "
            f"rotated and when they are displaced, in {_mode(passes)}): a cache, or coordinates that come in "
            "elsewhere. Their L_equiv says nothing."
        )
        yield Control(SEES_ROTATION, False, sentence)
    else:
        yield Control(SEES_ROTATION, True, "outputs change where the inputs do")


def _of_elements(passes: Passes, name: str) -> bool:
    """Whether an output has several scalars for each atom, as one-hot elements that a network hands on."""
    value, rep = passes.own[name], passes.live.known_schema.outputs[name]
    structures = passes.live.structures(passes.call.inputs)
    by_atom = len(value) != structures.count if structures.layout == "index" else value.ndim > 2
    return not rep.event_shape and value.ndim > 1 and value.shape[-1] > 1 and by_atom


def of_neighbours(passes: Passes) -> Iterator[Control]:
    """Whether what comes out for a structure depends on the other structures of its batch."""
    coupled = coupled_outputs(passes)
    if coupled:
        largest = max(coupled.values())
        sentence = (
            f"{names(coupled)}: the outputs for one structure depend on the other structures of its batch (by "
            f"{largest:.2g} of their size, in {_mode(passes)}): statistics of the batch, padding, or pooling over it. "
            "All structures of a batch are rotated alike, and copies are not joined."
        )
        yield Control(BATCH, False, sentence, value=largest, limit=0.0)
    elif passes.live.structures(passes.call.inputs).layout != "one":
        yield Control(BATCH, True, "structures get the same whatever is beside them in a batch")


def of_translation(passes: Passes) -> Iterator[Control]:
    """Whether outputs stay where structures are moved as a whole; rotations about a centroid never show it."""
    live, call = passes.live, passes.call
    if not any(rep.is_affine for rep in live.known_schema.inputs.values()):
        return
    if not (isinstance(live.reader.center, str) and live.reader.center == "centroid"):
        what = "structures are not moved, so that broken translation does not show: they rotate about a fixed point"
        yield Control(TRANSLATION, None, what)
        return
    try:
        differences = differences_when_moved(passes)
    except Exception as error:  # far from where it was, as outside of a box
        yield Control(TRANSLATION, None, f"the network could not be evaluated at moved structures: {error}")
        return
    device = next(v.device for v in call.inputs.values() if isinstance(v, torch.Tensor))
    precision = spacing(live.network, device)
    for name, (difference, size, distance) in differences.items():
        yield does_not_move(shown(name), difference, precision * size * (1 + distance), "", "moved as a whole")


def _mode(passes: Passes) -> str:
    return "train mode" if passes.live.network.training else "eval mode"


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
