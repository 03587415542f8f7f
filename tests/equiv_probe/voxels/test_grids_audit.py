"""The audit's two numbers, and the transform on the data's side."""

from __future__ import annotations

import json
import math
import pickle
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import equiv_probe as ep

GRIDS = ep.Schema({"x": ep.grid()}, {"y": ep.grid()})


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Blur(nn.Module):
    """A Gaussian blur along some axes: along all it is round, along one it is not; along the faces, cubic."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel / kernel.sum())
        self.largest = 0

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        assert not self.training
        self.largest = max(self.largest, len(inputs["x"]))
        return {"y": nn.functional.conv3d(inputs["x"], self.kernel[None, None], padding=self.kernel.shape[0] // 2)}


def gaussian(*widths: float) -> Tensor:
    place = torch.arange(-3, 4).double()
    a, b, c = (torch.exp(-(place / width).square() / 2) for width in widths)
    return a[:, None, None] * b[:, None] * c


def smooth(n: int = 14, count: int = 3) -> Tensor:
    """Densities of three wide Gaussians each, off the middle."""
    places = ep.grid().coordinates((n, n, n))
    ends = 1.5 * values(count, 3, 3)
    apart = (places[None, None] - ends[:, :, None, None, None]).square().sum(-1)
    return torch.exp(-apart / (2 * 1.8**2)).sum(1, keepdim=True)


@pytest.mark.parametrize("caches", [True, False])
def test_a_model_that_never_sees_the_grid_is_not_called_fine(caches: bool) -> None:
    known: dict[str, Tensor] = {}

    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {"e": inputs["x"].square().sum((1, 2, 3, 4))}
        return known or (known.update(found) or found) if caches else found

    schema = ep.Schema({"x": ep.grid()}, {"e": ep.scalar})
    found = ep.audit_grid(model, {"x": smooth()}, schema, plan=ep.RotationPlan("klein", 4), progress=False)
    top = found.document().headline
    assert found.cube.equiv < 1e-20
    assert ("do not depend on the rotated inputs" in top.answer) == caches
    assert (top.severity == "bad") == caches
    assert ("Not to be believed" in repr(found)) == caches
    again = type(found).from_dict(json.loads(found.to_json()))
    assert again.document().headline == top


CUBIC = torch.zeros(7, 7, 7).double()  # as symmetric as the cube, and not round: along the axes only
CUBIC[3, 3, ::6] = CUBIC[3, ::6, 3] = CUBIC[::6, 3, 3] = 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "seen_by_cube", "seen_by_all"),
    [(gaussian(1.2, 1.2, 1.2), False, False), (gaussian(0.5, 1.2, 1.2), True, True), (CUBIC, False, True)],
    ids=["round", "oblong", "cubic"],
)
def test_two_numbers(kernel: Tensor, seen_by_cube: bool, seen_by_all: bool) -> None:
    """A kernel with the cube's symmetry is equivariant to the first number; the second tells it from a round one."""
    model, x = Blur(kernel).train(), smooth()
    found = ep.audit_grid(model, {"x": x}, GRIDS, plan=ep.RotationPlan("klein", 4), progress=False)
    assert (found.cube.equiv > 1e-25) == seen_by_cube
    assert found.is_above_interpolation == seen_by_all
    assert found.cube.floor < 1e-30 < found.rotations.floor
    assert model.training
    shown = str(found)
    assert "cube: the 24 rotations of the cube" in shown
    assert "interpolation floor" in shown
    assert ("no more than interpolation alone" in shown) == (not seen_by_all)
    assert json.loads(json.dumps(found.to_dict()))["is_above_interpolation"] == seen_by_all


def test_an_isotropic_stencil_is_not_above_interpolation() -> None:
    """As equivariant as a grid allows: beyond the bare floor, since a derivative sees the interpolation's kinks."""
    stencil = torch.zeros(3, 3, 3).double()
    stencil[1, 1, :] = stencil[1, :, 1] = stencil[:, 1, 1] = 1.0
    stencil[1, 1, 1] = -6.0
    model = lambda given: {"y": torch.nn.functional.conv3d(given["x"], stencil[None, None], padding=1)}  # noqa: E731
    x = smooth(10)
    for kind in ("linear", "cubic"):
        plan = ep.RotationPlan("klein", 4)
        found = ep.audit_grid(model, {"x": x}, GRIDS, plan=plan, interpolation=kind, progress=False)
        assert found.cube.equiv < 1e-25
        assert found.rotations.equiv > found.rotations.floor, "control: the bare floor would say it is"
        assert not found.is_above_interpolation


