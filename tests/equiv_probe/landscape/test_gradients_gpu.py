"""Gradients and the penalty on a CUDA device: what they are on the CPU, in half precision too, and without waiting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

from ..live_models import BOTH, Energy
from ..probe.test_probe_gpu import no_waiting, positions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def made() -> tuple[Energy, Tensor]:
    torch.manual_seed(0)
    return Energy().cuda().train(), positions()


def test_the_orbit_loss_is_that_of_the_cpu() -> None:
    model, x = made()
    targets = {"energy": x.sum((1, 2)), "forces": x}
    plan = ep.RotationPlan("haar", replicates=6)
    on_gpu = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, targets, BOTH, plan))["all"]
    there = {name: value.cpu() for name, value in targets.items()}
    on_cpu = ep.analysis.gradients(ep.analysis.OrbitLoss(model.cpu(), x.cpu(), there, BOTH, plan))["all"]
    for key in ("squared_mean", "squared_equiv", "inner"):
        assert getattr(on_gpu, key).value == pytest.approx(getattr(on_cpu, key).value, rel=1e-8)


def test_gradients_in_a_live_run_do_not_wait() -> None:
    model, x = made()
    with ep.Probe(model, BOTH, every=None, gradients=1) as probe:

        def run() -> None:
            probe.step(lambda: model(x)["forces"].square().mean())

        run()
        run()
        with no_waiting():
            run()
    assert not probe.failures
    assert probe.gradients is not None
    assert float(probe.gradients.everything["loss"]["all"].sums.count) == 9


def test_half_precision_gives_the_gradients_of_the_unscaled_loss() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3, bias=False).cuda()
    x = 1e-3 * positions(torch.float32)  # gradients of about 1e-7: below what float16 holds
    schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    found = []
    for half in (False, True):
        probe = ep.Probe(model, schema, every=None, gradients=1)

        def step(half: bool = half) -> Tensor:
            with torch.autocast("cuda", torch.float16, enabled=half):
                return (model(x).float() - 2 * x).square().mean()

        with torch.autocast("cuda", torch.float16, enabled=half):
            probe.step(step)
        assert not probe.failures
        found.append(probe.compute()["equiv/train/loss/grad_norm_L_equiv"])
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_the_penalty_does_not_wait() -> None:
    model, x = made()
    penalty = ep.EquivariancePenalty(model, BOTH)
    for _ in range(2):
        penalty(x).backward()
    with no_waiting():
        value = penalty(x)
        value.backward()
    assert float(value) > 0
