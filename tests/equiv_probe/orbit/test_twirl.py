"""Orbit evaluation: the same orbit however it is batched and given, without touching what it is given."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.testing import CentralForces, HandedModel, LinearDenoiser, LinearField, QuadraticEnergy

PLAN = ep.RotationPlan("tetrahedral", replicates=2)
FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
# The same arithmetic on other shapes: BLAS may sum in another order.
SAME = 1e-13


def largest_gap(a: ep.Orbit, b: ep.Orbit) -> float:
    gaps = [(getattr(a, part)[k] - getattr(b, part)[k]).abs().max() for part in ("means", "squares") for k in a.means]
    if a.values is not None and b.values is not None:
        gaps += [(a.values[k] - b.values[k]).abs().max() for k in a.values]
    return float(torch.stack(gaps).max())


def field(matrix: Tensor):
    return lambda inputs: LinearField(matrix)(inputs["pos"])


@pytest.mark.parametrize("chunk", [1, 5, 24, 1000])
def test_stacked_equals_loop_for_every_chunk(matrix: Tensor, positions: Tensor, chunk: int) -> None:
    calls = []

    def counted(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(inputs["pos"].shape)
        return LinearField(matrix)(inputs["pos"])

    loop = ep.twirl(field(matrix), {"pos": positions}, FORCES, PLAN)
    stacked = ep.twirl(counted, {"pos": positions}, FORCES, PLAN, stacked=True, chunk=chunk)
    assert largest_gap(loop, stacked) < SAME
    orbit_calls = calls[1 : 1 + -(-PLAN.size // chunk)]  # after the unrotated one, as few passes as the chunk allows
    assert sum(shape[0] for shape in orbit_calls) == PLAN.size
    assert max(shape[0] for shape in calls) == min(chunk, PLAN.size)
    assert loop.evaluations == stacked.evaluations == PLAN.size + 1 + 3 + 1 + 1


def test_the_orbit_is_the_definition(matrix: Tensor, positions: Tensor) -> None:
    orbit = ep.twirl(field(matrix), {"pos": positions}, FORCES, PLAN)
    x = positions - positions.mean(0)
    expected = torch.einsum("rnji,jk,rnkl,al->rnai", orbit.rotations, matrix, orbit.rotations, x)
    assert float((orbit.kept("forces") - expected).abs().max()) < SAME
    assert torch.equal(orbit.rotations, PLAN.rotations())
    assert float((orbit.identity["forces"] - x @ matrix.mT).abs().max()) < SAME


def test_kept_and_streamed_moments_are_equal(matrix: Tensor, positions: Tensor) -> None:
    for plan in (PLAN, ep.RotationPlan("lebedev-5", 3), ep.RotationPlan("haar", 100)):
        kept = ep.twirl(field(matrix), {"pos": positions}, FORCES, plan, keep=True)
        streamed = ep.twirl(field(matrix), {"pos": positions}, FORCES, plan, keep=False, stacked=True, chunk=7)
        assert streamed.values is None
        assert largest_gap(kept, streamed) < SAME
        weighted = torch.einsum("n,rnai->rai", plan.weights, kept.kept("forces"))
        if plan.R <= 64:
            assert float((kept.means["forces"] - weighted).abs().max()) < SAME
        assert (
            float((torch.einsum("g,gai->ai", kept.sizes, kept.means["forces"]) / plan.R - weighted.mean(0)).abs().max())
            < SAME
        )


def test_tensor_tuple_dict_and_numpy_inputs_give_the_same_orbit(matrix: Tensor, positions: Tensor) -> None:
    numbers = torch.arange(5)
    Sample = namedtuple("Sample", "pos z")
    reference = ep.twirl(field(matrix), {"pos": positions}, FORCES, PLAN)
    model = LinearField(matrix)

    def by_place(sample: tuple[Tensor, Tensor]) -> Tensor:
        assert torch.equal(torch.as_tensor(sample[1]), numbers), "what does not rotate is passed on"
        return model(sample[0])["forces"]

    def by_attribute(sample: Sample) -> tuple[Tensor, Tensor]:
        return model(sample.pos)["forces"], sample.z

    def in_numpy(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert isinstance(inputs["pos"], np.ndarray)
        x = inputs["pos"] - inputs["pos"].mean(0)
        return {"forces": x @ matrix.numpy().T}

    one = ep.Schema(inputs={"0": ep.point}, outputs={"forces": ep.vector})
    two = ep.Schema(inputs={"pos": ep.point, "z": ep.fixed}, outputs={"forces": ep.vector, "z": ep.fixed})
    orbits = [
        ep.twirl(lambda x: model(x)["forces"], positions, one, PLAN),
        ep.twirl(by_place, (positions, numbers), one, PLAN),
        ep.twirl(by_attribute, Sample(positions, numbers), two, PLAN),
        ep.twirl(in_numpy, {"pos": positions.numpy()}, FORCES, PLAN),
    ]
    for orbit in orbits:
        gap = (orbit.kept("forces") - reference.kept("forces")).abs().max()
        assert float(gap) < SAME


def test_python_floats_keep_their_precision_and_inputs_their_type(positions: Tensor) -> None:
    seen = []

    def predict(inputs):
        seen.append(inputs["time"])
        return {"energy": 123456.789012345}

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar})
    orbit = ep.twirl(predict, {"pos": positions, "time": 0.1}, schema, PLAN)
    assert float(orbit.identity["energy"]) == 123456.789012345
    assert seen == [0.1] * len(seen), "inputs that do not rotate are the caller's own"
    assert all(type(time) is float for time in seen)


def test_batch_index_and_mask_give_each_structure_its_own_center(matrix: Tensor) -> None:
    model = LinearDenoiser(matrix)
    parts = [torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) + 5 * n for n in (2, 4)]
    single = [
        ep.twirl(lambda x: model(x["pos"]), {"pos": p}, ep.Schema({"pos": ep.point}, model.outputs), PLAN)
        for p in parts
    ]
    expected = torch.cat([orbit.kept("denoised") for orbit in single], 2)
    index = torch.tensor([0, 0, 1, 1, 1, 1])

    def packed(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"denoised": torch.cat([model(inputs["pos"][inputs["batch"] == k])["denoised"] for k in (0, 1)])}

    schema = ep.Schema({"pos": ep.point}, model.outputs, batch="batch")
    orbit = ep.twirl(packed, {"pos": torch.cat(parts), "batch": index}, schema, PLAN)
    assert float((orbit.kept("denoised") - expected).abs().max()) < 1e-12  # coordinates of 20 Å

    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    padded = torch.full((2, 4, 3), 99.0, dtype=torch.float64)
    padded[0, :2], padded[1] = parts

    def dense(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = inputs["mask"].double()[..., None]
        center = (inputs["pos"] * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True)
        return {"denoised": center + (inputs["pos"] - center) @ matrix.mT}

    schema = ep.Schema({"pos": ep.point}, model.outputs, mask="mask")
    for stacked in (False, True):
        orbit = ep.twirl(dense, {"pos": padded, "mask": mask}, schema, PLAN, stacked=stacked)
        got = orbit.kept("denoised")
        assert float((torch.cat([got[:, :, 0, :2], got[:, :, 1]], 2) - expected).abs().max()) < 1e-12


def test_center_of_rotation(positions: Tensor) -> None:
    def pinned(inputs: dict[str, Tensor]) -> dict[str, Tensor]:  # pulls towards the origin, as flows do
        return {"forces": -inputs["pos"]}

    def equiv(center: str | Tensor) -> float:
        return ep.decompose(ep.twirl(pinned, {"pos": positions}, FORCES, PLAN, center=center)).equiv

    assert equiv("origin") < 1e-25
    assert equiv(torch.zeros(3)) < 1e-25
    # About the centroid c, h_g = −gᵀ(g(x − c) + c) = −(x − c) − gᵀc: the spread is |c|² over three components.
    c = positions.mean(0)
    assert abs(equiv("centroid") - float(c.square().sum()) / 3) < 1e-12


def test_point_outputs_are_rotated_back_about_the_center(matrix: Tensor, positions: Tensor) -> None:
    model = LinearDenoiser(matrix)
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, ep.Schema({"pos": ep.point}, model.outputs), PLAN)
    # The tetrahedral design is exact for the twirl of a degree 2 orbit, in every replicate.
    assert float((orbit.means["denoised"] - model.twirl(positions)["denoised"]).abs().max()) < 1e-12


def test_improper_plan_sees_what_proper_rotations_do_not(positions: Tensor) -> None:
    model = HandedModel()
    schema = ep.Schema({"pos": ep.point}, model.outputs)
    for improper in (False, True):
        plan = ep.RotationPlan("tetrahedral", improper=improper)
        found = ep.decompose(ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, schema, plan)).parts
        for name, expected in model.equiv(positions, improper=improper).items():
            assert abs(found[name].equiv - expected) < 1e-12


def test_fixed_inputs_get_no_rotation_axis(positions: Tensor) -> None:
    shapes = set()

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        shapes.add((tuple(inputs["time"].shape), tuple(inputs["z"].shape)))
        return {"forces": inputs["pos"]}

    schema = ep.Schema(inputs={"pos": ep.point, "time": ep.fixed, "z": ep.fixed}, outputs={"forces": ep.vector})
    inputs = {"pos": positions, "time": torch.rand(5), "z": torch.arange(5)}
    ep.twirl(predict, inputs, schema, PLAN, stacked=True)
    assert shapes == {((5,), (5,))}


def test_callers_inputs_are_untouched(matrix: Tensor) -> None:
    inputs = {"pos": torch.randn(5, 3), "velocities": torch.randn(5, 3), "charge": torch.tensor([1.0])}
    before = {name: value.clone() for name, value in inputs.items()}

    def writes_into_its_input(given: dict[str, Tensor]) -> dict[str, Tensor]:
        given["extra"] = torch.ones(1)
        for name in ("pos", "velocities", "charge"):
            given[name].requires_grad_()
            given[name].data.mul_(2)
        return LinearField(matrix)(given["pos"])

    schema = ep.Schema({"pos": ep.point, "velocities": ep.vector, "charge": ep.scalar}, {"forces": ep.vector})
    for stacked in (False, True):
        orbit = ep.twirl(writes_into_its_input, inputs, schema, PLAN, stacked=stacked)
        assert not orbit.kept("forces").requires_grad
        assert set(inputs) == set(before)
        for name, value in inputs.items():
            assert torch.equal(value, before[name])
            assert not value.requires_grad


def test_global_random_state_is_untouched(matrix: Tensor, positions: Tensor) -> None:
    before = torch.get_rng_state()
    ep.twirl(field(matrix), {"pos": positions}, FORCES, PLAN)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_outputs_of_one_call(matrix: Tensor, positions: Tensor) -> None:
    model = QuadraticEnergy(matrix, matrix + matrix.mT)
    schema = ep.Schema({"pos": ep.point}, model.outputs)
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, schema, PLAN, stacked=True)
    for name, expected in model.twirl(positions).items():
        assert float((orbit.means[name].mean(0) - expected).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("predict", "kwargs", "message"),
    [
        (lambda x: {"energy": x["pos"].sum()}, {}, r"outputs \['energy'\]; expected the schema's \['forces'\]"),
        (lambda x: {"forces": x["pos"][..., :2]}, {}, "trailing axes"),
        (lambda x: {"forces": x["pos"][0]}, {"stacked": True}, "stacked=False"),
        (lambda x: {"forces": x["pos"]}, {"center": "mass"}, '"centroid", "origin", "box" or a tensor'),
        (lambda x: {"forces": x["pos"]}, {"schema": ep.Schema({"xyz": ep.point}, {})}, "the schema's input 'xyz'"),
    ],
)
def test_errors_teach(predict, kwargs: dict, message: str) -> None:
    inputs = {"pos": torch.randn(5, 3)}
    with pytest.raises(ep.EquivProbeError, match=message):
        ep.twirl(predict, inputs, **{"schema": FORCES, "plan": PLAN, **kwargs})


def test_an_empty_structure_is_said() -> None:
    with pytest.raises(ep.EquivProbeError, match="empty"):
        ep.twirl(lambda x: {"forces": x["pos"]}, {"pos": torch.zeros(0, 3)}, FORCES, PLAN)


def test_equivariant_models_have_orbits_without_spread(positions: Tensor) -> None:
    model = CentralForces()
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": positions}, ep.Schema({"pos": ep.point}, model.outputs), PLAN)
    for name, part in ep.decompose(orbit).parts.items():
        assert part.equiv < 1e-28, name  # (1e-14)²: float64 rounding of numbers of order one


@pytest.mark.parametrize("layout", ["single", "dense", "batch"])
def test_one_point_per_structure_rotates_about_its_structure(layout: str) -> None:
    # A centre of mass, shifted by a fixed vector b: the orbit is c + g⁻¹ b, so L_equiv is |b|²/3 in every layout.
    shift = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    shape = {"single": (4, 3), "dense": (2, 4, 3), "batch": (7, 3)}[layout]
    inputs = {"pos": 5 + torch.randn(*shape, generator=generator, dtype=torch.float64)}
    if layout == "batch":
        inputs["batch"] = batch

    def model(given: dict[str, Tensor]) -> dict[str, Tensor]:
        pos = given["pos"]
        if layout != "batch":
            return {"com": pos.mean(-2) + shift}
        sums = pos.new_zeros(2, 3).index_add_(0, batch, pos)
        return {"com": sums / torch.tensor([[3.0], [4.0]]) + shift}

    schema = ep.Schema({"pos": ep.point}, {"com": ep.point}, batch="batch" if layout == "batch" else None)
    orbit = ep.twirl(model, inputs, schema, ep.RotationPlan("tetrahedral"))
    # Tetrahedral rotations average degree 1 exactly: what is left is rounding.
    assert ep.decompose(orbit).equiv == pytest.approx(1 / 3, abs=1e-12)


def test_points_that_fit_no_centre_are_an_error() -> None:
    inputs = {"pos": torch.randn(7, 3, dtype=torch.float64), "batch": torch.tensor([0, 0, 0, 1, 1, 1, 1])}
    schema = ep.Schema({"pos": ep.point}, {"x": ep.point}, batch="batch")
    with pytest.raises(ep.EquivProbeError, match="one point per node"):
        ep.twirl(lambda given: {"x": given["pos"][:5]}, inputs, schema)


def test_an_inferred_schema_sees_the_batch_index() -> None:
    # A model of each structure's own centroid: about that centroid it does not vary, about a common one it would.
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    offsets = torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, -50.0]], dtype=torch.float64)[batch]
    pos = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + offsets

    def model(given: dict[str, Tensor]) -> dict[str, Tensor]:
        sums = torch.zeros(2, 3, dtype=torch.float64).index_add_(0, batch, given["pos"])
        return {"energy": sums.square().sum(-1)}

    orbit = ep.twirl(model, {"pos": pos, "batch": batch})
    assert orbit.schema.batch == "batch"
    assert ep.decompose(orbit, structures=batch).equiv < 1e-12 * float(orbit.identity["energy"].square().mean())


def test_a_slip_of_the_pen_in_a_dict_is_an_error() -> None:
    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector})
    orbit = ep.twirl(lambda given: {"forces": given["pos"]}, {"pos": torch.randn(4, 3)}, schema)
    for wrong in ({"loss": {"force": "mae"}}, {"weights": {"force": 1.0}}, {"coefficients": {"force": 2.0}}):
        with pytest.raises(ep.EquivProbeError, match="force"):
            ep.decompose(orbit, torch.zeros(4, 3), **wrong)
