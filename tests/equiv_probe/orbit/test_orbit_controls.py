"""What an orbit has passed before its numbers are believed: models with one fault each, and sound ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
PLAN = ep.RotationPlan("tetrahedral", 2)
SEES, STAYS = "sees the rotation", "does not depend on where the structure is"


def positions(seed: int = 0, far: float = 0.0) -> Tensor:
    return far + torch.randn(3, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact(pos: Tensor) -> dict[str, Tensor]:
    """Equivariant, and the same wherever the structure is."""
    arms = pos[:, :, None] - pos[:, None]
    weights = torch.exp(-arms.square().sum(-1))
    return {"energy": weights.sum((1, 2)), "forces": (weights[..., None] * arms).sum(2)}


def states(orbit: Any) -> dict[str, str]:
    """The worst state of each control."""
    found = {one.name: one.state for one in orbit.controls if not one.failed}
    return found | {one.name: one.state for one in orbit.controls if one.failed}


class Cached:
    """Remembers its first output."""

    def __init__(self) -> None:
        self.known: dict[str, Tensor] | None = None

    def __call__(self, pos: Tensor) -> dict[str, Tensor]:
        self.known = self.known or exact(pos)
        return self.known


def elsewhere() -> Callable[[Tensor], dict[str, Tensor]]:
    """Distances that were computed before the model was called."""
    known = exact(positions())
    return lambda pos: {name: value + 0 * pos.sum().detach().round() for name, value in known.items()}


@pytest.mark.parametrize("make", [Cached, elsewhere])
@pytest.mark.parametrize("keep", [True, False])
def test_outputs_that_never_saw_the_rotation_are_not_at_round_off(make: Any, keep: bool) -> None:
    orbit = ep.twirl(make(), positions(), SCHEMA, PLAN, keep=keep)
    assert states(orbit)[SEES] == "FAILED"
    found = ep.decompose(orbit, structures="leading")
    energy = found.parts["energy"]
    assert abs(energy.equiv) < 1e-20, "the negative control: by its number alone it is perfect"
    for one in (found, energy):
        assert str(one).startswith("not to be believed: energy, forces: these outputs do not depend on the rotated")
        stored = json.loads(json.dumps(one.to_dict()))["controls"]
        assert [(c["name"], c["passed"]) for c in stored if c["passed"] is False] == [(SEES, False)]


def test_numbers_of_few_digits_and_one_stuck_output_are_distinguished() -> None:
    rounded = ep.twirl(lambda pos: {n: v.round(decimals=3) for n, v in exact(pos).items()}, positions(), SCHEMA, PLAN)
    assert states(rounded)[SEES] == "passed"
    known = exact(positions())["energy"]
    (failed,) = [
        one
        for one in ep.twirl(lambda pos: {**exact(pos), "energy": known}, positions(), SCHEMA, PLAN).controls
        if one.failed
    ]
    assert failed.sentence.startswith("energy: these outputs do not depend")


def test_numpy_stacked_calls_and_a_batch_index_are_looked_at_too() -> None:
    schema = ep.Schema({"pos": ep.point}, {"0": ep.scalar})
    numbers = np.array([1.0, 2.0, 3.0])
    assert states(ep.twirl(lambda pos: numbers, positions().numpy(), schema, PLAN))[SEES] == "FAILED"
    stacked = ep.twirl(lambda pos: torch.ones(len(pos), 3), positions(), schema, PLAN, stacked=True)
    assert states(stacked)[SEES] == "FAILED"
    flat = {"pos": positions().flatten(0, 1), "batch": torch.arange(3).repeat_interleave(7)}
    graph = ep.Schema({"pos": ep.point}, {"0": ep.scalar}, batch="batch")
    assert states(ep.twirl(lambda x: torch.ones(3), flat, graph, PLAN))[SEES] == "FAILED"


@pytest.mark.parametrize("schema", [SCHEMA, ep.Schema({"pos": ep.point}, {"energy": ep.scalar})])
def test_atoms_that_are_alone_show_nothing_and_are_no_zero(schema: ep.Schema) -> None:
    """About themselves nothing rotates; about the origin they move, and no deformation tells more."""
    alone = ep.twirl(exact, positions()[:, :1], schema, PLAN)
    assert states(alone)[SEES] == "FAILED"
    assert str(ep.decompose(alone)).startswith("not to be believed: energy")
    assert states(ep.twirl(exact, positions()[:, :1], schema, PLAN, center="origin"))[SEES] == "not run"
    beside_others = torch.cat([positions()[0, :1], positions()[1]])
    batch = {"pos": beside_others, "batch": torch.tensor([0] + 7 * [1])}
    graph = ep.Schema({"pos": ep.point}, {"energy": ep.scalar}, batch="batch")

    def each(x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"energy": torch.cat([exact(x["pos"][None, part])["energy"] for part in (slice(1), slice(1, 8))])}

    both = ep.twirl(each, batch, graph, PLAN)
    assert states(both)[SEES] == "passed"


def test_a_force_on_an_atom_alone_is_broken_whatever_rotates() -> None:
    """A constant force along z: off by √(2/3) of it per component, and no control takes that away."""
    orbit = ep.twirl(
        lambda pos: {"forces": torch.tensor([0, 0, 2.0]).double().expand(3, 1, 3)},
        positions()[:, :1],
        ep.Schema({"pos": ep.point}, {"forces": ep.vector}),
        PLAN,
    )
    assert ep.decompose(orbit).equiv == pytest.approx(4 / 3)
    assert not any(one.failed for one in orbit.controls)


def padded() -> dict[str, Tensor]:
    count = torch.tensor([3, 5, 7])
    mask = torch.arange(7)[None] < count[:, None]
    return {"pos": positions(far=2.0) * mask[..., None], "mask": mask}


def over_padding(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A quartic about the mean over slots, of which some are empty."""
    pos, mask = inputs["pos"], inputs["mask"][..., None]
    return {"energy": (((pos - (pos * mask).mean(1, keepdim=True)) * mask).square().sum(-1) ** 2).sum(1)}


