"""The floor of a live measurement: not below what the type of an output resolves, and no excuse for what is broken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep


class FarFromZero(nn.Module):
    """An energy in float32 with a large offset, whose numbers lie half a thousandth apart; ``tilt`` breaks it."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.tilt, self.weight = tilt, nn.Parameter(torch.ones(()))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        centred = pos - pos.mean(-2, keepdim=True)
        own = centred.square().sum((-1, -2)) + self.tilt * centred[..., 0].square().sum(-1)
        return {"energy": self.weight * own - 4209.0}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tilt", "verdict"), [(0.0, "round-off"), (0.1, "broken")])
def test_an_output_is_rounded_to_its_own_type(seed: int, tilt: float, verdict: str) -> None:
    pos = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(seed))
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar})
    model = FarFromZero(tilt)
    with ep.Probe(model, schema, every=1, seed=seed) as probe:
        for _ in range(3):
            model(pos)
    (row,) = probe.report().measured
    assert row.verdict == verdict, row.sentence
    assert "inf" not in row.sentence
    spacing = 4209 * torch.finfo(torch.float32).eps
    assert row.floor >= 0.9 * spacing / 12**0.5
    assert row.floor <= 3 * spacing
