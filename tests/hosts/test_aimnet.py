"""AIMNet2's calculator by name, on a file with random weights that its own command exports: its own are downloaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .batches import batch_is_loop, structures

aimnet = pytest.importorskip("aimnet", reason="AIMNet2 is not installed: make hosts HOST=aimnet")
yaml = pytest.importorskip("yaml")
pytest.importorskip("ase.io", reason="ASE is not installed")


def test_a_batch_of_an_exported_model(tmp_path: Path) -> None:
    from aimnet.config import build_module

    definition = Path(aimnet.__file__).parent / "models" / "aimnet2.yaml"
    torch.manual_seed(0)
    torch.save(build_module(yaml.safe_load(definition.read_text())).state_dict(), tmp_path / "weights.pt")
    (tmp_path / "atoms.yaml").write_text(yaml.safe_dump({z: -float(z) for z in (1, 6, 8, 11, 17)}))
    command = [sys.executable, "-m", "aimnet.train.export_model", "weights.pt", "model.pt", "-m", str(definition)]
    done = subprocess.run([*command, "-s", "atoms.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    spec = f"aimnet:{tmp_path / 'model.pt'}"
    batch_is_loop(spec, structures(), tolerance=1e-4, network=lambda one: one.base_calc.model)
