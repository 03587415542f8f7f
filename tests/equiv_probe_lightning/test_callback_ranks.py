"""Two processes give what one gives, and train what they train without the callback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from equiv_probe.results.report import Report

SCRIPT = Path(__file__).with_name("two_ranks.py")


def trained(out: Path, ranks: int, probed: str, which: str) -> dict[int, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "EQUIV_PROBE"}
    command = [sys.executable, str(SCRIPT), str(out), str(ranks), probed, which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {rank: torch.load(f"{out}.{rank}") for rank in range(ranks)}


@pytest.mark.parametrize("which", ["child", "itself"])
def test_two_ranks_equal_one(which: str, tmp_path: Path) -> None:
    one = trained(tmp_path / "one", 1, "probed", which)[0]
    two = trained(tmp_path / "two", 2, "probed", which)
    bare = trained(tmp_path / "bare", 2, "bare", which)
    for rank in (0, 1):
        assert torch.equal(two[rank]["matrix"], bare[rank]["matrix"]), "the weights are those without the callback"
    assert two[0]["logged"] == two[1]["logged"], "every rank logs the same"
    names = {f"equiv/{stage}/loss/{key}" for stage in ("train", "val") for key in ("L_total", "L_mean", "L_equiv")}
    assert names <= set(one["logged"])
    for name in names:  # 1e-9: gradients and losses are averaged in another order
        assert two[0]["logged"][name] == pytest.approx(one["logged"][name], rel=1e-9)
    # Every rank's batch has its own |x|², by which both gradients scale: their ratio is that of one process.
    ratio = "equiv/train/loss/grad_ratio"
    assert two[0]["logged"][ratio] == pytest.approx(one["logged"][ratio], rel=1e-6)
    reports = {name: Report.load(tmp_path / f"{name}.json") for name in ("one", "two")}
    for name in ("train/loss", "val/loss"):
        a, b = (reports[kind][name].labelled for kind in ("one", "two"))
        assert a is not None
        assert b is not None
        assert b.share == pytest.approx(a.share, rel=1e-9)
        assert b.structures == (a.structures * 2), "each rank measured its half of every batch"
    stored = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]["EquivarianceCallback"]
    assert len(stored["generators"]) == 2
    sums = stored["probe"]["running"]["train", "loss"]
    assert len(sums["recent"]) == 3
    assert float(sums["everything"]["count"]) == 12
