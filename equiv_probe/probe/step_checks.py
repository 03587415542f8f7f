"""Controls of steps: what their numbers hang on, and whether they can be run again."""

from __future__ import annotations

import math
import re
import warnings
from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import Control
from equiv_probe.estimation.losses import LOSSES
from equiv_probe.live.dependence import Passes, moved_on
from equiv_probe.live.module_snapshot import unnoticed
from equiv_probe.probe.agreement import alone
from equiv_probe.probe.found_controls import names
from equiv_probe.probe.own_frame import own_frame
from equiv_probe.probe.own_loss import loss_of, output_that_is, require_network
from equiv_probe.probe.replay import STILL, numbers_that_ignore_the_network
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.estimation.running import Running, RunningEstimates
    from equiv_probe.probe.found_controls import FoundControls
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.probe.replay import Replay

REPRODUCED = "replay reproduces the step"
NONLINEAR = "the loss is more than an output"
SEES_OUTPUTS = "the loss sees the network's outputs"
COMPOSED = "the step is one call of the network"
NOT_NEGATIVE = "L_equiv is not negative"
_STAYS = (
    "left in attributes by the network's pass, and the same in replays whatever stands in for its output: what a loss "
    "takes from there is no part of L_equiv"
)
SIGNIFICANT = 4.0
"""Standard errors below zero from which an ``L_equiv`` is negative."""
MOVED_ON = 0.1
"""Relative change of the outputs from which weights are others than those of the call."""
_NAME_OF_FILE = re.compile(r" \([^()]*\)")
NEGLIGIBLE = 1e-4
"""Of ``L_total``: a negative ``L_equiv`` of less is rounding."""


