"""Networks that are not called as one module: measuring the first layer in their place would be a wrong number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import Linear, LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


class Parts(LinearModule):
    """Coordinates go to ``enc``, its features to ``dec``; ``forward`` is there, and not used by the step."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(3, 8).double(), nn.Linear(8, 3).double()

    def forward(self, pos: Tensor) -> Tensor:
        return torch.as_tensor(self.dec(torch.tanh(self.enc(pos))))

    def loss(self, batch: Any) -> Tensor:
        return (self.dec(torch.tanh(self.enc(batch[0]))) - batch[1]).square().mean()


class Whole(Parts):
    """The same, called as one module."""

    def loss(self, batch: Any) -> Tensor:
        return (self(batch[0]) - batch[1]).square().mean()


class Judged(LinearModule):
    """A network, and after it a critic: what comes later is not part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.critic = Linear(), nn.Linear(15, 4).double()

    def loss(self, batch: Any) -> Tensor:
        forces = self.net(batch[0])["forces"]
        return (forces - batch[1]).square().mean() + self.critic(forces.flatten(1)).square().mean()


def measured(module: Any, folder: Path, **settings: Any) -> EquivarianceCallback:
    callback = EquivarianceCallback(every=1, light=EXACT, verbose=False, **settings)
    trainer(folder, [callback], max_steps=2).fit(module, loader())
    return callback


def test_first_layers_are_not_taken_for_the_network(tmp_path: Path) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"enc \(Linear\).*features \(8, 5, 8\).*dec \(Linear\)"):
        measured(Parts(), tmp_path)
    named = measured(Parts(), tmp_path, network="enc")
    assert named.probe is not None
    assert isinstance(named.probe.model, nn.Linear), "who names it gets it"


@pytest.mark.slow
def test_a_network_called_as_one_module_is_found(tmp_path: Path) -> None:
    for module, found in ((Whole(), Whole), (Judged(), Linear)):
        callback = measured(module, tmp_path)
        assert callback.probe is not None
        assert type(callback.probe.model) is found
