"""Two processes that train together: both measure or none does, whatever their clocks say and however weights lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from equiv_probe.probe.step_checks import SEES_OUTPUTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


@cache
def runs() -> list[dict[str, Any]]:
    """What came of all trainings, on each rank; one pair of processes for all, since most of their time is imports."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).parent / "two_processes.py")]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), folder],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            said = [rank.communicate(timeout=300)[1] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert not any(rank.returncode for rank in ranks), "\n".join(said)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]


def both(kind: str, how: str) -> list[dict[str, Any]]:
    """What came of one training, on each rank."""
    return [rank[f"{kind}, {how}"] for rank in runs()]


@pytest.mark.parametrize("how", ["hooks", "step"])
@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1", "ddp"])
def test_training_is_the_same_and_so_are_the_numbers(kind: str, how: str) -> None:
    """Sharded or not, one network gives one number; the losses of training are the same bit for bit without a probe."""
    plain, probed, usual = both(kind, "without"), both(kind, how), both("ddp", how)
    for rank in range(2):
        assert probed[rank]["losses"] == plain[rank]["losses"]
        assert probed[rank]["found"].keys() == usual[rank]["found"].keys()
        for name, value in usual[rank]["found"].items():
            if "train" in name:  # in evaluation no collective holds the two together
                assert probed[rank]["found"][name] == pytest.approx(value, rel=0.05), name


def test_a_clock_that_is_ahead_does_not_decide_alone() -> None:
    """One rank believes that it has an hour's worth of room: sharded, it would wait for the other for ever."""
    found = both("fsdp2", "hooks")
    assert found[0]["evaluated"] == found[1]["evaluated"] > 0


def test_the_cadence_by_cost_is_the_same_on_both() -> None:
    found = both("ddp", "auto")
    assert found[0]["due"] == found[1]["due"]
    assert sum(found[0]["due"]) > 1
    assert found[0]["losses"][:12] == both("ddp", "without")[0]["losses"]


@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1"])
def test_a_probe_on_one_rank_of_a_sharded_network_is_refused_in_words(kind: str) -> None:
    found, plain = both(kind, "rank 0"), both(kind, "without")
    assert "no measurement on rank 1" in found[0]["error"]
    assert "attach it without `if rank == 0`" in found[0]["error"]
    assert [one["losses"] for one in found] == [one["losses"] for one in plain], "it can go on without"


def test_a_probe_on_one_rank_of_a_replicated_network_waits_for_nobody() -> None:
    found, plain = both("ddp", "rank 0"), both("ddp", "without")
    assert [one["losses"] for one in found] == [one["losses"] for one in plain]
    assert not found[0]["error"]
    assert found[0]["found"]
    assert not found[1]["found"]


@pytest.mark.parametrize("how", ["capped", "adaptive"])
def test_a_loss_whose_value_does_not_follow_the_outputs_is_told_on_both(how: str) -> None:
    for told, believed in zip(both("ddp", how), both("ddp", "step"), strict=True):
        assert SEES_OUTPUTS in told["failed"]
        assert SEES_OUTPUTS not in believed["failed"]
