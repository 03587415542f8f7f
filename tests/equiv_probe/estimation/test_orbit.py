"""What an orbit holds: moments however it was filled, floors, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.orbit import MAX_GROUPS, Moments
from equiv_probe.testing import CentralForces, LinearField

CENTRAL = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
FORCES = ep.Schema({"pos": ep.point}, {"forces": ep.vector})


def random_orbit(plan: ep.RotationPlan, offset: float = 0.0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(plan.R, plan.n, 4, 3, generator=generator, dtype=torch.float64) + offset
    return {"forces": values}, {"forces": values[0, 0] + 0.1}


@pytest.mark.parametrize(
    "plan", [ep.RotationPlan("lebedev-5", 3), ep.RotationPlan("haar", 9), ep.RotationPlan("klein", 70)]
)
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_moments_streamed_in_any_chunks_are_the_explicit_ones(plan: ep.RotationPlan, chunk: int) -> None:
    values, identity = random_orbit(plan)
    moments = Moments(identity, plan.weights, plan.R)
    for part in values["forces"].flatten(0, 1).split(chunk):
        moments.add({"forces": part})
    sizes, _, means, squares = moments.result()
    assert float(sizes.sum()) == plan.R
    assert len(sizes) == min(plan.R, MAX_GROUPS)
    assert float(sizes.max() - sizes.min()) <= 1
    groups = values["forces"].split([int(size) for size in sizes])
    expected = torch.stack([torch.einsum("n,rnai->ai", plan.weights, g) / len(g) for g in groups])
    shifted = [(g - identity["forces"]).square() for g in groups]
    expected_squares = torch.stack([torch.einsum("n,rnai->ai", plan.weights, g) / len(g) for g in shifted])
    assert float((means["forces"] - expected).abs().max()) < 1e-13
    assert float((squares["forces"] - expected_squares).abs().max()) < 1e-13


def test_an_orbit_from_values_is_the_streamed_one(matrix: Tensor, positions: Tensor) -> None:
    plan = ep.RotationPlan("octahedral", 3)
    model = LinearField(matrix)
    kept = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, FORCES, plan)
    made = ep.Orbit.from_values(dict(kept.values or {}), kept.identity, FORCES, plan, kept.rotations)
    assert torch.allclose(made.means["forces"], kept.means["forces"], atol=1e-13)
    assert torch.allclose(made.squares["forces"], kept.squares["forces"], atol=1e-13)
    assert abs(ep.decompose(made).equiv - ep.decompose(kept).equiv) < 1e-13


def test_large_energies_do_not_cancel() -> None:
    # A spread of 1e-3 on an energy of 1e7: a sum of squares would keep 2 digits of 16 − 2·10; about the unrotated
    # prediction nothing is lost.
    plan = ep.RotationPlan("tetrahedral", 4)
    spread = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    small, large = (
        ep.Orbit.from_values(
            {"energy": offset + 1e-3 * spread},
            {"energy": torch.tensor(offset, dtype=torch.float64)},
            schema,
            plan,
            plan.rotations(),
        )
        for offset in (0.0, 1e7)
    )
    small.values = large.values = None
    # 1e7 is stored to 2e-9, a spread of 1e-3 hence to 2e-6 and its square to a few 1e-6.
    assert abs(ep.decompose(large).equiv / ep.decompose(small).equiv - 1) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.0, 30.0])
def test_round_off_floor_of_an_equivariant_float32_model(distance: float) -> None:
    found: dict[str, list[tuple[float, float]]] = {"energy": [], "forces": []}
    for seed in range(20):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) + distance
        model = CentralForces()
        plan = ep.RotationPlan("tetrahedral", 4, seed=seed)
        orbit = ep.twirl(lambda i, m=model: m(i["pos"]), {"pos": x}, CENTRAL, plan, floor=8)
        for name, part in ep.decompose(orbit).parts.items():
            assert part.equiv >= 0
            assert part.nondeterminism == 0.0
            found[name].append((part.equiv, part.floor))
    # Both read rounding of coordinates and sums. The orbit's coordinates are rounded once and the round trip's twice,
    # and a variance from nine numbers, some of which round alike, scatters by half: seen, ratios of medians from 0.7 to
    # 1.2, and up to 12 for a single structure. A wrong rotate is off by 10¹⁰.
    for name, pairs in found.items():
        equiv, floor = torch.tensor(pairs).unbind(1)
        # An energy of a few float32 digits may round to the very same number at every rotation.
        assert bool((floor > 0).all()) or name == "energy"
        assert float(floor.median()) > 0, "rounding is there"
        assert 1 / 4 < float(equiv.median() / floor.median()) < 4, name
        assert bool((equiv <= 100 * floor.median()).all()), name


def test_floor_follows_the_stated_precision(positions: Tensor) -> None:
    def half(inputs: dict[str, Tensor]) -> dict[str, Tensor]:  # a model that computes in float32 whatever it is given
        return {k: v.double() for k, v in CentralForces()(inputs["pos"].float()).items()}

    floors = {}
    for precision in (None, torch.float32):
        orbit = ep.twirl(
            half, {"pos": positions}, CENTRAL, ep.RotationPlan("tetrahedral", 4), precision=precision, floor=8
        )
        floors[precision] = ep.decompose(orbit).parts["forces"].floor
        equiv = ep.decompose(orbit).parts["forces"].equiv
    assert floors[torch.float32] > 0
    assert 1 / 20 < equiv / floors[torch.float32] < 20
    # Round trips in float64 disappear in the cast to float32 almost always.
    assert floors[None] < floors[torch.float32]


def test_nondeterminism_floor_sees_a_noisy_model(positions: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        noise = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        return {"forces": inputs["pos"] - inputs["pos"].mean(0) + 0.1 * noise}

    found = [
        ep.decompose(ep.twirl(noisy, {"pos": positions}, FORCES, ep.RotationPlan("tetrahedral", seed=k)))
        for k in range(50)
    ]
    # Variance 0.01 of 15 components from two values each, 50 times: relative scatter √(2/750) = 5 %, hence 4σ = 20 %.
    mean = sum(d.nondeterminism for d in found) / 50
    assert abs(mean / 0.01 - 1) < 0.2
    assert abs(sum(d.equiv for d in found) / 50 / 0.01 - 1) < 0.2, "L_equiv reads the same noise"


def test_no_floor_unless_measured(positions: Tensor) -> None:
    model = CentralForces()
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, CENTRAL, floor=0)
    part = ep.decompose(orbit).parts["energy"]
    assert part.floor != part.floor
    assert part.nondeterminism != part.nondeterminism


def test_refusals() -> None:
    plan = ep.RotationPlan("klein", 4)
    values, identity = random_orbit(plan)
    orbit = ep.Orbit.from_values(values, identity, FORCES, plan, plan.rotations(), units={"forces": "eV/Å"})
    assert orbit.unit("forces") == "eV/Å"
    assert orbit.unit("energy") == ""
    orbit.values = None
    with pytest.raises(ep.EquivProbeError, match="keep=True"):
        orbit.kept("forces")
    values["forces"][1, 2, 3, 0] = torch.nan
    broken = ep.Orbit.from_values(values, identity, FORCES, plan, plan.rotations())
    with pytest.raises(ep.EquivProbeError, match="non-finite predictions of 'forces' over the orbit"):
        broken.require_finite("forces")
    identity["forces"][0, 0] = torch.inf
    with pytest.raises(ep.EquivProbeError, match="at the unrotated input"):
        ep.Orbit.from_values(values, identity, FORCES, plan, plan.rotations()).require_finite("forces")
