"""What an orbit loss is given: without labels nothing is said of L_mean, and what does not fit is an error."""

from __future__ import annotations

import math

import pytest
import torch

import equiv_probe as ep

from .planted_losses import SCHEMA, Forces, draw

PLAN = ep.RotationPlan("tetrahedral", replicates=6)


def test_without_labels_the_gradient_of_the_symmetry_error_alone_is_known() -> None:
    """Else ``L_mean = −L_equiv`` up to a constant: a cosine of −1, without an error bar."""
    model, x = Forces(), draw(6, 5, 3, seed=1)
    unlabelled = ep.analysis.OrbitLoss(model, x, None, SCHEMA, PLAN)
    found = ep.analysis.gradients(unlabelled)
    labelled = ep.analysis.gradients(ep.analysis.OrbitLoss(model, x, x, SCHEMA, PLAN))
    assert found.norm_equiv.value == pytest.approx(labelled.norm_equiv.value, rel=1e-9)
    assert found.norm_equiv.value > 0.1
    assert math.isfinite(found.norm_equiv.stderr)
    for one in (found.norm_mean, found.norm_total, found.cosine, found.ratio, found["matrix"].cosine):
        assert math.isnan(one.value)
        assert math.isnan(one.stderr)
        assert math.isnan(one.low)
    logged = found["all"].tensors()
    assert logged["grad_norm_L_equiv"].item() == pytest.approx(labelled.norm_equiv.value, rel=1e-9)
    assert logged["grad_norm_L_equiv_stderr"].isfinite()
    assert logged["grad_cosine"].isnan()
    losses = unlabelled()
    for value, known in ((losses.total, False), (losses.mean, False), (losses.equiv, True)):
        (gradient,) = torch.autograd.grad(value, model.matrix, retain_graph=True)
        assert bool(gradient.isfinite().all()) == known


def test_lists_must_fit_the_list_of_batches() -> None:
    model, x, y = Forces(), draw(2, 5, 3, seed=1), draw(2, 5, 3, seed=2)
    for inputs, targets in ((x, list(y)), ([x], [y, y]), ([x, x], [y])):
        with pytest.raises(ep.EquivProbeError, match="targets as a list of"):
            ep.analysis.OrbitLoss(model, inputs, targets, SCHEMA)
    with pytest.raises(ep.EquivProbeError, match="weights as a list of 2 beside one batch"):
        ep.analysis.OrbitLoss(model, x, y, SCHEMA, weights=[1.0, 2.0])
    with pytest.raises(ep.EquivProbeError, match="at least one batch"):
        ep.analysis.OrbitLoss(model, [], [], SCHEMA)


def test_unknown_coefficients_are_an_error() -> None:
    model, x = Forces(), draw(2, 5, 3, seed=1)
    with pytest.raises(ep.EquivProbeError, match=r"coefficients for \['force'\]"):
        ep.analysis.OrbitLoss(model, x, x, SCHEMA, coefficients={"force": 3.0})
