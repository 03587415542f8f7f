"""MatterSim's calculator by name, on a checkpoint with random weights: its own are downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from .batches import batch_is_loop, structures

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("mattersim", reason="MatterSim is not installed: make hosts HOST=mattersim")
pytest.importorskip("ase.io", reason="ASE is not installed")


def test_a_batch_of_a_checkpoint(tmp_path: Path) -> None:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    torch.manual_seed(0)
    model = M3Gnet(device="cpu", num_blocks=2, units=16, max_l=3, max_n=3)
    path = tmp_path / "mattersim.pth"
    torch.save({"model_name": "m3gnet", "model": model.state_dict(), "model_args": dict(model.model_args)}, path)
    spec = f"mattersim:{path}"
    batch_is_loop(spec, structures(boxed=True), tolerance=1e-5, network=lambda one: one.potential.model)
