"""DeePMD's calculator by name, on a model with random weights.

Its wheels hold an operator that is compiled for one version of torch, and refuse any other; without the file
``libdeepmd_op_pt.so`` they do without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .batches import batch_is_loop, structures

pytest.importorskip("deepmd", reason="DeePMD is not installed: make hosts HOST=deepmd")
pytest.importorskip("ase.io", reason="ASE is not installed")


def test_a_batch_of_a_model(tmp_path: Path) -> None:
    from deepmd.dpmodel.model.model import get_model
    from deepmd.dpmodel.utils.serialization import save_dp_model

    layers = {"neuron": [8, 16], "resnet_dt": False, "seed": 1, "precision": "float64"}
    descriptor = {"type": "se_e2_a", "sel": [40] * 5, "rcut_smth": 0.5, "rcut": 5.0, "axis_neuron": 4, **layers}
    configuration = {"type_map": ["H", "C", "O", "Na", "Cl"], "descriptor": descriptor, "fitting_net": layers}
    model = {"backend": "dpmodel", "model": get_model(configuration).serialize(), "model_def_script": configuration}
    save_dp_model(str(tmp_path / "model.dp"), model)
    command = [str(Path(sys.executable).parent / "dp"), "convert-backend", "model.dp", "model.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "is compiled for" in done.stderr or "used to compile this" in done.stderr:
        pytest.skip("DeePMD's wheel is compiled for another torch")
    assert done.returncode == 0, done.stderr[-2000:]
    batch_is_loop(f"deepmd:{tmp_path / 'model.pth'}", structures(), tolerance=1e-9)
