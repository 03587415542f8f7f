"""The metric's states are sums: merged over ranks, batches and saved halves they equal one pass."""

from __future__ import annotations

import copy
import math
from pathlib import Path  # noqa: TC003 - pytest resolves annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.estimates import Sums
from equiv_probe.estimation.metric import EquivarianceMetric
from equiv_probe.testing import LinearField

from ... import warm_processes

# Sums in another order: float64 rounding, amplified in the standard errors by the cancellation in their residuals.
SAME = 1e-11
KEYS = {f"{name}{suffix}" for name in ("L_total", "L_mean", "L_equiv", "share") for suffix in ("", "_stderr")}


def structures(count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    equiv, mean, weight = torch.rand(3, count, generator=generator, dtype=torch.float64) + 0.1
    return equiv, equiv + mean, weight


def one_pass() -> dict[str, Tensor]:
    metric = EquivarianceMetric()
    metric.update(*structures())
    return metric.compute()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected) == KEYS
    for name, value in found.items():
        assert abs(float(value / expected[name]) - 1) < SAME, name


def test_it_computes_what_the_sums_say() -> None:
    sums, found = Sums.of(*structures()), one_pass()
    for name, estimate in (
        ("L_equiv", sums.equiv),
        ("L_total", sums.total),
        ("L_mean", sums.mean),
        ("share", sums.share),
    ):
        assert float(found[name]) == estimate.value
        assert float(found[f"{name}_stderr"]) == estimate.stderr


def test_it_agrees_with_the_decomposition_of_an_orbit() -> None:
    """Six structures in one orbit; exact but for the orbit's own error over rotations, which the metric cannot know."""
    model = LinearField(torch.tensor([[2.0, 0.3, 0.0], [0.0, 1.0, 0.1], [0.2, 0.0, 0.5]], dtype=torch.float64))
    positions = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schema = ep.Schema(inputs={"pos": ep.point}, outputs=model.outputs)
    orbit = ep.twirl(lambda inputs: model(inputs["pos"]), {"pos": positions}, schema, ep.RotationPlan("icosahedral", 2))
    mask = torch.ones(6, 4, 1, dtype=torch.bool)
    mask[1, 2:], mask[4] = False, False  # a smaller structure, and one that does not count at all
    found = ep.decompose(orbit, 1.1 * positions, structures="leading", mask=mask)
    metric = EquivarianceMetric()
    for part in zip(*(found.per_structure[key].split(4) for key in ("equiv", "total", "weight")), strict=True):
        metric.update(*part)
    computed = metric.compute()
    for name, value in (("equiv", found.equiv), ("total", found.total), ("mean", found.mean)):
        assert abs(float(computed[f"L_{name}"]) / value - 1) < 1e-12
    assert abs(float(computed["share"]) / found.share - 1) < 1e-12
    assert int(metric.count) == found.structures == 5


def test_batches_reset_and_default_weights() -> None:
    metric = EquivarianceMetric()
    for part in zip(*(values.split(7) for values in structures()), strict=True):
        metric.update(*part)
    assert_same(metric.compute(), one_pass())
    metric.reset()
    equiv, total, _ = structures()
    metric.update(equiv, total)
    assert abs(float(metric.compute()["L_equiv"]) - float(equiv.mean())) < 1e-14


def test_two_saved_halves_merge_to_one_pass(tmp_path: Path) -> None:
    for k in (0, 1):
        metric = EquivarianceMetric()
        metric.update(*(values[20 * k : 20 * (k + 1)] for values in structures()))
        torch.save(metric.state_dict(), tmp_path / f"{k}.pt")
    halves = []
    for k in (0, 1):
        halves.append(EquivarianceMetric())
        halves[-1].load_state_dict(torch.load(tmp_path / f"{k}.pt", weights_only=True))
    halves[0].merge_state(halves[1])
    assert_same(halves[0].compute(), one_pass())


def test_a_resumed_run_carries_on() -> None:
    first = EquivarianceMetric()
    first.update(*(values[:13] for values in structures()))
    resumed = EquivarianceMetric()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.update(*(values[13:] for values in structures()))
    assert_same(resumed.compute(), one_pass())


RANK = """
import sys, torch
from equiv_probe.estimation.metric import EquivarianceMetric

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
metric = EquivarianceMetric()
share = slice(0, 11) if rank == 0 else slice(11, 40)  # ranks need not see as many
metric.update(*(values[share] for values in torch.load(f"{folder}/structures.pt")))
torch.save(metric.compute(), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_gloo_ranks_equal_one_pass(tmp_path: Path) -> None:
    torch.save(structures(), tmp_path / "structures.pt")
    (tmp_path / "rank.py").write_text(RANK)
    # Not forks of this process: its threads have done arithmetic, and a fork might wait for them forever.
    ranks = [warm_processes.start(tmp_path / "rank.py", str(rank), tmp_path, cwd=tmp_path) for rank in (0, 1)]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    for rank in (0, 1):
        assert_same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), one_pass())


def test_half_precision_training_leaves_it_in_float64() -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.metric = nn.Linear(2, 2), EquivarianceMetric()

    model = Trained().half()
    model.metric.update(*(values.half() for values in structures()))
    assert model.layer.weight.dtype == torch.float16
    assert model.metric.second.dtype == torch.float64


def test_empty_and_unlabelled() -> None:
    metric = EquivarianceMetric()
    equiv, total, _ = structures()
    metric.update(equiv[:1], total[:1])
    assert float(metric.compute()["L_equiv"]) == float(equiv[0])
    assert math.isnan(float(metric.compute()["L_equiv_stderr"]))
    metric.update(equiv[1:], torch.full_like(total[1:], math.nan))
    assert math.isfinite(float(metric.compute()["L_equiv"]))
    assert math.isnan(float(metric.compute()["share"]))