def test_the_numbers_are_those_of_twirl_and_decompose_in_chunks_of_any_size() -> None:
    model, x, y = Blur(gaussian(0.5, 1.2, 1.2)).eval(), smooth(8, 5), values(5, 1, 8, 8, 8)
    plan = ep.RotationPlan("haar", 4)
    each = {
        chunk: ep.audit_grid(
            model, {"x": x}, GRIDS, {"y": y}, "mae", plan=plan, interpolation="linear", chunk=chunk, progress=False
        )
        for chunk in (2, 8)
    }
    smoothed = ep.grid(interpolation="linear")
    cases: list[tuple[str, Any, Any]] = [
        ("cube", GRIDS, None),
        ("rotations", ep.Schema({"x": smoothed}, {"y": smoothed}), plan),
    ]
    for name, schema, given in cases:
        expected = ep.decompose(ep.twirl(model, {"x": x}, schema, given), y, "mae", structures="leading")
        for chunk, audit in each.items():
            own = getattr(audit, name)
            for key in ("total", "mean", "equiv", "share", "equiv_stderr", "share_stderr"):
                assert math.isclose(getattr(own, key), getattr(expected, key), rel_tol=1e-9), (name, chunk, key)
    model.largest = 0
    ep.audit_grid(model, {"x": x}, GRIDS, plan=plan, chunk=2, progress=False)
    assert model.largest == 2


def test_audits_of_boxes_and_of_atoms_and_their_errors() -> None:
    model = Blur(gaussian(0.5, 1.2, 1.2)).eval()
    box = ep.audit_grid(model, {"x": smooth(8)[..., 1:, 2:]}, GRIDS, plan=ep.RotationPlan("haar", 2), progress=False)
    assert box.cube_plan.design == "box"
    square = ep.audit_grid(model, {"x": smooth(8)[..., 2:]}, GRIDS, plan=ep.RotationPlan("haar", 2), progress=False)
    assert (square.cube_plan.design, square.cube_plan.size) == ("box-z", 8)
    places = ep.grid().coordinates((8, 8, 8))

    def density(pos: Tensor) -> Tensor:
        return torch.exp(-(places - pos[:, :, None, None, None]).square().sum(-1) / 4).sum(1, keepdim=True)

    schema = ep.Schema({"pos": ep.point}, {"rho": ep.grid()})
    atoms = ep.audit_grid(density, values(2, 3, 3), schema, plan=ep.RotationPlan("haar", 3), progress=False)
    assert atoms.cube.equiv < 1e-28
    assert not atoms.is_above_interpolation
    with pytest.raises(ep.EquivProbeError, match="a grid among the inputs or outputs"):
        ep.audit_grid(density, values(2, 3, 3), ep.Schema({"pos": ep.point}, {"rho": ep.scalar}))
    with pytest.raises(ep.EquivProbeError, match="a plan of all rotations"):
        ep.audit_grid(density, values(2, 3, 3), schema, plan=ep.RotationPlan("cube"))


BESIDE = ep.Schema(
    {"density": ep.grid(ep.scalar, ep.vector), "pos": ep.point, "z": ep.fixed},
    {"dipole": ep.vector, "energy": ep.scalar},
)


def sample() -> dict[str, Any]:
    return {
        "density": values(4, 5, 5, 5),
        "pos": values(6, 3, seed=1),
        "z": torch.arange(6),
        "dipole": values(3, seed=2).numpy(),
        "energy": torch.tensor(1.5),
        "name": "water",
    }


