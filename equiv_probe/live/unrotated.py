"""What a live network uses that does not rotate with its inputs: coordinates it holds, directions it draws."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.coordinates_beside import coordinates_in, matters, same, tensors_beside
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.dependence import Passes

_OPERATORS = {
    *("randn", "randn_like", "normal", "normal_", "normal_functional"),
    *("rand", "rand_like", "uniform", "uniform_", "uniform_functional"),
}
_WIDTHS = {3, 4}
"""Components of a vector, of a matrix that becomes a rotation, and of a quaternion."""


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


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shapes of random numbers that may be directions, as they are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`torch.utils._python_dispatch.TorchDispatchMode`."""
        drawn = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _OPERATORS and drawn.ndim > 1 and drawn.shape[-1] in _WIDTHS:
            self.shapes[f"{name.removesuffix('_').removesuffix('_functional')} of {tuple(drawn.shape)}"] = None
        return drawn


def directions_drawn(passes: Passes) -> list[str]:
    """The draws of random numbers in one pass of a network that may be directions; none where it cannot be watched."""
    if not (passes.own and passes.draws):
        return []
    try:
        with isolated(passes.live.network, generators=[one for one, _ in passes.start.own]):
            passes.start.restore()
            with _Draws() as draws, torch.no_grad():
                passes.live.copies.at(passes.call, {})
    except Exception:  # what is compiled or transformed may not run under a mode
        return []
    return list(draws.shapes)
