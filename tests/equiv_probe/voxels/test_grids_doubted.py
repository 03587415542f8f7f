"""What an audit of grids says where its declaration may be broken, not the model, and where right angles are blind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

X = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Gradients(nn.Module):
    """Scalars and gradients of a density: exactly equivariant, in channels that are put in some order."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        gradient = torch.cat([x.roll(-1, axis) - x.roll(1, axis) for axis in (2, 3, 4)], 1)
        return torch.cat([x, 2 * x, gradient, gradient * x], 1)[:, self.order]


def audit(model: nn.Module, declared: ep.Schema, x: Tensor = X) -> ep.GridAudit:
    return ep.audit_grid(model, x, declared, plan=ep.RotationPlan("klein", 2), progress=False)


def declared(*fields: object, **options: object) -> ep.Schema:
    return ep.Schema({"x": ep.grid(**options)}, {"0": ep.grid(*fields, **options)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "wrong", "says", "right"),
    [
        ([2, 3, 4], (), "ep.grid(ep.vector)", (ep.vector,)),
        ([0, 1, 2, 3, 4], (), "ep.grid((2, ep.scalar), ep.vector)", ((2, ep.scalar), ep.vector)),
        ([2, 3, 4, 0], (ep.scalar, ep.vector), "ep.grid(ep.vector, ep.scalar)", (ep.vector, ep.scalar)),
        ([4, 3, 2], (ep.vector,), "with components z, y, x", None),
        ([2, 5, 3, 6, 4, 7], ((2, ep.vector),), "with the x of all vectors before their y and z", None),
    ],
)
def test_channels_in_another_order_are_recognised(
    order: list[int], wrong: tuple[object, ...], says: str, right: tuple[object, ...] | None
) -> None:
    found = audit(Gradients(order), declared(*wrong)).cube
    assert found.equiv > 0.01
    assert any(says in note for note in found.notes), found.notes
    if right is not None:
        found = audit(Gradients(order), declared(*right)).cube
        assert found.equiv < 1e-28, "rightly declared, it is exactly equivariant"
        assert not found.notes


@pytest.mark.parametrize("fields", [(), (ep.vector,)], ids=["scalars", "vector"])
def test_a_broken_model_has_no_other_fields(fields: tuple[object, ...]) -> None:
    """Negative control."""
    torch.manual_seed(0)
    found = audit(nn.Conv3d(1, 3, 3, padding=1).double(), declared(*fields)).cube
    assert found.equiv > 1e-4
    assert not found.notes


class AlongX(nn.Module):
    """Averages along one axis alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 2) + x.roll(-1, 2)


@pytest.mark.parametrize(
    ("shape", "spacing", "blind"),
    [((6, 6, 6), 1.0, False), ((8, 6, 4), 1.0, True), ((6, 6, 6), (1.0, 2.0, 3.0), True)],
    ids=["cube", "box", "unequal voxels"],
)
def test_where_right_angles_keep_every_axis_their_zero_is_said_to_be_blind(
    shape: tuple[int, ...], spacing: object, blind: bool
) -> None:
    x = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = audit(AlongX(), declared(spacing=spacing), x)
    assert (found.cube.equiv < 1e-28) == blind
    assert ("right angles keep every axis" in " ".join(str(found).split())) == blind
