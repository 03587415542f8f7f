"""What a module was called with, as tensors by name, and back to the call; also inside of ``torch.func``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.adapters import Adapter, Rebuild
    from equiv_probe.schema.schema import Named


def transforming() -> bool:
    """Whether a function is being differentiated or vectorised by ``torch.func``, or forward by dual numbers."""
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def only_forward() -> bool:
    """Whether that is forward differentiation and nothing else, ``torch.func.jvp``: a call has one value then."""
    return all(one.key() == _functorch.TransformType.Jvp for one in _functorch.get_interpreter_stack() or ())


def carries_tangent(value: torch.Tensor) -> bool:
    """Whether a tensor may hang on what is differentiated forward."""
    if not transforming() or not value.is_floating_point():
        return False
    if _functorch.is_functorch_wrapped_tensor(value):
        return True
    return forward_ad.unpack_dual(value).tangent is not None  # type: ignore[no-untyped-call]


def plain(value: Any) -> Any:
    """The value of a tensor alone, fit to be kept when the transformation is over; anything else as it is."""
    if not isinstance(value, torch.Tensor) or not transforming():
        return value
    with temporarily_clear_interpreter_stack():
        while _functorch.is_functorch_wrapped_tensor(value):
            value = _functorch.get_unwrapped(value)
        return cast("torch.Tensor", value).detach()  # which drops the tangent of a dual number, too


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
