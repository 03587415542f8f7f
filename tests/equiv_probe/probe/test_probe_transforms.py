"""Networks inside of vmap, grad and jvp: left alone by hooks, and refused clearly where a step would be replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import equiv_probe as ep

from ..timed_models import TIMED, Timed, drawn

if TYPE_CHECKING:
    from collections.abc import Callable


def dual(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "grad": lambda f, x: torch.func.grad(lambda y: f(y).square().sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "jacrev": lambda f, x: torch.func.jacrev(f)(x[:1]),
    "dual numbers": dual,
}


@pytest.mark.parametrize("how", TRANSFORMS)
def test_hooks_leave_transformed_calls_alone(how: str) -> None:
    """From the first call on, and among calls that are measured; the answer is the same to the last bit."""
    torch.manual_seed(0)
    net, (x, t) = Timed(), drawn(4)

    def transformed() -> Tensor:
        return TRANSFORMS[how](lambda y: net(y, t[0]), x)

    plain = transformed()
    with ep.Probe(net, TIMED, every=1) as probe:
        assert torch.equal(transformed(), plain)
        assert not probe.compute()
        net(x, t)
        before = probe.compute(window=False)
        assert torch.equal(transformed(), plain)
    assert before == probe.compute(window=False)
    assert not probe.failures


@pytest.mark.parametrize("how", TRANSFORMS)
def test_a_step_with_derivatives_of_the_network_is_refused(how: str) -> None:
    """Its answers could be replayed, but not their derivatives; later on it is a warning, and training goes on."""
    net: nn.Module = Timed()
    x, t = drawn(4)

    def step() -> Tensor:
        return TRANSFORMS[how](lambda y: net(y, t[0]), x).square().mean() + net(x, t).square().mean()

    wanted = step()
    with pytest.raises(ep.EquivProbeError, match=r"torch\.func"):
        ep.Probe(net, TIMED, every=1).step(step)
    probe = ep.Probe(net, TIMED, every=1)
    probe.step(lambda: net(x, t).square().mean())
    with pytest.warns(UserWarning, match=r"torch\.func"):
        assert torch.equal(probe.step(step), wanted)
