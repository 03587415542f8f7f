"""What a pass of a network leaves in the attributes of its modules beside its output: further losses, features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.held_by_modules import INTERNAL
from equiv_probe.live.wrappers import sharded

if TYPE_CHECKING:
    from torch.nn import Module


class LeftBehind:
    """Attributes that one pass of a network sets, as a router's ``aux_loss``: a step may read them after it.

    Args:
        network: before the pass. Of a sharded one nothing is noted: its weights come and go as attributes.
    """

    def __init__(self, network: Module) -> None:
        modules = [] if sharded(network.modules()) else list(network.modules())
        own = (one for one in modules if not isinstance(one, torch.jit.ScriptModule))
        self._before = [(module, dict(vars(module))) for module in own]
        self._found: list[tuple[Module, dict[str, Any]]] = []

    def note(self) -> None:
        """Note what the pass has set."""
        for module, before in self._before:
            names = [name for name, value in vars(module).items() if value is not before.get(name, module)]
            left = {name: vars(module)[name] for name in names if name not in INTERNAL}
            self._found += [(module, left)] if left else []
        self._before = []

    @property
    def differentiable(self) -> list[str]:
        """Names of what of it a loss could be made of."""
        return [
            f"{type(module).__name__}.{name}"
            for module, left in self._found
            for name, value in left.items()
            if isinstance(value, torch.Tensor) and value.requires_grad
        ]

    def put(self) -> None:
        """Set it once more, apart from the graph of that pass, where another output stands in for that of the pass."""
        for module, left in self._found:
            vars(module).update({name: _apart(value) for name, value in left.items()})


def _apart(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) else value