@pytest.mark.parametrize("interpolation", [None, "linear"])
def test_everything_rotates_together(interpolation: Any) -> None:
    rep = ep.grid(ep.scalar, ep.vector, interpolation=interpolation)
    schema = ep.Schema({**BESIDE.inputs, "density": rep}, BESIDE.outputs)
    given, before = sample(), sample()
    transform = ep.RandomRotation(schema, seed=3)
    seen = []
    for _ in range(4):
        found = transform(given)
        g = torch.linalg.lstsq(before["pos"], found["pos"]).solution.mT
        seen.append(g)
        assert torch.allclose(g @ g.mT, torch.eye(3).double(), atol=1e-12)
        assert math.isclose(float(torch.linalg.det(g)), 1.0, abs_tol=1e-12)
        assert bool((g.round() - g).abs().max() < 1e-12) == (interpolation is None)
        assert isinstance(found["dipole"], np.ndarray)
        assert np.allclose(found["dipole"], g.numpy() @ before["dipole"], atol=1e-12)
        exact = g.round() if interpolation is None else g
        assert torch.allclose(found["density"], rep.rotate(before["density"], exact), atol=1e-12)
        assert (found["energy"], found["name"]) == (before["energy"], "water")
        assert found["z"] is given["z"]
    assert torch.equal(given["density"], before["density"])
    assert torch.equal(given["pos"], before["pos"])
    assert len({tuple(g.flatten().round(decimals=6).tolist()) for g in seen}) > 1


def test_containers_centres_and_plans() -> None:
    x, y = values(1, 4, 4, 4), values(1, 4, 4, 4, seed=1)
    Pair = namedtuple("Pair", ["x", "y"])
    transform = ep.RandomRotation(GRIDS)
    for given in ((x, y), [x, y], Pair(x, y)):
        found = transform(given)
        assert type(found) is type(given)
        taken = [g for g in ep.RotationPlan("cube").rotations()[0] if torch.equal(ep.grid().rotate(x, g), found[0])]
        assert len(taken) == 1
        assert torch.equal(ep.grid().rotate(y, taken[0]), found[1])
    alone = ep.RandomRotation(ep.Schema({"x": ep.grid()}, {}))(x)
    assert alone.shape == x.shape
    box = ep.RandomRotation(ep.Schema({"x": ep.grid()}, {}))
    assert {tuple(box(values(1, 2, 3, 4)).shape) for _ in range(10)} == {(1, 2, 3, 4)}
    points = ep.Schema({"pos": ep.point}, {})
    far = values(7, 3) + 10
    assert torch.allclose(ep.RandomRotation(points)(far).mean(0), far.mean(0), atol=1e-12)
    about = torch.tensor([1.0, 2, 3]).double()
    moved = ep.RandomRotation(points, center=about)(torch.stack([about, about + 1]))
    assert torch.allclose(moved[0], about)
    signs = ep.RandomRotation(
        ep.Schema({"v": ep.pseudoscalar, "w": ep.vector}, {}), ep.RotationPlan("haar", improper=True)
    )
    assert {float(signs({"v": torch.ones(()), "w": values(3)})["v"]) for _ in range(20)} == {1.0, -1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ep.RandomRotation(ep.Schema({"z": ep.fixed}, {})), "something that rotates"),
        (lambda: ep.RandomRotation(GRIDS, center="middle"), '"origin", "centroid", "box" or a tensor'),
        (lambda: ep.RandomRotation(GRIDS)({"x": values(1, 2, 2, 2)}), r"the schema's \['y'\]"),
        (lambda: ep.RandomRotation(GRIDS, ep.RotationPlan("haar"))((values(1, 2, 2, 2),) * 2), "voxels to voxels"),
    ],
)
def test_errors_teach(call: Any, message: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        call()


class Items(Dataset[Tensor]):
    """The same arrow again and again, rotated."""

    def __init__(self) -> None:
        self.transform = ep.RandomRotation(ep.Schema({"x": ep.vector}, {}), seed=1)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.as_tensor(self.transform(torch.tensor([1.0, 0.0, 0.0])))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_call_worker_and_epoch_has_its_own_rotations(workers: int) -> None:
    def epochs() -> Tensor:
        torch.manual_seed(0)
        loader = DataLoader(Items(), batch_size=4, num_workers=workers)
        return torch.cat([batch for _ in range(2) for batch in loader])

    first = epochs()
    assert len(torch.unique(first, dim=0)) == 16
    assert torch.equal(first, epochs()), "the same from the same seeds"


def test_it_travels_to_workers() -> None:
    transform = ep.RandomRotation(BESIDE, ep.RotationPlan("cube"), seed=4)
    transform(sample())
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(sample())["pos"], ep.RandomRotation(BESIDE, seed=4)(sample())["pos"])
    assert repr(again).startswith('RandomRotation(Schema(inputs={"density": ep.grid(ep.scalar, ep.vector)')
