"""``nequip-train`` on rMD17 ethanol with ``EQUIV_PROBE``: NequIP's own configuration, loss and metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep
from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.evaluators import evaluator_for

from .batches import batch_is_loop, deviations, structures
from .brute_force import ROTATIONS, agree, measured, stretched, variance

pytest.importorskip("nequip", reason="NequIP is not installed: make hosts HOST=nequip")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

CONFIGURATION = """
run: [train]
seed: 1
cutoff_radius: 4.0
model_type_names: [C, H, O]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  train_file_path: [train.xyz]
  val_file_path: [valid.xyz]
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${model_type_names}
    - _target_: nequip.data.transforms.NeighborListTransform
      r_max: ${cutoff_radius}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 4}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 4}
  stats_manager: {_target_: nequip.data.CommonDataStatisticsManager, type_names: "${model_type_names}"}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  devices: 1
  max_epochs: 2
  enable_progress_bar: false
  logger: false
  callbacks:
    - {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: ., filename: last_one}
training_module:
  _target_: nequip.train.NequIPLightningModule
  loss:
    _target_: nequip.train.EnergyForceLoss
    per_atom_energy: true
    coeffs: {total_energy: 1.0, forces: 1.0}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {total_energy_mae: 1.0, forces_mae: 1.0}
  optimizer: {_target_: torch.optim.Adam, lr: 0.01}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 1
    model_dtype: float32
    type_names: ${model_type_names}
    r_max: ${cutoff_radius}
    num_layers: 2
    l_max: 1
    parity: false
    num_features: 8
    num_bessels: 4
    radial_mlp_depth: 1
    radial_mlp_width: 8
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_shifts: ${training_data_stats:per_atom_energy_mean}
    per_type_energy_scales: ${training_data_stats:forces_rms}
"""


def trained(where: Path, frames: Any, **environment: str) -> Path:
    """The checkpoint of a training in this environment."""
    where.mkdir()
    (where / "tutorial.yaml").write_text(CONFIGURATION)
    io.write(where / "train.xyz", frames[:16])
    io.write(where / "valid.xyz", frames[16:])
    script = str(Path(sys.executable).parent / "nequip-train")
    arguments = [script, "-cp", str(where), "-cn", "tutorial", "hydra.run.dir=."]
    env = {**os.environ, **environment}
    done = subprocess.run(arguments, cwd=where, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return where / "last_one.ckpt"


def test_nequip_train(data: Path, tmp_path: Path) -> None:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":24")
    for one in frames:
        one.calc.results["energy"] += 4209
    plain = trained(tmp_path / "plain", frames)
    probed = trained(tmp_path / "probed", frames, EQUIV_PROBE="every=1")
    a, b = (torch.load(one, weights_only=False, map_location="cpu")["state_dict"] for one in (plain, probed))
    assert all(torch.equal(a[name], b[name]) for name in a if isinstance(a[name], torch.Tensor))
    report = json.loads(next((tmp_path / "probed").rglob("equiv_probe_report*.json")).read_text())
    assert any("loss" in row["name"] or "weighted_sum" in row["name"] for row in report["measured"])
    compared(probed, frames[:4])


def compared(checkpoint: Path, frames: Any) -> None:
    """Numbers of the weights, in a network that is given stretched positions."""
    from nequip.data import AtomicDataDict, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.model import ModelFromCheckpoint
    from nequip.utils.global_state import set_global_state

    set_global_state()
    module = ModelFromCheckpoint(str(checkpoint))
    model = (module["sole_model"] if isinstance(module, torch.nn.ModuleDict) else module).eval()
    made = []
    for one in frames:
        entry = ChemicalSpeciesToAtomTypeMapper(model_type_names=["C", "H", "O"])(from_ase(one))
        made.append(NeighborListTransform(r_max=4.0)(entry))
    batch = AtomicDataDict.batched_from_list(made)
    batch = {name: value for name, value in batch.items() if name not in {"forces", "total_energy"}}
    pos, index = batch["pos"], batch["batch"]
    middle = torch.stack([pos[index == k].mean(0) for k in range(len(frames))])[index]
    model.register_forward_pre_hook(lambda _, args: ({**args[0], "pos": stretched(args[0]["pos"])},))
    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        model(dict(batch))

    def forces(g: Any) -> Any:
        rotated = (pos - middle) @ g.to(pos).T + middle
        return model({**batch, "pos": rotated})["forces"].double() @ g.double()

    agree(measured(probe, "forces"), variance(forces))


def test_a_batch_of_a_checkpoint(data: Path, tmp_path: Path) -> None:
    checkpoint = trained(tmp_path / "run", io.read(data / "ethanol_rmd17" / "train.xyz", ":24"))
    batch_is_loop(f"nequip:{checkpoint}", structures(salt="CO"), tolerance=1e-5, network=lambda one: one.model)


def test_what_is_compiled_for_ase_takes_one_structure(data: Path, tmp_path: Path) -> None:
    """``nequip-compile`` takes minutes."""
    checkpoint = trained(tmp_path / "run", io.read(data / "ethanol_rmd17" / "train.xyz", ":24"))
    compiled = tmp_path / "model.nequip.pt2"
    script = str(Path(sys.executable).parent / "nequip-compile")
    how = ["--mode", "aotinductor", "--target", "ase", "--device", "cpu"]
    command = [script, *how, str(checkpoint), str(compiled)]
    done = subprocess.run(command, cwd=checkpoint.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    fast, own = (evaluator_for(make_calculator(f"nequip:{path}")) for path in (compiled, checkpoint))
    assert "one structure" in fast.note
    some, names = structures(salt="CO")[:2], ["energy", "forces"]
    assert max(deviations(fast.evaluate(some, names), own.evaluate(some, names)).values()) < 1e-5
