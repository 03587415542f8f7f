"""Training steps that move their batch into a frame of its own: Lightning's batch comes as an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from equiv_probe.estimation.controls import OWN_FRAME
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import LinearModule, loader, parts, trainer

if TYPE_CHECKING:
    from pathlib import Path


def own_axes(x: Tensor) -> Tensor:
    """Axes ``(B, 3, 3)`` of the first three atoms, as columns."""
    first = nn.functional.normalize(x[:, 1] - x[:, 0], dim=-1)
    third = nn.functional.normalize(torch.linalg.cross(first, x[:, 2] - x[:, 0]), dim=-1)
    return torch.stack([first, torch.linalg.cross(third, first), third], -1)


class Aligned(LinearModule):
    """Positions and labels are moved into a frame of the structure's own before the network is called."""

    def loss(self, batch: Any) -> Tensor:
        x, y = parts(batch, self.kind)
        axes = own_axes(x)
        return (self.net(x @ axes)["forces"] - y @ axes).square().mean()


@pytest.mark.parametrize("kind", ["tuple", "dict", "custom"])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_training_step_with_its_own_frame_is_told(tmp_path: Path, kind: str, aligned: bool) -> None:
    weights = []
    for callback in (None, EquivarianceCallback(every=1, verbose=False, cost=None)):
        torch.manual_seed(0)
        module = Aligned(kind, lr=0.1) if aligned else LinearModule(kind, lr=0.1)
        fit = trainer(tmp_path, max_epochs=1, callbacks=[callback] if callback is not None else [])
        fit.fit(module, loader(kind), loader(kind, seed=1))
        weights.append(module.net.matrix.detach().clone())
    assert torch.equal(*weights)
    assert callback is not None
    assert callback.probe is not None
    found = [one for one in callback.probe.controls if one.name == OWN_FRAME]
    assert found, "it was looked at"
    assert [one.passed for one in found] == len(found) * [not aligned]
    assert not aligned or all("and the step's loss stays, too" in one.sentence for one in found)
