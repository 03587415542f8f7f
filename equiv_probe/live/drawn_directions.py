"""Noise with a direction that a network draws in its own call, which does not rotate with the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equiv_probe.live.isolation import isolated

if TYPE_CHECKING:
    from equiv_probe.live.dependence import Passes

_OPERATORS = {
    *("randn", "randn_like", "normal", "normal_", "normal_functional"),
    *("rand", "rand_like", "uniform", "uniform_", "uniform_functional"),
}
_WIDTHS = {3, 4}
"""Components of a vector, of a matrix that becomes a rotation, and of a quaternion."""


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
