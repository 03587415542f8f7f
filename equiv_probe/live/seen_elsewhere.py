"""Coordinates that a live network sees beside the inputs of its call, and that stay as they are when these rotate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from equiv_probe.orbit.coordinates_beside import coordinates_in, matters, same, tensors_beside
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.dependence import Passes


def seen_elsewhere(passes: Passes) -> dict[str, str]:
    """Tensors that the network holds or names, made of its call's coordinates, on which its outputs depend."""
    live, call = passes.live, passes.call
    held = tensors_beside(live.network)
    found = coordinates_in(held, call.inputs, live.known_schema.inputs)
    if not found:
        return {}
    rotation = haar(1, torch.Generator().manual_seed(3)).to(held[next(iter(found))].device)
    rotated = live.structures(call.inputs).rotate(call.inputs, live.known_schema, rotation)
    during: dict[str, Tensor] = {}
    live.copies.on_output = lambda _: during.update(tensors_beside(live.network))
    try:
        passes.at({name: value[0] for name, value in rotated.items()})
    finally:
        live.copies.on_output = None
    apart = {n: v.detach().clone() for n, v in call.inputs.items() if isinstance(v, torch.Tensor)}
    # What a pass writes there itself goes with its inputs.
    return {
        name: what
        for name, what in found.items()
        if same(held[name], during.get(name)) and matters(held[name], partial(passes.at, apart))
    }
