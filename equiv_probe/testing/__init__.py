"""Planted models of known symmetry breaking, and the conformance suite that every adapter, ours or yours, must pass.

>>> import torch, equiv_probe as ep
>>> from equiv_probe.testing import LinearField
>>> model = LinearField(torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64))
>>> positions = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs=model.outputs)
>>> orbit = ep.twirl(lambda inputs: model(inputs["pos"]), {"pos": positions}, schema, ep.RotationPlan("icosahedral"))
>>> abs(ep.decompose(orbit).equiv - model.equiv(positions)["forces"]) < 1e-12
True
"""

from equiv_probe.testing.assertions import assert_augments, assert_averages, assert_equivariant
from equiv_probe.testing.calls import CallCase, check_calls
from equiv_probe.testing.conformance import (
    EXACT_PLAN,
    AdapterCase,
    Field,
    check_adapter,
    check_closed_form,
    check_equivariant,
    check_every_rotation,
    check_repeatable,
    check_untouched,
)
from equiv_probe.testing.planted import (
    CentralForces,
    HandedModel,
    HarmonicEnergy,
    LinearDenoiser,
    LinearField,
    PlantedModel,
    QuadraticEnergy,
)

__all__ = [
    "EXACT_PLAN",
    "AdapterCase",
    "CallCase",
    "CentralForces",
    "Field",
    "HandedModel",
    "HarmonicEnergy",
    "LinearDenoiser",
    "LinearField",
    "PlantedModel",
    "QuadraticEnergy",
    "assert_augments",
    "assert_averages",
    "assert_equivariant",
    "check_adapter",
    "check_calls",
    "check_closed_form",
    "check_equivariant",
    "check_every_rotation",
    "check_repeatable",
    "check_untouched",
]
