"""HuggingFace's ``Trainer``, with labels given to a model that computes its own loss, and a loop of ``accelerate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from .brute_force import ROTATIONS, agree, bits, measured, variance

if TYPE_CHECKING:
    from pathlib import Path

transformers = pytest.importorskip("transformers", reason="transformers is not installed: make hosts HOST=transformers")
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: make hosts HOST=transformers")
io = pytest.importorskip("ase.io", reason="ASE is not installed")


@dataclass
class Output(transformers.utils.ModelOutput):
    loss: Tensor | None = None
    forces: Tensor | None = None
    hidden_states: Any = None


class Net(nn.Module):
    """Forces of molecules of one size; not equivariant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(27, 32), nn.SiLU())
        self.head = nn.Linear(32, 27)

    def forward(self, positions: Tensor, labels: Tensor | None = None) -> Output:
        x = positions - positions.mean(1, keepdim=True)
        hidden = self.body(x.flatten(1))
        forces = self.head(hidden).view_as(x)
        loss = None if labels is None else nn.functional.mse_loss(forces, labels)
        return Output(loss=loss, forces=forces, hidden_states=(hidden,))


@pytest.fixture
def ethanol(data: Path) -> list[dict[str, Tensor]]:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":32")
    return [
        {"positions": torch.tensor(a.positions).float(), "labels": torch.tensor(a.get_forces()).float()} for a in frames
    ]


def compare(net: Net, batch: dict[str, Tensor]) -> None:
    """Numbers of the trained weights."""
    x = batch["positions"]
    middle = x.mean(1, keepdim=True)
    with ep.Probe(net.eval(), plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        net(**batch)
    assert probe.schema is not None
    assert set(probe.schema.outputs) == {"forces"}, "neither features nor the loss"
    expected = variance(lambda g: net((x - middle) @ g.T + middle).forces @ g, torch.float32)
    agree(measured(probe, "forces"), expected)


def test_trainer(ethanol: list[dict[str, Tensor]], tmp_path: Path) -> None:
    def trained(probed: bool) -> tuple[Net, ep.Probe]:
        net = Net()
        probe = ep.Probe(net, every=1, full=1, cost=None)
        if probed:
            probe.attach()
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            report_to=[],
            seed=1,
            use_cpu=True,
        )
        transformers.Trainer(net, options, train_dataset=ethanol).train()
        probe.remove()
        return net, probe

    plain, (net, probe) = trained(probed=False)[0], trained(probed=True)
    assert bits(plain) == bits(net)
    assert measured(probe, "forces") > 0
    compare(net, {name: torch.stack([one[name] for one in ethanol[:8]]) for name in ethanol[0]})


def test_accelerate(ethanol: list[dict[str, Tensor]]) -> None:
    def trained(probed: bool) -> tuple[Net, ep.Probe]:
        machine = accelerate.Accelerator(cpu=True)
        net = Net()
        loader = torch.utils.data.DataLoader(ethanol, 8)
        model, optimizer, loader = machine.prepare(net, torch.optim.Adam(net.parameters(), 1e-3), loader)
        probe = ep.Probe(model, every=1)
        for batch in loader:

            def step(batch: Any = batch) -> Tensor:
                return nn.functional.mse_loss(model(batch["positions"]).forces, batch["labels"])

            loss = probe.step(step) if probed else step()
            machine.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return net, probe

    plain, (net, probe) = trained(probed=False)[0], trained(probed=True)
    assert bits(plain) == bits(net)
    assert measured(probe, "loss") > 0
    batch = {name: torch.stack([one[name] for one in ethanol[:8]]) for name in ethanol[0]}
    x, middle = batch["positions"], batch["positions"].mean(1, keepdim=True)
    replay = ep.Probe(net).replay(
        lambda: nn.functional.mse_loss(net(x).forces, batch["labels"]), ep.RotationPlan("haar", 60)
    )
    expected = variance(lambda g: net((x - middle) @ g.T + middle).forces @ g, torch.float32)
    agree(replay.equiv, expected)
