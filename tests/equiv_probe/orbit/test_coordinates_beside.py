"""A function that reads coordinates from a variable shows the model two orientations: its zero is not believed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.controls import ELSEWHERE
from equiv_probe.testing import assert_equivariant

F = torch.float64
POS = 2 * torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=F)
EDGES = torch.combinations(torch.arange(9)).T
STRETCH = torch.tensor([1.0, 2.0, 3.0], dtype=F)
SCHEMA = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})


def invariants(pos: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(pos, pos)).sum()


def frame_dependent(arrows: Tensor) -> Tensor:
    return (arrows * STRETCH).tanh().square().sum()


class Reads(nn.Module):
    def __init__(self, held: Tensor) -> None:
        super().__init__()
        self.held = held

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": invariants(given["pos"]) + frame_dependent(self.held)}


def failed(predict: object) -> list[str]:
    orbit = ep.twirl(predict, {"pos": POS}, SCHEMA, progress=False)  # type: ignore[arg-type]
    assert ep.decompose(orbit).equiv < 1e-24, "the zero that is not to be believed"
    return [one.sentence for one in orbit.controls if one.name == ELSEWHERE and one.failed]


@pytest.mark.parametrize(
    "held",
    [POS.clone(), POS - POS.mean(0), POS[EDGES[1]] - POS[EDGES[0]], (POS[:, None] - POS).clone()],
    ids=["places", "centred", "edges that nobody names", "pairs"],
)
@pytest.mark.parametrize("how", ["closure", "attribute", "method", "partial"])
def test_coordinates_from_elsewhere_fail_a_control(held: Tensor, how: str) -> None:
    before = held.clone()
    net = Reads(held)
    ways = {"closure": lambda given: {**net(given)}, "attribute": net, "method": net.forward, "partial": partial(net)}
    assert len(failed(ways[how])) == 1
    assert torch.equal(held, before), "displaced, and put back"


def test_directions_of_edges_that_the_code_names_are_found() -> None:
    edge_index = EDGES
    directions = nn.functional.normalize(POS[EDGES[1]] - POS[EDGES[0]], dim=1)

    def predict(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": invariants(given["pos"]) + frame_dependent(directions) + 0.0 * edge_index.sum()}

    assert "directions" in failed(predict)[0]


def test_what_is_no_coordinates_or_is_not_used_passes() -> None:
    """Negative control: constants, weights, coordinates that are written by the call itself, or only lie about."""
    reference, network, lies_about = torch.randn(9, 3, dtype=F), nn.Linear(3, 3).to(F), POS.clone()
    ball = torch.randn(20, 3, dtype=F)
    directions = torch.cat([torch.ones(20, 1, dtype=F), nn.functional.normalize(ball, dim=1)], 1)
    with_lengths = torch.cat([ball.norm(dim=1, keepdim=True), ball], 1)  # arrows, and none of the structure's
    last: dict[str, Tensor] = {}

    def constant(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": invariants(given["pos"]) + reference.sum() + network.weight.sum() + 0 * lies_about.sum()}

    def written(given: dict[str, Tensor]) -> dict[str, Tensor]:
        last["pos"] = given["pos"]
        return {"energy": invariants(last["pos"])}

    def table(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": invariants(given["pos"]) + frame_dependent(directions[:, 1:]) + with_lengths.square().sum()}

    assert not failed(constant)
    assert not failed(table)
    assert not failed(written)


def test_a_variable_with_the_name_of_an_input_is_looked_at_too() -> None:
    pos = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stretch = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": torch.cdist(inputs["pos"], inputs["pos"]).sum() + (pos * stretch).tanh().sum()}

    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    orbit = ep.twirl(model, {"pos": pos}, schema)
    assert [one.name for one in orbit.controls if one.failed] == ["no coordinates come in elsewhere"]
    with pytest.raises(AssertionError, match="beside its inputs"):
        assert_equivariant(model, {"pos": pos}, schema)
    pos = torch.zeros_like(pos)  # control: nothing of the structure any more
    assert_equivariant(model, {"pos": torch.randn(7, 3, dtype=torch.float64)}, schema)
