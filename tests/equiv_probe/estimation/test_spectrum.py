"""The angular spectrum, the infinitesimal bound and the torque bound against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.spectrum import character, torque_bound
from equiv_probe.testing import (
    CentralForces,
    HarmonicEnergy,
    LinearDenoiser,
    LinearField,
    PlantedModel,
    QuadraticEnergy,
)

AXIS = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)


def twirl(model: PlantedModel, positions: Tensor, plan: ep.RotationPlan, output: str, **kwargs) -> ep.Orbit:
    schema = ep.Schema({"pos": ep.point}, {output: model.outputs[output]})
    return ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, schema, plan, stacked=True, floor=0, **kwargs)


def z_score(values: list[float], truth: float, size: float) -> float:
    sample = torch.tensor(values, dtype=torch.float64)
    return float(sample.mean() - truth) / (float(sample.std()) / math.sqrt(len(values)) + 1e-12 * size)


@pytest.mark.parametrize("degree", range(6))
def test_character_is_the_ratio_of_sines(degree: int) -> None:
    angle = torch.linspace(0.1, math.pi, 50, dtype=torch.float64)
    expected = torch.sin((2 * degree + 1) * angle / 2) / torch.sin(angle / 2)
    assert torch.allclose(character(angle, degree), expected, atol=1e-12)
    assert float(character(torch.zeros(1, dtype=torch.float64), degree)) == 2 * degree + 1


def planted(name: str, matrix: Tensor) -> tuple[PlantedModel, str]:
    return {
        "field": (LinearField(matrix), "forces"),
        "denoiser": (LinearDenoiser(matrix), "denoised"),
        "quadratic energy": (QuadraticEnergy(matrix), "energy"),
        "quadratic forces": (QuadraticEnergy(matrix), "forces"),
        "l = 3": (HarmonicEnergy(3, AXIS), "energy"),
        "l = 5": (HarmonicEnergy(5, AXIS), "energy"),
    }[name]


NAMES = ["field", "denoiser", "quadratic energy", "quadratic forces", "l = 3", "l = 5"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quadrature_gives_the_closed_form_exactly(name: str, matrix: Tensor, positions: Tensor) -> None:
    # Pairs of replicates see products of degrees up to 5 + 6: a quadrature of degree 11 leaves no sampling error.
    model, output = planted(name, matrix)
    found = ep.spectrum(twirl(model, positions, ep.RotationPlan("lebedev-11", 2), output), max_degree=6)
    expected = model.power(positions)[output]
    size = model.equiv(positions)[output]
    for degree in range(1, 7):
        assert abs(found.power[degree] - expected.get(degree, 0.0)) < 1e-11 * size, degree
    twirl_power = float(model.twirl(positions)[output].square().mean())
    assert abs(found.power[0] - twirl_power) < 1e-11 * max(size, twirl_power)
    assert abs(found.equiv - size) < 1e-11 * size
    assert abs(found.rest) < 1e-11 * size
    assert abs(found.infinitesimal - model.infinitesimal(positions)[output]) < 1e-10 * size


@pytest.mark.slow
@pytest.mark.parametrize("design", ["haar", "klein", "tetrahedral"])
@pytest.mark.parametrize("name", NAMES)
def test_unbiased_over_seeds_and_stderr_is_the_scatter(
    name: str, design: str, matrix: Tensor, positions: Tensor
) -> None:
    model, output = planted(name, matrix)
    expected, size = model.power(positions)[output], model.equiv(positions)[output]
    plans = [ep.RotationPlan(design, 12 if design == "haar" else 4, seed=seed) for seed in range(120)]
    found = [ep.spectrum(twirl(model, positions, plan, output), max_degree=6) for plan in plans]
    scores = {
        degree: z_score([s.power[degree] for s in found], expected.get(degree, 0.0), size) for degree in range(1, 7)
    }
    scores["equiv"] = z_score([s.equiv for s in found], size, size)
    # 18 cases of seven scores: 4.5σ is passed by chance once in 1200 runs.
    assert max(abs(z) for z in scores.values()) < 4.5, scores
    for one in found:
        assert abs(sum(one.power[1:]) + one.rest - one.equiv) < 1e-12 * size
    if design == "haar":
        # The jackknife over 12 replicates against the scatter of 120 skewed estimates (about 10 %). It counts the part
        # of the variance that comes from single pairs double: at most √2 too large, and never too small.
        for degree in expected:
            if expected[degree] > 0.2 * size:
                scatter = float(torch.tensor([s.power[degree] for s in found]).std())
                stated = math.sqrt(sum(s.stderr[degree] ** 2 for s in found) / len(found))
                assert 0.75 < stated / scatter < 1.8, (degree, stated, scatter)


def test_negative_control_without_rotating_there_is_no_spectrum(
    matrix: Tensor, positions: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = torch.eye(3, dtype=torch.float64)
    monkeypatch.setattr(
        ep.RotationPlan, "rotations", lambda self, generator=None: identity.expand(self.R, self.n, 3, 3)
    )
    model = LinearField(matrix)
    found = ep.spectrum(twirl(model, positions, ep.RotationPlan("tetrahedral", 4), "forces"))
    assert abs(found.equiv) < 1e-12
    assert abs(found.power[2] - model.power(positions)["forces"][2]) > 0.1


def test_a_large_twirl_leaves_the_small_powers_readable(matrix: Tensor, positions: Tensor) -> None:
    model = QuadraticEnergy(matrix)
    offset = 1e6

    def shifted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": model(inputs["pos"])["energy"] + offset}

    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    plan = ep.RotationPlan("lebedev-11", 2)
    found = ep.spectrum(ep.twirl(shifted, {"pos": positions}, schema, plan, stacked=True), max_degree=4)
    expected = model.power(positions)["energy"][2]
    # Energies of 1e6 are stored to 1e-10, their spread of ten hence to 1e-11; squares of 1e12 would keep it to 1e-5.
    assert abs(found.power[2] / expected - 1) < 1e-9
    assert abs(found.power[4]) < 1e-9 * expected


@pytest.mark.parametrize("name", NAMES)
def test_infinitesimal_is_the_weighted_sum_of_powers(name: str, matrix: Tensor, positions: Tensor) -> None:
    model, output = planted(name, matrix)
    schema = ep.Schema({"pos": ep.point}, {output: model.outputs[output]})
    exact = model.infinitesimal(positions)[output]
    plan = ep.RotationPlan("lebedev-11", 1)
    found = ep.analysis.infinitesimal(lambda x: model(x["pos"]), {"pos": positions}, schema, plan, stacked=True)
    # Central differences of step 1e-4: a relative error of l(l+1)/3·1e-8, and rounding of 1e-16/1e-4 per slope.
    assert abs(found / exact - 1) < 1e-6
    assert found >= 2 * model.equiv(positions)[output] * (1 - 1e-6)
    looped = ep.analysis.infinitesimal(
        lambda x: model(x["pos"]), {"pos": positions}, schema, ep.RotationPlan("klein", 1)
    )
    stacked = ep.analysis.infinitesimal(
        lambda x: model(x["pos"]), {"pos": positions}, schema, ep.RotationPlan("klein", 1), stacked=True, chunk=5
    )
    assert abs(looped / stacked - 1) < 1e-9


def test_infinitesimal_is_unbiased_over_seeds_and_bounds_equiv(make_network) -> None:
    network = make_network(vectors=False)
    exact = ep.analysis.infinitesimal(
        network.predict,
        {"pos": network.positions},
        network.schema,
        ep.RotationPlan("lebedev-35", 1),
        stacked=True,
        chunk=4096,
    )
    found = [
        ep.analysis.infinitesimal(
            network.predict,
            {"pos": network.positions},
            network.schema,
            ep.RotationPlan("haar", 4, seed=seed),
            stacked=True,
        )
        for seed in range(150)
    ]
    assert abs(z_score(found, exact, exact)) < 4
    total, mean = network.truth(network.target(), lambda p, t: (p - t).square())
    assert exact > 2 * (total - mean)


def test_infinitesimal_of_float32_models(matrix: Tensor, positions: Tensor) -> None:
    model, schema = LinearField(matrix), ep.Schema({"pos": ep.point}, LinearField.outputs)
    x = positions.float()
    found = ep.analysis.infinitesimal(
        lambda i: model(i["pos"]), {"pos": x}, schema, ep.RotationPlan("lebedev-5", 1), stacked=True
    )
    # Step 1e-2: differences of 1e-2 rounded at 1e-7, hence 1e-5 each, averaged; and l(l+1)/3·1e-4 from the step.
    assert abs(found / model.infinitesimal(positions)["forces"] - 1) < 1e-3


def test_torque_bounds_the_variance_of_a_conservative_energy(matrix: Tensor, positions: Tensor) -> None:
    model = QuadraticEnergy(matrix)
    plan = ep.RotationPlan("icosahedral", 1)
    rotations = plan.rotations()
    rotated = (positions - positions.mean(0)) @ rotations.mT
    torque = torch.linalg.cross(rotated, model(rotated)["forces"]).sum(-2)
    bound, variance = torque_bound(torque, plan.weights), model.equiv(positions)["energy"]
    # The energy is l = 2 only: ½ E‖τ‖² = ½·6 P_2 = 3 Var E.
    assert abs(bound / (3 * variance) - 1) < 1e-12
    assert abs(2 * bound / model.infinitesimal(positions)["energy"] - 1) < 1e-12
    central = CentralForces()(rotated)["forces"]
    assert torque_bound(torch.linalg.cross(rotated, central).sum(-2), plan.weights) < 1e-28


def test_torque_bound_takes_the_weights_of_the_design(matrix: Tensor, positions: Tensor) -> None:
    model = HarmonicEnergy(3, AXIS)
    plan = ep.RotationPlan("lebedev-7", 2)
    rotated = ((positions - positions.mean(0)) @ plan.rotations().mT).requires_grad_()
    (forces,) = torch.autograd.grad(-model(rotated)["energy"].sum(), rotated)
    torque = torch.linalg.cross(rotated.detach(), forces).sum(-2)
    found = torque_bound(torque, plan.weights)
    assert abs(found / (6 * model.equiv(positions)["energy"]) - 1) < 1e-12
    assert abs(torque_bound(torque, torch.full_like(plan.weights, 1 / plan.n)) / found - 1) > 1e-4, (
        "without the weights it is another number"
    )


def test_printing(matrix: Tensor, positions: Tensor) -> None:
    found = ep.spectrum(twirl(LinearField(matrix), positions, ep.RotationPlan("lebedev-5", 3), "forces"), max_degree=3)
    lines = str(found).splitlines()
    assert f"L_equiv = {found.equiv:.4g}" in lines[0]
    assert [line.split()[2] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[1 + max((1, 2), key=lambda degree: found.power[degree]) - 1].count("█") == 30


@pytest.mark.parametrize(
    ("plan", "kwargs", "message"),
    [
        (ep.RotationPlan("klein", 1), {}, "two or more randomly rotated replicates"),
        (ep.RotationPlan("klein", 2, improper=True), {}, "proper rotations"),
        (ep.RotationPlan("cube"), {}, "randomly rotated"),
        (ep.RotationPlan("klein", 2), {"keep": False}, "keep=True"),
    ],
)
def test_errors_teach(plan: ep.RotationPlan, kwargs: dict, message: str, matrix: Tensor, positions: Tensor) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        ep.spectrum(twirl(LinearField(matrix), positions, plan, "forces", **kwargs))


def test_several_outputs_need_a_name(matrix: Tensor, positions: Tensor) -> None:
    model = QuadraticEnergy(matrix)
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, schema)
    with pytest.raises(ep.EquivProbeError, match="output='energy'"):
        ep.spectrum(orbit)
    with pytest.raises(ep.EquivProbeError, match="output='energy'"):
        ep.analysis.infinitesimal(lambda x: model(x["pos"]), {"pos": positions}, schema)
    assert ep.spectrum(orbit, output="forces").output == "forces"
