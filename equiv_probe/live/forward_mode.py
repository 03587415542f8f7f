"""Calls inside of ``torch.func`` and with dual numbers: what they are made of, without what differentiates them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad


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