class StepChecks:
    """Controls of steps, each run once for every mode of the network, at the first measurement in it."""

    def __init__(self, found: FoundControls) -> None:
        self.found = found
        self.no_sums: set[str] = set()
        """Stages whose loss is known not to be a sum over structures."""
        self.at_calls: set[str] = set()
        """Stages whose steps change weights: their calls are measured as they are made, by the weights of then."""
        self._bent: dict[tuple[str, str], Tensor] = {}

    def of_step(self, run: RecordedStep) -> None:
        """Whether a step's loss is what the network puts out already; waits for the device, once.

        Raises:
            EquivProbeError: it is.
        """
        if not self.found.first("loss", run.live.network.training):
            return
        if len(run.calls) > 1:
            self.found.note(Control(COMPOSED, None, _composed(run)))
        if left := list(dict.fromkeys(name for one in run.calls for name in one.attributes.differentiable)):
            self.found.note(Control(SEES_OUTPUTS, None, f"{', '.join(left[:4])}: {_STAYS}"))
        loss, last = loss_of(run.result), run.calls[-1]
        if loss is None:
            return
        name = output_that_is(loss, last, run.live)
        if name is None:
            self.found.passed(NONLINEAR, "the step's loss is no output of the network as it is")
            return
        require_network(run.live, last.call, name)
        self.found.failed(
            NONLINEAR,
            f"the step returns {type(run.live.network).__name__}'s output {name!r} itself, or its mean: of a loss that "
            "is linear in the outputs L_equiv is zero by construction",
        )

    def of_numbers(self, run: RecordedStep, stage: str) -> None:
        """Whether the numbers of a step hang on what the network returns; waits for the device, once in a stage."""
        if not self.found.first(f"numbers of {stage}", run.live.network.training):
            return
        found = numbers_that_ignore_the_network(run)
        name = type(run.live.network).__name__
        if not (found.same or found.still):
            self.found.passed(SEES_OUTPUTS, "the step's numbers change with what the network returns")
            return
        whys = [
            f"{names(found.same)}: the same, to the last bit, whatever {name} returns: computed from something else, "
            "such as what a pass leaves in an attribute or a hook inside of it, another network, or weights alone"
        ] * bool(found.same)
        whys += [
            f"{names(found.still)}: changed by less than {STILL:.1%} whatever {name} returns: divided by a detached "
            "error of its own (adaptive weights), or at a cap"
        ] * bool(found.still)
        if found.others:
            self.found.note(Control(SEES_OUTPUTS, None, f"{'; '.join(whys)}. L_equiv of it is zero by construction"))
        else:
            fix = "return the loss before it is weighted" if found.still else "probe what the loss is computed from"
            self.found.failed(SEES_OUTPUTS, f"{'; '.join(whys)}. L_equiv says nothing: {fix}")

    def of_frame(self, run: RecordedStep, stage: str) -> None:
        """Whether rotations of a step's batch reach the network; waits for the device, once in a stage."""
        found = own_frame(run) if self.found.first(f"frame of {stage}", run.live.network.training) else None
        if found is not None:
            self.found.note(found)

    def of_unrepeatable(self, run: RecordedStep) -> None:
        """Say, once for every kind of thing, that a step is not run again since it trains, or used one of these."""
        kind = _NAME_OF_FILE.sub("", run.never_again)  # which may be another one in every step
        if not self.found.first(kind, training=False):
            return
        without = "the network's outputs were measured without labels"
        control = Control(REPRODUCED, None, f"the step was not run again, since it {run.never_again}: {without}")
        self.found.note(control)
        fix = "leave that outside of the step (optimizer.step() too) to decompose its loss"
        warnings.warn(f"equiv_probe: {control.sentence}; {fix}", stacklevel=5)

    def weights_moved_on(self, run: RecordedStep, stage: str) -> bool:
        """Whether a step that changed weights left quite others than it called the network with; waits for the device.

        An optimizer's step moves them by little, and what is measured after it is the network that goes on. A moving
        average that is swapped in for the call alone is gone then.
        """
        self.at_calls.add(stage)
        if run.device.type == "meta" or not alone():  # several processes go on alike
            return False
        with unnoticed(run.live.network), torch.no_grad():
            run.resolve()
            one = run.calls[0]
            moved = moved_on(Passes(run.live, one.call, one.before), one.known(run.live.known_schema))
        return moved > MOVED_ON

    def of_replay(self, run: RecordedStep, replay: Replay, written: list[str], stage: str) -> None:
        """Note what a step's further runs showed."""
        for name, bent in replay.bent.items():
            known = self._bent.get((stage, name))
            self._bent[stage, name] = bent if known is None else known | bent
        if replay.reproduced and self.found.first("replay", run.live.network.training):
            back = f"; put back before every run: {', '.join(written[:6])}" if written else ""
            sentence = f"run again with the network's own outputs, the step returns the number it returned{back}"
            self.found.passed(REPRODUCED, sentence)

    def negative(self, running: RunningEstimates) -> Iterator[Control]:
        """Of each ``L_equiv`` that is negative beyond its error bar and rounding: whether its loss allows that."""
        for (stage, name), estimate in running.items():
            sums = estimate.shown(estimate.everything)
            value, stderr, total = sums.equiv.value, sums.equiv.stderr, abs(sums.total.value)
            if math.isnan(stderr):  # noise may be as large
                continue
            limit = max(SIGNIFICANT * stderr, NEGLIGIBLE * (0.0 if math.isnan(total) else total))
            if not (value < -limit and estimate.labelled):
                continue
            where = f"{shown(f'{stage}/{name}')}: L_equiv = {value:.3g} ± {stderr:.2g} is negative"
            if self._is_bent(stage, name, estimate):
                sentence = (
                    f"{where}, which it may be: the loss is not convex in the network's outputs (it was larger for "
                    "their mean than in the mean over them), as Dice or a loss after alignment is not"
                )
                yield Control(NOT_NEGATIVE, None, sentence, value, -limit)
            else:
                sentence = f"{where}, which no convex loss allows"
                yield Control(NOT_NEGATIVE, False, sentence, value, -limit)

    def _is_bent(self, stage: str, name: str, running: Running) -> bool:
        """Whether a loss is known not to be convex."""
        bent = self._bent.get((stage, name))
        return bool(bent) if bent is not None else running.loss not in LOSSES


def _composed(run: RecordedStep) -> str:
    """What a step of several calls measures."""
    return (
        f"the step calls the network {len(run.calls)} times: each call is replaced on its own, so that L_equiv is that "
        "of the network as it is called, not of the map that the calls make together (recycling, unrolled steps); for "
        "that one, probe a module whose forward makes them all"
    )
