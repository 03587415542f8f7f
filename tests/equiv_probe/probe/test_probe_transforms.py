"""Networks inside of ``torch.func``: hooks leave them alone; a step replays ``jvp``, and clearly refuses the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.autograd import forward_ad

import equiv_probe as ep

from ..timed_models import MATRIX, TIMED, Timed, drawn

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
    """From the first call on, and among calls that are measured; the output is the same to the last bit."""
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


@pytest.mark.parametrize("how", ["vmap", "grad", "jacrev"])
def test_a_step_with_derivatives_of_the_network_is_refused(how: str) -> None:
    """Its outputs could be replayed, but not their derivatives; later on it is a warning, and training goes on."""
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


def along(net: nn.Module, at: tuple[Tensor, ...], way: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """As ``torch.func.jvp``, by dual numbers."""
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(net(*[forward_ad.make_dual(a, b) for a, b in zip(at, way, strict=True)]))
        return found.primal, found.tangent


def reverse(net: nn.Module, at: tuple[Tensor, ...], way: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = torch.autograd.functional.jvp(net, at, way, create_graph=True)
    return found


DERIVATIVES = {"torch.func": torch.func.jvp, "dual numbers": along, "autograd.functional": reverse}


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, False], ids=["training", "no_grad"])
@pytest.mark.parametrize("how", DERIVATIVES)
def test_mean_flow(how: str, graph: bool) -> None:
    """``u = v − (t − r) du/dt``: exact, with averages over the 60 rotations of the icosahedron, and with the twirl."""
    torch.manual_seed(0)
    net, (x, t) = Timed().eval(), drawn(16)
    v, r = torch.randn_like(x), t * torch.rand_like(t)

    def column(times: Tensor) -> Tensor:
        return times[:, None, None]

    def residual(u: Tensor, du: Tensor) -> Tensor:
        return (u - (v - column(t - r) * du).detach()).square().mean()

    def step() -> Tensor:
        with torch.set_grad_enabled(graph):
            return residual(*DERIVATIVES[how](net, (x, t), (v, torch.ones_like(t))))

    def of(matrix: Tensor) -> Tensor:
        mixed = x @ matrix.T
        return residual(column(1 + t) * mixed, column(1 + t) * (v @ matrix.T) + mixed)

    group = torch.tensor(Rotation.create_group("I").as_matrix())
    total = torch.stack([of(g.T @ MATRIX @ g) for g in group]).mean()
    mean = of(MATRIX.trace() / 3 * torch.eye(3, dtype=torch.float64))
    wanted = step()
    plan = ep.RotationPlan("icosahedral", 2)
    probe = ep.Probe(net, TIMED, plan=plan, full=1, budget=None, center="origin")
    found = probe.step(step)
    assert torch.equal(found, wanted)
    if graph and how != "dual numbers":
        torch.testing.assert_close(*[torch.autograd.grad(one, net.matrix)[0] for one in (found, wanted)])
    numbers = probe.compute(window=False)
    assert numbers["equiv/val/loss/L_total"] == pytest.approx(float(total), rel=1e-9)
    assert numbers["equiv/val/loss/L_mean"] == pytest.approx(float(mean), rel=1e-9)
    assert abs(float(of(MATRIX) - mean)) > 0.01, "the network itself, for want of averages, would be seen"
    assert not probe.failures
