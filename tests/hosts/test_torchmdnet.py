"""``torchmd-train`` on rMD17 ethanol with ``EQUIV_PROBE``: TorchMD-NET's TensorNet, whose forces are a gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equiv_probe as ep

from .brute_force import ROTATIONS, agree, measured, stretched, variance

pytest.importorskip("torchmdnet", reason="TorchMD-NET is not installed: make hosts HOST=torchmdnet")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

OPTIONS = (
    "--model tensornet --embedding-dimension 16 --num-layers 1 --num-rbf 8 --cutoff-upper 4.5 --max-num-neighbors 16 "
    "--derivative true --dataset Custom --coord-files c.npy --embed-files z.npy --energy-files e.npy "
    "--force-files f.npy --log-dir log "
    "--train-size 24 --val-size 8 --test-size 8 --batch-size 8 --inference-batch-size 8 --num-epochs 2 --ngpus 1 "
    "--num-workers 0 --seed 1 --lr 0.001 --test-interval -1 --save-interval 1 --y-weight 1 --neg-dy-weight 10"
)


def trained(where: Path, frames: Any, **environment: str) -> Path:
    """The last checkpoint of a training in this environment."""
    where.mkdir()
    np.save(where / "c.npy", np.stack([a.positions for a in frames]).astype("f4"))
    np.save(where / "z.npy", frames[0].numbers)
    np.save(where / "e.npy", np.array([[a.get_potential_energy() + 4209] for a in frames], "f4"))
    np.save(where / "f.npy", np.stack([a.get_forces() for a in frames]).astype("f4"))
    arguments = [str(Path(sys.executable).parent / "torchmd-train"), *OPTIONS.split()]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(arguments, cwd=where, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return max((where / "log").glob("epoch=1*.ckpt"))


def test_torchmd_train(data: Path, tmp_path: Path) -> None:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":40")
    plain = trained(tmp_path / "plain", frames)
    probed = trained(tmp_path / "probed", frames, EQUIV_PROBE="every=1")
    a, b = (torch.load(one, weights_only=False, map_location="cpu")["state_dict"] for one in (plain, probed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    report = json.loads((tmp_path / "probed" / "log" / "equiv_probe_report.json").read_text())
    found = {row["name"]: row for row in report["measured"]}
    assert any("loss" in name for name in found), sorted(found)
    compared(probed, frames[:4])


def compared(checkpoint: Path, frames: Any) -> None:
    """Numbers of the weights, in a network that is given stretched positions."""
    from torchmdnet.models.model import load_model

    model = load_model(str(checkpoint), derivative=True).eval()
    z = torch.tensor(np.concatenate([a.numbers for a in frames]))
    batch = torch.arange(len(frames)).repeat_interleave(len(frames[0]))
    pos = torch.tensor(np.concatenate([a.positions - a.positions.mean(0) for a in frames])).float()

    def stretch(_: Any, args: Any) -> Any:
        return (args[0], stretched(args[1]), *args[2:])

    model.register_forward_pre_hook(stretch)
    schema = ep.Schema({"pos": ep.point}, {"0": ep.scalar, "1": ep.vector}, batch="batch")
    with ep.Probe(model, schema, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        model(z, pos, batch)
    expected = variance(lambda g: model(z, pos @ g.T, batch)[1] @ g, torch.float32)
    agree(measured(probe, "1"), expected)
