"""Controls of one call of the network: what its outputs depend on. Each waits for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.estimation.controls import BATCH, SEES_ROTATION, TRANSLATION, Control, does_not_move
from equiv_probe.live.dependence import blind_outputs, coupled_outputs, differences_when_moved
from equiv_probe.live.number_spacing import spacing
from equiv_probe.probe.found_controls import names
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.live.dependence import Passes


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
