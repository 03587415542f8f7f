"""Two processes that train an `AtomisticTask` together: the closed form over all structures, and the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equiv_probe as ep

from .spk_models import quadratic_truth
from .two_ranks import MATRIX, batches


@pytest.mark.slow
def test_two_ranks_are_one_training(tmp_path: Path) -> None:
    root = Path(ep.__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "plugins")])
    kept = {name: value for name, value in os.environ.items() if name != "EQUIV_PROBE"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(tmp_path)],
        env={**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    probed, bare = ([torch.load(tmp_path / f"{name}.{rank}") for rank in (0, 1)] for name in ("probed", "bare"))
    for rank in (0, 1):
        assert torch.equal(probed[rank]["matrix"], bare[rank]["matrix"])
        assert not torch.equal(bare[rank]["matrix"], MATRIX)
    truths = [quadratic_truth(MATRIX, one) for one in batches()]
    energy, forces = (sum(values) / len(truths) for values in zip(*truths, strict=True))
    halves = sum(forces for _, forces in truths[::2]) / 2
    assert abs(halves - forces) > 1e-4 * forces, "negative control: one rank's half would be another number"
    for rank in (0, 1):
        metrics = probed[rank]["metrics"]
        # Of degree four in the rotation, which the design averages exactly: rounding is left.
        assert metrics["equiv/val/energy/L_equiv"] == pytest.approx(energy, rel=1e-9)
        assert metrics["equiv/val/forces/L_equiv"] == pytest.approx(forces, rel=1e-9)
        assert metrics["equiv/val/loss/L_equiv"] == pytest.approx(0.01 * energy + 0.99 * forces, rel=1e-9)
