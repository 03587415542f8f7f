"""Two processes give what one gives, and train what they train without the callback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch

from equiv_probe.results.report import Report

from .. import warm_processes
from .two_ranks import main

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of all trainings: one process's is this one's, two are started as a launcher starts them."""
    made = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if key != "EQUIV_PROBE"}
    kept |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    ranks = [
        warm_processes.start(
            SCRIPT, made, cwd=made, env={**kept, "LOCAL_RANK": rank}, imported=warm_processes.LIGHTNING
        )
        for rank in ("0", "1")
    ]
    for which in ("child", "itself"):
        main(f"{made}/one-{which}", 1, probed=True, itself=which == "itself")
    errors = [rank.communicate(300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return made


@pytest.mark.parametrize("which", ["child", "itself"])
def test_two_ranks_equal_one(which: str, folder: Path) -> None:
    one = torch.load(folder / f"one-{which}.0")
    two, bare = ([torch.load(folder / f"{name}-{which}.{rank}") for rank in (0, 1)] for name in ("two", "bare"))
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
    reports = {name: Report.load(folder / f"{name}-{which}.json") for name in ("one", "two")}
    for name in ("train/loss", "val/loss"):
        a, b = (reports[kind][name].labelled for kind in ("one", "two"))
        assert a is not None
        assert b is not None
        assert b.share == pytest.approx(a.share, rel=1e-9)
        assert b.structures == (a.structures * 2), "each rank measured its half of every batch"
    stored = torch.load(folder / f"two-{which}.ckpt", weights_only=True)["callbacks"]["EquivarianceCallback"]
    assert len(stored["generators"]) == 2
    sums = stored["probe"]["running"]["train", "loss"]
    assert len(sums["recent"]) == 3
    assert float(sums["everything"]["count"]) == 12