def over_atoms(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    pos, mask = inputs["pos"], inputs["mask"][..., None]
    centre = (pos * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return {"energy": (((pos - centre) * mask).square().sum(-1) ** 2).sum(1)}


@pytest.mark.parametrize(("model", "state"), [(over_padding, "FAILED"), (over_atoms, "passed")])
def test_a_centre_over_padding_is_broken_translation(model: Any, state: str) -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar}, mask="mask")
    about_centroid = ep.twirl(model, padded(), schema, PLAN)
    assert states(about_centroid)[STAYS] == state
    assert ("depends on where a structure is" in str(ep.decompose(about_centroid, structures="leading"))) == (
        state == "FAILED"
    )
    about_origin = ep.twirl(model, padded(), schema, PLAN, center="origin")
    assert states(about_origin)[STAYS] == "not run"


def test_places_move_along_and_arrows_do_not() -> None:
    def egnn(pos: Tensor) -> dict[str, Tensor]:
        return {"pos": pos + exact(pos)["forces"]}

    points = ep.Schema({"pos": ep.point}, {"pos": ep.point})
    assert states(ep.twirl(egnn, positions(), points, PLAN))[STAYS] == "passed"
    arrows = ep.Schema({"pos": ep.point}, {"pos": ep.vector})
    assert states(ep.twirl(egnn, positions(), arrows, PLAN))[STAYS] == "FAILED"
    directions = ep.Schema({"v": ep.vector}, {"energy": ep.scalar})
    orbit = ep.twirl(lambda x: {"energy": x["v"].square().sum((1, 2))}, {"v": positions()}, directions, PLAN)
    assert STAYS not in states(orbit), "arrows are nowhere"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [False, True])
def test_sound_models_raise_no_alarm_in_any_precision(dtype: torch.dtype, hidden: bool) -> None:
    """Near and far; also where neither inputs nor outputs show the precision in which the model rounds."""

    def model(pos: Tensor) -> dict[str, Tensor]:
        return {n: 1.7 * v.double() if hidden else v for n, v in exact(pos.to(dtype)).items()}

    for seed in range(10):
        for far in (0.0, 30.0) if dtype is not torch.bfloat16 else (0.0,):
            pos = positions(seed, far)
            orbit = ep.twirl(model, pos if hidden else pos.to(dtype), SCHEMA, ep.RotationPlan("klein", 2, seed=seed))
            assert not any(one.failed for one in orbit.controls)
            assert states(orbit)[SEES] == "passed"


def test_one_evaluation_is_what_it_costs() -> None:
    calls = []
    orbit = ep.twirl(lambda pos: calls.append(1) or exact(pos), positions(), SCHEMA, PLAN, floor=0)
    assert len(calls) == orbit.evaluations == PLAN.size + 1 + 1


class CachedByDistances:
    """Keeps what it gave for the distances between all atoms; ``off`` is what breaks the symmetry beneath."""

    def __init__(self, off: float, digits: int) -> None:
        self.known: dict[tuple[float, ...], Tensor] = {}
        self.off, self.digits = off, digits

    def __call__(self, pos: Tensor) -> dict[str, Tensor]:
        key = tuple(torch.cdist(pos, pos).double().flatten().mul(10**self.digits).round().tolist())
        if key not in self.known:
            self.known[key] = exact(pos)["energy"] + self.off * (pos - pos.mean(1, keepdim=True))[..., 2].sin().sum(1)
        return {"energy": self.known[key]}


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 4), (torch.float64, 6), (torch.float32, 3)])
@pytest.mark.parametrize(("off", "state"), [(0.0, None), (0.3, "FAILED")])
def test_a_cache_by_what_does_not_rotate_makes_no_zero(off: float, state: str | None, digits: int, dtype: Any) -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    orbit = ep.twirl(CachedByDistances(off, digits), positions().to(dtype), schema, PLAN)
    assert ep.decompose(orbit).equiv == pytest.approx(0, abs=1e-10)
    assert states(orbit).get("does not remember") == state


@pytest.mark.parametrize("digits", [4, 6, 8])
def test_a_cache_hides_no_part_in_ten_thousand(digits: int) -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    for seed in range(4):
        orbit = ep.twirl(CachedByDistances(2e-3, digits), positions(seed), schema, PLAN)
        assert states(orbit)["does not remember"] == "FAILED"


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounded_distances_are_no_cache_where_forces_vanish_either(step: float, dtype: Any) -> None:
    """The same to the last bit at all rotations, and neighbours that differ by the square of the step."""
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    corners = corners / 8**0.5  # at the distance of the least energy

    def well(pos: Tensor) -> dict[str, Tensor]:
        apart = (torch.cdist(pos, pos).double() / step).round().to(pos.dtype) * step
        return {"energy": ((apart - 1).square() * (apart > 0.1)).sum((0, 1))}

    for seed in range(4):
        for pos in (corners.to(dtype), positions(seed)[0].to(dtype)):
            assert "does not remember" not in states(ep.twirl(well, pos, schema, PLAN, floor=0))


@pytest.mark.parametrize("digits", [0, 1, 2, 3])
def test_numbers_of_few_digits_are_no_cache(digits: int) -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    for seed in range(5):
        orbit = ep.twirl(lambda pos: {"energy": exact(pos)["energy"].round(decimals=digits)}, positions(seed), schema)
        assert "does not remember" not in states(orbit)
