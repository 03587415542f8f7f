r"""The floor of a measurement on a live model: what it reads where nothing but rounding differs.

It is the same measurement by two rotations through about one spacing of the numbers that the network works in. Inputs
differ in their last digit then, as they do after a rotation there and back, and every intermediate result is rounded
anew; what a model that does not respect rotation makes of such an angle ε is of the order ε² and does not count.

A grid that is rotated by the cube is the same numbers in other places, and no angle is small. There nothing is rotated:
inputs and weights are moved at random within their spacing (:mod:`equiv_probe.orbit.rounding`). A grid that is
interpolated has no such floor here: interpolation is no rounding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from equiv_probe.live.capture import wide
from equiv_probe.live.isolation import isolated
from equiv_probe.live.number_spacing import spacing
from equiv_probe.live.outputs import read_outputs
from equiv_probe.probe.replay import replay_step
from equiv_probe.probe.replay_of_part import replay_part
from equiv_probe.representations.grids import Grid
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.probe.parts import Parts
    from equiv_probe.probe.recorded import RecordedStep

TWO = RotationPlan("haar", replicates=2)
"""Of which only the number and the weights count."""


def floor_is_due(parts: Parts, stage: str, kind: str) -> bool:
    """Whether the floor is to be measured with the present measurement: with the 1st, 2nd, 4th, 8th, … of a stage."""
    count = parts.schedules[kind, stage].measured
    schema = parts.live.known_schema
    can = not any(rep.interpolates for rep in (*schema.inputs.values(), *schema.outputs.values()))
    return can and count > 0 and count & (count - 1) == 0


@contextmanager
def _rounding(live: LiveOrbit, device: torch.device) -> Iterator[Tensor]:
    """A context in which copies differ by rounding, and the two rotations to evaluate them at, ``(2, 1, 3, 3)``."""
    fine, angle = live.copies, spacing(live.network, device)
    if not any(isinstance(rep, Grid) for rep in live.known_schema.inputs.values()):
        yield tiny_rotations(angle, device)
        return
    # Tensors of the meta device, which have no values, have no random numbers either.
    fine.rounding = torch.Generator("cpu" if device.type == "meta" else device).manual_seed(0), angle
    try:
        yield tiny_rotations(0.0, device)
    finally:
        fine.rounding = None


def floor_of_step(parts: Parts, run: RecordedStep, stage: str, part: SubBatch | None) -> None:
    """Take in what a step's numbers, or those of a part of its batch, read from rounding alone; nothing waits."""
    with parts.task.quiet(), _rounding(parts.live, run.device) as rotations:
        if part is None:
            found = replay_step(run, TWO, rotations, check=False)
        else:
            found = replay_part(run, part, TWO, rotations, grouped=False)
    for name, one in found.scalars.items():
        running = parts.so_far.running.get((stage, name))
        if running is not None:
            running.floor, running.precision = one.equiv.detach(), found.precision[name]


def floor_of_call(parts: Parts, call: Call, raw: Any, stage: str) -> None:
    """Take in what a call's outputs, or its losses, read from rounding alone; nothing waits for the device."""
    live = parts.live
    device = next(v.device for v in call.inputs.values() if isinstance(v, torch.Tensor))
    count = live.structures(call.inputs).count
    with isolated(live.network), _rounding(live, device) as two, torch.inference_mode(False), torch.no_grad():
        live.network.eval()
        rotations = two[:, :, None].expand(-1, -1, count, -1, -1)
        measured = live.measure(call, raw, TWO, rotations, evaluate=parts.task.evaluate)
    outputs = read_outputs(raw, live.known_schema)
    for name, one in measured.items():
        running = parts.so_far.running.get((stage, name))
        if running is not None:
            running.floor = (one.estimate.equiv * one.weight).sum() / one.weight.sum()
            if not running.labelled and outputs[name].is_floating_point():
                # Copies may agree to the last bit, though a number is off by what lies between two of its type.
                running.floor = torch.maximum(running.floor, _rounded(outputs[name]).to(running.floor))


def _rounded(value: Tensor) -> Tensor:
    """Variance of what rounding to its type makes of an output, whose spacing grows with its size."""
    return (torch.finfo(value.dtype).eps * wide(value.detach())).square().mean() / 12


def tiny_rotations(angle: float, device: torch.device) -> Tensor:
    """Two rotations by an angle about two axes that no structure has, ``(2, 1, 3, 3)`` in float64."""
    axes = torch.tensor([[0.48, -0.62, 0.62], [-0.71, 0.11, -0.70]], dtype=torch.float64)
    x, y, z = (axes / axes.norm(dim=-1, keepdim=True)).unbind(-1)
    none = torch.zeros_like(x)
    generators = torch.stack([none, -z, y, z, none, -x, -y, x, none], -1).reshape(2, 1, 3, 3)
    wide = torch.float32 if device.type == "mps" else torch.float64
    rotations: Tensor = torch.linalg.matrix_exp(angle * generators)
    return rotations.to(device, wide)
