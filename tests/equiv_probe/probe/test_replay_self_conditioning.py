"""Self-conditioning: the network is given its own earlier output, as a tensor or in a dict, and not in every call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.adapters import CallAdapter

from ..timed_models import MATRIX

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = ep.RotationPlan("tetrahedral", 2)
BACK = torch.tensor([[0.3, 0.2, 0.0], [0.0, 0.1, 0.4], [0.0, 0.0, -0.2]], dtype=torch.float64)


class ByDict(nn.Module):
    """``A x_t + B x̂`` and what is in it as a logit, given the earlier output as it came."""

    def forward(self, x_t: Tensor, t: Tensor, prev: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        x = (1 + t)[:, None, None] * x_t @ MATRIX.T
        if prev is not None:
            x = x + prev["x"] @ BACK.T + 0.1 * prev["types"].mean()
        return {"x": x, "types": x.square().sum(-1, keepdim=True).expand(*x.shape[:2], 4)}


class ByTensor(nn.Module):
    """The same with one tensor for each entry."""

    def forward(
        self, x_t: Tensor, t: Tensor, prev_x: Tensor | None = None, prev_types: Tensor | None = None
    ) -> dict[str, Tensor]:
        prev = {"x": prev_x, "types": prev_types} if prev_x is not None and prev_types is not None else None
        return ByDict.forward(self, x_t, t, prev)  # type: ignore[arg-type]


OUT = {"x": ep.vector, "types": ep.scalar}


def step_of(net: nn.Module, *, condition: bool = True) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(6, generator=generator, dtype=torch.float64)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)

    def step() -> Tensor:
        with torch.no_grad():
            prev = net(x, t)
        if not condition:
            found = net(x, t)
        elif isinstance(net, ByDict):
            found = net(x, t, prev=prev)
        else:
            found = net(x, t, prev_x=prev["x"], prev_types=prev["types"])
        return (found["x"] - y).square().mean() + 0.01 * (found["types"] - 3).square().mean()

    return step


def equiv(net: nn.Module, schema: ep.Schema | None) -> float:
    """Of a conditioned step after one that is not, as half of all training steps are."""
    probe = ep.Probe(net, schema)
    probe.replay(step_of(net, condition=False), PLAN)
    return probe.replay(step_of(net), PLAN).equiv


@pytest.fixture(name="wanted", scope="module")
def _wanted() -> float:
    return equiv(ByTensor(), ep.Schema({"x_t": ep.point, "prev_x": ep.vector}, OUT))


@pytest.mark.parametrize(
    "schema",
    [
        None,
        ep.Schema({"x_t": ep.point, "x": ep.vector}, OUT),
        ep.Schema({"x_t": ep.point}, {}),
    ],
    ids=["inferred", "declared", "in part"],
)
def test_an_earlier_answer_in_a_dict_rotates_along(schema: ep.Schema | None, wanted: float) -> None:
    """Whether the first call has it or not: as if its entries were given one by one, to rounding."""
    assert equiv(ByDict(), schema) == pytest.approx(wanted, rel=1e-10)


def test_an_earlier_answer_that_does_not_rotate_would_be_caught(wanted: float) -> None:
    """Negative control."""
    schema = ep.Schema({"x_t": ep.point, "x": ep.fixed}, OUT)
    assert abs(equiv(ByDict(), schema) / wanted - 1) > 1e-3


def test_a_declared_input_that_never_comes_is_still_an_error() -> None:
    net = ByDict()
    schema = ep.Schema({"x_t": ep.point, "xt": ep.point}, OUT)
    with pytest.raises(ep.EquivProbeError, match="'xt'"):
        ep.Probe(net, schema).replay(step_of(net), PLAN)


class Given(nn.Module):
    def forward(self, data: dict[str, Tensor], x: Tensor) -> Tensor:
        return data["x"] * x


def test_a_key_and_an_argument_of_one_name_are_two_inputs() -> None:
    """Neither takes the other's place when the call is made again."""
    a, b = torch.randn(2, 4, 3)
    leaves, rebuild = CallAdapter(Given()).split(({"x": a}, b), {})
    assert set(leaves) == {"data.x", "x"}
    (data, x), _ = rebuild(leaves)
    assert torch.equal(data["x"], a)
    assert torch.equal(x, b)
