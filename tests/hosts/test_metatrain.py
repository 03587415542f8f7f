"""metatrain's PET, ``mtt train`` run by ``equiv-probe run`` on ethanol, and exported models in batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep
from equiv_probe_ase.calculators.by_name import make_calculator

from .batches import batch_is_loop, structures
from .brute_force import ROTATIONS, agree, measured, variance

pytest.importorskip("metatrain", reason="metatrain is not installed: make hosts HOST=metatrain")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

OPTIONS = """
seed: 1
architecture:
  name: pet
  model: {cutoff: 4.0, d_pet: 8, d_head: 8, d_node: 8, d_feedforward: 8, num_heads: 1, num_attention_layers: 1,
          num_gnn_layers: 1}
  training: {num_epochs: 2, batch_size: 4, learning_rate: 0.001}
training_set:
  systems: {read_from: train.xyz, length_unit: angstrom}
  targets: {energy: {quantity: energy, unit: eV, read_from: train.xyz, key: energy, forces: {key: forces}}}
validation_set: 0.2
test_set: 0.2
"""


def trained(where: Path, frames: list[Any], *command: str) -> Any:
    """The model after a training that this command runs."""
    from ase import Atoms
    from metatrain.utils.io import load_model

    where.mkdir()
    (where / "options.yaml").write_text(OPTIONS)
    shifted = []
    for frame in frames:  # near zero: in float32 the last digit of a whole molecule's energy is half a meV
        atoms = Atoms(frame.symbols, frame.positions, info={"energy": frame.get_potential_energy() + 4209.5})
        atoms.arrays["forces"] = frame.get_forces()
        shifted.append(atoms)
    io.write(where / "train.xyz", shifted)
    mtt = str(Path(sys.executable).parent / "mtt")
    done = subprocess.run(
        [*command, mtt, "train", "options.yaml"], cwd=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return load_model(str(where / "model.ckpt")).eval().float()


def test_mtt_train(data: Path, tmp_path: Path) -> None:
    from metatomic.torch import ModelOutput, System
    from metatrain.utils.data.readers import read_systems
    from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists

    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":30")
    plain = trained(tmp_path / "plain", frames, sys.executable)
    run = str(Path(sys.executable).parent / "equiv-probe")
    model = trained(tmp_path / "probed", frames, run, "run", "-s", "every=1")
    before, after = (dict(one.named_parameters()) for one in (plain, model))  # a buffer of metatrain's is never filled
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    report = json.loads((tmp_path / "probed" / "equiv_probe_report.json").read_text())
    assert {row["name"] for row in report["measured"]} >= {"train/energy.energy"}

    systems = read_systems(str(tmp_path / "probed" / "train.xyz"))[:4]
    neighbours, asked = get_requested_neighbor_lists(model), {"energy": ModelOutput(quantity="energy", unit="eV")}

    def batch(g: Any) -> Any:
        rotated = [
            System(s.types, (s.positions.double() @ g.double().T).float(), s.cell.float(), s.pbc) for s in systems
        ]
        return [get_system_with_neighbor_lists(one, neighbours) for one in rotated]

    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        model(batch(torch.eye(3)), asked)
    expected = variance(lambda g: model(batch(g), asked)["energy"].block().values)
    agree(measured(probe, "energy.energy"), expected)


def exported(architecture: str, where: Path, **smaller: Any) -> Path:
    """A model with random weights in float64, exported as ``mtt export`` does."""
    from metatrain.utils.architectures import get_default_hypers, import_architecture
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    torch.manual_seed(0)
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    info = DatasetInfo(length_unit="angstrom", atomic_types=[1, 6, 8, 11, 17], targets={"energy": energy})
    hypers = get_default_hypers(architecture)["model"] | smaller
    path = where / f"{architecture}.pt"
    import_architecture(architecture).__model__(hypers, info).double().export().save(str(path))
    return path


SMALLER = {"d_pet": 32, "d_head": 32, "d_node": 32, "d_feedforward": 32}


@pytest.mark.parametrize(("architecture", "smaller"), [("pet", SMALLER), ("soap_bpnn", {})])
def test_a_batch_of_an_exported_model(architecture: str, smaller: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("metatomic_ase", reason="metatomic-ase is not installed")
    if architecture == "soap_bpnn":
        pytest.importorskip("spex", reason="metatrain[soap-bpnn] is not installed")
    spec = f"metatomic:{exported(architecture, tmp_path, **smaller)}"
    batch_is_loop(spec, structures(), tolerance=1e-11, network=lambda calculator: calculator.model(), device="cpu")
    with pytest.raises(ep.EquivProbeError, match="the precision of its file"):
        make_calculator(spec, dtype="float32")
