"""What a module was called with, as tensors by name, and back to the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.forward_mode import carries_tangent, plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.adapters import Adapter, Rebuild
    from equiv_probe.schema.schema import Named


@dataclass(frozen=True)
class Call:
    """One call of the network, kept.

    Attributes:
        inputs: by name; tensors are detached clones.
        rebuild: fresh arguments from inputs.
        differentiated: inputs that required a gradient when the call was made, or were differentiated forward.
        dicts: the caller's own dicts, and what they held before the call.
    """

    inputs: Named
    rebuild: Rebuild
    differentiated: frozenset[str]
    dicts: tuple[tuple[dict[str, Any], dict[str, Any]], ...]

    @classmethod
    def of(cls, adapter: Adapter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Keep a call; its tensors are cloned, since the network may write into them."""
        leaves, rebuild = adapter.split(args, kwargs)
        tensors = {n: v for n, v in leaves.items() if isinstance(v, torch.Tensor)}
        differentiated = frozenset(n for n, v in tensors.items() if v.requires_grad or carries_tangent(v))
        dicts = tuple((given, dict(given)) for given in adapter.dicts(args, kwargs))
        # Outside inference mode, so that a model may differentiate the copies.
        with torch.inference_mode(False), torch.no_grad():
            return cls({name: cloned(plain(value)) for name, value in leaves.items()}, rebuild, differentiated, dicts)


def cloned(value: Any) -> Any:
    """A detached clone of a tensor; anything else as it is."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def wide(value: Tensor) -> Tensor:
    """In float64, in which moments are taken; float32 on devices without it."""
    return value.float() if value.device.type == "mps" else value.double()
