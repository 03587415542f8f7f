"""What rounding inside of a model may do to its output, where round trips of the input are exact.

A grid that is rotated by the cube there and back is the same grid to the last bit: the floor of such a round trip is
nothing, and the arithmetic of the network does not show in it. Here every number that goes into a product, input and
weight, is moved at random by up to one spacing of its precision. That is what rounding does to the products and, on
average, to their sums (Monte Carlo arithmetic: D. S. Parker, Monte Carlo Arithmetic, UCLA CSD-970002 (1997)).
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def perturbed(values: Tensor, generator: torch.Generator, spacing: float = 0.0) -> Tensor:
    """Values ``x (1 + ε u)`` with u uniform in [−1, 1] and ε the spacing of their precision; whole numbers stay.

    Args:
        values: any.
        generator: of u.
        spacing: at least so much is ε, where products are computed more coarsely.
    """
    if not values.is_floating_point():
        return values
    device = generator.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    u = 2 * torch.rand(values.shape, generator=generator, dtype=dtype, device=device) - 1
    wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    eps = max(spacing, float(torch.finfo(values.dtype).eps))
    # Rounded at random: a half spacing either way would not be seen after rounding to nearest.
    return (wide + wide * (eps * u).to(wide)).to(values.dtype)


def module_of(predict: Any) -> nn.Module | None:
    """The module behind a callable, through wrappers that say what they wrap; None where its weights are not plain."""
    module = inspect.unwrap(predict) if callable(predict) else predict
    plain = isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule)
    return module if plain and not hasattr(module, "_orig_mod") else None


@contextmanager
def perturbed_weights(predict: Any, generator: torch.Generator, spacing: float = 0.0) -> Iterator[None]:
    """Let the module behind a callable work with perturbed copies of its weights; its own are not touched."""
    module = module_of(predict)
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    copies: dict[int, nn.Parameter] = {}
    try:
        for part in module.modules() if module is not None else ():
            for name, weight in list(part._parameters.items()):
                if weight is None or not weight.is_floating_point() or weight.device.type == "meta":
                    continue
                if id(weight) not in copies:
                    copies[id(weight)] = nn.Parameter(perturbed(weight, generator, spacing), weight.requires_grad)
                kept.append((part, name, weight))
                part._parameters[name] = copies[id(weight)]
        yield
    finally:
        for part, name, weight in kept:
            part._parameters[name] = weight
