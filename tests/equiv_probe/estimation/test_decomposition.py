"""``decompose`` is right: unbiased with every design, and not when the averaging is taken away."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.testing import HarmonicEnergy, LinearField, QuadraticEnergy

DESIGNS = ["haar", "klein", "tetrahedral", "octahedral", "icosahedral", "lebedev-3", "lebedev-5"]
FORCES = ep.Schema({"pos": ep.point}, {"forces": ep.vector})
ENERGY = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


def z_score(values: list[float], truth: float) -> float:
    """Of the mean against the truth. Rounding of 1e-12, relatively, is allowed for designs that leave no noise."""
    sample = torch.tensor(values, dtype=torch.float64)
    noise = float(sample.std()) / math.sqrt(len(values)) + 1e-12 * abs(truth)
    return float(sample.mean() - truth) / noise


def bias_scores(network, repeat, design: str, replicates: int, count: int = 150) -> list[float]:
    """z-scores of ``L_total``, ``L_mean`` and ``L_equiv`` over repetitions, and of ``L_equiv`` without labels."""
    target = network.target()
    total, mean = network.truth(target, squares)
    found = repeat(network, ep.RotationPlan(design, replicates), count, seed=3).decompositions(target)
    bare = repeat(network, ep.RotationPlan(design, replicates), count, seed=4).decompositions(None)
    assert all(math.isnan(d.total) and math.isnan(d.share) for d in bare)
    return [
        z_score([d.total for d in found], total),
        z_score([d.mean for d in found], mean),
        z_score([d.equiv for d in found], total - mean),
        z_score([d.equiv for d in bare], total - mean),
    ]


# 28 cases of four scores: 4.5σ is passed by chance once in 1300 runs of all of them.
BOUND = 4.5


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [2, 4])
@pytest.mark.parametrize("design", DESIGNS)
def test_squared_error_is_unbiased_with_every_design(design: str, replicates: int, network, repeat) -> None:
    scores = bias_scores(network, repeat, design, replicates)
    assert max(abs(z) for z in scores) < BOUND, scores


@pytest.mark.slow
@pytest.mark.parametrize("taken_away", ["every rotation is the identity", "the design is not rotated"])
def test_negative_control_without_averaging_the_same_assertion_fails(
    taken_away: str, network, repeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotations(self: ep.RotationPlan, generator: object = None) -> Tensor:
        elements = self._design()[0]
        if taken_away == "every rotation is the identity":
            elements = torch.eye(3, dtype=torch.float64).expand(elements.shape)
        return elements.expand(self.R, *elements.shape)

    monkeypatch.setattr(ep.RotationPlan, "rotations", rotations)
    scores = bias_scores(network, repeat, "tetrahedral", 4, count=20)
    assert min(abs(z) for z in scores[2:]) > 1000, scores  # L_equiv is a constant 0


def test_negative_control_the_plug_in_is_detectably_biased(network, repeat) -> None:
    target = network.target(noise=0.0)  # a label on the twirl: L_mean is 0, and the plug-in is Var/R
    _, mean = network.truth(target, squares)
    orbits = repeat(network, ep.RotationPlan("haar", 4), 300, seed=5).orbits()
    plug_in = [float(squares(orbit.means["y"].mean(0), target).mean()) for orbit in orbits]
    assert z_score(plug_in, mean) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "degree"), [("klein", 2), ("tetrahedral", 3), ("octahedral", 4), ("icosahedral", 6), ("haar", 2)]
)
def test_planted_energy_one_degree_above_the_design(design: str, degree: int, positions: Tensor) -> None:
    model = HarmonicEnergy(degree, torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64))
    truth = model.equiv(positions)["energy"]
    found = []
    for seed in range(100):
        plan = ep.RotationPlan(design, 4, seed=seed)
        orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, ENERGY, plan, stacked=True, floor=0)
        found.append(ep.decompose(orbit).equiv)
    assert max(found) > 1.01 * min(found), "the design does not average this degree exactly"
    assert abs(z_score(found, truth)) < BOUND


@pytest.mark.parametrize("design", ["tetrahedral", "octahedral", "icosahedral", "lebedev-3"])
def test_planted_field_within_the_degree_of_the_design_is_exact(design: str, matrix: Tensor, positions: Tensor) -> None:
    model = LinearField(matrix)
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, FORCES, ep.RotationPlan(design, 2), stacked=True)
    targets = 0.5 * (positions - positions.mean(0))
    found = ep.decompose(orbit, targets)
    assert abs(found.equiv - model.equiv(positions)["forces"]) < 1e-12
    assert abs(found.mean - float(squares(model.twirl(positions)["forces"], targets).mean())) < 1e-12


def test_streamed_orbit_gives_the_same_numbers(network, repeat) -> None:
    target = network.target()
    for design, replicates in (("tetrahedral", 4), ("haar", 100)):
        orbit = next(repeat(network, ep.RotationPlan(design, replicates), 1).orbits())
        kept = ep.decompose(orbit, target)
        orbit.values = None
        streamed = ep.decompose(orbit, target)
        for key in ("total", "mean", "equiv", "share", "equiv_stderr", "share_stderr", "total_stderr"):
            assert abs(getattr(kept, key) - getattr(streamed, key)) < 1e-12, key
        with pytest.raises(ep.EquivProbeError, match="keep=True"):
            ep.decompose(orbit, target, "huber")


@pytest.mark.slow
def test_merged_groups_stay_unbiased(network, repeat) -> None:
    # 100 Haar replicates are held in 64 groups of one or two.
    target = network.target()
    total, mean = network.truth(target, squares)
    found = repeat(network, ep.RotationPlan("haar", 100), 150, seed=6).decompositions(target)
    assert abs(z_score([d.equiv for d in found], total - mean)) < BOUND
    # The standard error is the scatter of the estimates: a variance of 150 numbers is good to 6 % in its root.
    spread = float(torch.tensor([d.equiv for d in found]).std())
    stated = sum(d.equiv_stderr**2 for d in found) / len(found)
    assert abs(math.sqrt(stated) / spread - 1) < 0.25


def test_cube_is_the_exact_average_over_the_subgroup(matrix: Tensor, positions: Tensor) -> None:
    model = QuadraticEnergy(matrix)
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, schema, ep.RotationPlan("cube"))
    targets = {"energy": torch.tensor(1.0), "forces": torch.zeros(5, 3)}
    found = ep.decompose(orbit, targets)
    for name, part in found.parts.items():
        h = orbit.kept(name)[0]
        assert abs(part.equiv - float(h.var(0, correction=0).mean())) < 1e-12, (
            "all of the group, no sampling correction"
        )
        assert abs(part.total - float(squares(h, targets[name]).mean())) < 1e-12
        assert abs(part.mean - float(squares(h.mean(0), targets[name]).mean())) < 1e-12
        assert math.isnan(part.equiv_stderr), "no sampling, no sampling error"
    # Group averaging twice changes nothing: the twirl is invariant under the subgroup, exactly.
    assert float((orbit.means["energy"][0] - model.twirl(positions)["energy"]).abs()) < 1e-12


def test_single_structure_has_no_interval_below_four_replicates(network, repeat) -> None:
    target = network.target()
    for replicates in (2, 3, 4):
        (found,) = repeat(network, ep.RotationPlan("tetrahedral", replicates), 1).decompositions(target)
        assert math.isfinite(found.equiv_stderr)
        assert math.isfinite(found.equiv_interval[0]) == (replicates >= 4)
        assert math.isfinite(found.share_interval[1]) == (replicates >= 4)


def test_estimates_are_never_clamped(make_network, repeat) -> None:
    network = make_network(vectors=False)
    found = repeat(network, ep.RotationPlan("haar", 3), 300).decompositions(network.target(), loss="huber")
    # Three random rotations of a rough scalar: the corrected loss of the mean falls below zero now and then.
    assert any(d.mean < 0 for d in found), "negative estimates are reported as they are"


def test_printing_and_plain_dict(matrix: Tensor, positions: Tensor) -> None:
    model = LinearField(matrix)
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, FORCES)
    orbit.units = {"forces": "eV/Å"}
    found = ep.decompose(orbit, positions)
    assert f"L_equiv {found.equiv:.4g}" in str(found)
    assert "(eV/Å)²" in str(found)
    assert f"share {100 * found.share:.3g}" in str(found)
    plain = found.to_dict()
    assert plain["equiv"] == found.equiv
    assert plain["parts"]["forces"]["total"] == found.total
    assert "per_structure" not in plain


@pytest.mark.parametrize(
    ("plan", "kwargs", "message"),
    [
        (ep.RotationPlan("klein", 1), {}, "at least two"),
        (
            ep.RotationPlan("klein", 2),
            {"loss": "huber"},
            "only squared error has an L_equiv that does not depend on the labels",
        ),
        (ep.RotationPlan("klein", 2), {"targets": {"energy": torch.ones(1)}}, "outputs among"),
        (ep.RotationPlan("klein", 2), {"targets": torch.ones(4, 3)}, r"target of shape \(4, 3\)"),
        (ep.RotationPlan("klein", 2), {"targets": torch.ones(5, 5, 3)}, r"target of shape \(5, 5, 3\)"),
        (ep.RotationPlan("klein", 2), {"targets": torch.full((5, 3), torch.nan)}, "non-finite"),
    ],
)
def test_errors_teach(plan: ep.RotationPlan, kwargs: dict, message: str, positions: Tensor) -> None:
    orbit = ep.twirl(lambda x: {"forces": x["pos"]}, {"pos": positions}, FORCES, plan)
    with pytest.raises(ep.EquivProbeError, match=message):
        ep.decompose(orbit, **kwargs)


def test_non_finite_predictions_are_an_error(positions: Tensor) -> None:
    def breaks(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"forces": inputs["pos"].sqrt()}

    with pytest.raises(ep.EquivProbeError, match="non-finite predictions of 'forces'"):
        ep.decompose(ep.twirl(breaks, {"pos": positions}, FORCES))
