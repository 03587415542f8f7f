"""Where in the network of a calculator: a planted layer, calculators without a network, and the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from torch import Tensor, nn
from typer.testing import CliRunner

import equiv_probe as ep
from equiv_probe.cli.main import build
from equiv_probe_ase import trace

if TYPE_CHECKING:
    from pathlib import Path


class Stretch(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_tensor([1.0, 1.0, self.factor])


class Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        away = x[:, None] - x[None]
        return away.square().sum(-1)


class Network(nn.Module):
    """A pair energy of positions that are stretched first, unless the factor is one."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stretch, self.distances = Stretch(factor), Distances()
        self.pair = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(self.distances(self.stretch(x - x.mean(0)))[..., None] / 10).sum()


class Torch(Calculator):
    """Energy and forces of the network, in float64."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.model = Network(factor).double()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        positions = torch.tensor(self.atoms.positions, requires_grad=True)
        energy = self.model(positions)
        forces = -torch.autograd.grad(energy, positions)[0]
        self.results = {"energy": float(energy.detach()), "forces": forces.numpy()}


def stretched() -> Torch:
    return Torch(1.2)


def test_the_planted_layer_of_a_calculator_is_found() -> None:
    calculator = Torch(1.2)
    found = trace(calculator, molecule("CH3CH2OH"), progress=False)
    assert [one.path for one in found.culprits] == ["stretch"]
    assert found.output == "energy"
    assert found.culprits[0].adds == pytest.approx(1.0, abs=1e-3)
    assert "of which forces are gradients" in " ".join(found.notes)
    assert not any(part._forward_hooks for part in calculator.model.modules())


def test_without_it_nothing_is_found() -> None:
    found = trace(Torch(), [molecule("CH3OH"), molecule("H2O")], progress=False)
    assert found.culprits == []
    assert not any(one.broken for one in found.layers)


def test_a_calculator_without_a_torch_module_says_so() -> None:
    with pytest.raises(ep.EquivProbeError, match="holds no torch module"):
        trace(EMT(), molecule("CH3OH"), progress=False)


def test_the_command(tmp_path: Path) -> None:
    import ase.io

    ase.io.write(tmp_path / "m.xyz", molecule("CH3OH"))
    given = [f"{__name__}:stretched", str(tmp_path / "m.xyz"), "--layers", "--no-progress"]
    shown = CliRunner().invoke(build(), ["diagnose", *given, "-o", str(tmp_path / "t.json")])
    assert shown.exit_code == 0, shown.output
    assert "stretch (Stretch) adds 100 % of the squared error of 'energy'" in " ".join(shown.output.split())
    assert [one.path for one in ep.load(tmp_path / "t.json").culprits] == ["stretch"]
    plain = CliRunner().invoke(build(), ["diagnose", *given, "--json"])
    assert json.loads(plain.stdout)["kind"] == "trace"
