"""Diagnosis of models on voxels without interpolation: boxes of any shape, and channels that rotate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

SHAPES = {(6, 6, 6): 24, (6, 6, 5): 8, (7, 6, 5): 4}
"""Of boxes, and how many of the cube's rotations keep them."""


class Voxels(nn.Module):
    """A convolution of a density, and its gradient by central differences, which rotates as a vector."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv3d(1, 1, 3, padding=1).double()
        weight = self.mix.weight.data
        if not broken:
            self.mix.weight.data = (weight + weight.flip(2, 3, 4)).mean().expand(weight.shape).clone()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        mixed = self.mix(batch["density"])
        slopes = [mixed.roll(-1, axis) - mixed.roll(1, axis) for axis in (-3, -2, -1)]
        return {"field": torch.cat([mixed, *slopes], 1)}


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_of_any_shape(shape: tuple[int, int, int]) -> None:
    given = {"density": torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
    schema = ep.Schema({"density": ep.grid()}, {"field": ep.grid(ep.scalar, ep.vector)})
    found = ep.diagnose(Voxels(broken=True), given, schema, everything=True)
    assert found.verdict == "kernels"
    assert found.causes[0].part == pytest.approx(1, abs=1e-9)
    assert found.protocol["rotations"] == SHAPES[shape]
    assert [one.why for one in found.attempts if one.state == "failed"] == []
    sound = ep.diagnose(Voxels(broken=False), given, schema)
    assert sound.verdict == "nothing", str(sound)


def test_kernels_without_a_direction_are_not_accused_of_what_else_breaks_it() -> None:
    class Tilted(Voxels):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            field = super().forward(batch)["field"]
            corner = torch.zeros(6, 6, 6, dtype=torch.float64)
            corner[0, 1, 2] = 1.0
            return {"field": field * (1 + corner)}

    given = {"density": torch.randn(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
    schema = ep.Schema({"density": ep.grid()}, {"field": ep.grid(ep.scalar, ep.vector)})
    found = ep.diagnose(Tilted(broken=False), given, schema, everything=True)
    assert found.verdict == "unexplained", str(found)
