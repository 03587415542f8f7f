"""Another representation is suggested where it explains the orbit far better, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.second_opinion import second_opinion
from equiv_probe.representations.representation import Representation  # noqa: TC001
from equiv_probe.testing import CentralForces, LinearDenoiser, LinearField, QuadraticEnergy

PLAN = ep.RotationPlan("tetrahedral", 4)


def opinion(predict, positions: Tensor, declared: Representation, **kwargs) -> str:
    schema = ep.Schema({"pos": ep.point}, {"y": declared})
    return second_opinion(ep.twirl(predict, {"pos": positions}, schema, PLAN, **kwargs), "y")


def test_a_wrong_declaration_is_doubted_and_the_right_one_named(positions: Tensor) -> None:
    model = CentralForces()
    cases = {
        # Three invariants of each atom, taken for a vector.
        ("scalar", ep.vector): lambda x: {"y": (x["pos"] - x["pos"].mean(0)).norm(dim=-1)[:, None].expand(-1, 3)},
        ("vector", ep.scalar): lambda x: {"y": model(x["pos"])["forces"]},
        ("point", ep.vector): lambda x: {"y": x["pos"] + model(x["pos"])["forces"]},
        ("vector", ep.point): lambda x: {"y": model(x["pos"])["forces"]},
        ('voigt("xx yy zz yz xz xy")', ep.voigt("xx yy zz xy yz xz")): lambda x: {"y": model(x["pos"])["stress"]},
    }
    for (right, declared), predict in cases.items():
        said = opinion(predict, positions, declared)
        assert f"as ep.{right} it would vary" in said, (right, said)
        assert f'outputs={{"y": ep.{right}}}' in said
        assert "ep." in said.split(",")[0]


@pytest.mark.parametrize("shears", [2.0, 0.5, 2**0.5, 3.3, -1.0])
@pytest.mark.parametrize("order", ["xx yy zz yz xz xy", "xx yy zz xy yz xz"])
@pytest.mark.parametrize("declared", [ep.voigt(), ep.tensor(2)], ids=str)
def test_scaled_shears_are_recognised_in_any_order(
    shears: float, order: str, declared: Representation, positions: Tensor
) -> None:
    """A sound stress, stored otherwise than declared; also where little of it is shear."""
    pairs, unfold = order.split(), ((0, 5, 4), (5, 1, 3), (4, 3, 2))
    place = [["xx", "yy", "zz", "yz", "xz", "xy"].index("".join(sorted(pair))) for pair in pairs]
    factor = torch.tensor([1.0 if pair[0] == pair[1] else shears for pair in pairs], dtype=torch.float64)

    def predict(x: dict[str, Tensor], pressure: float = 0.0) -> dict[str, Tensor]:
        own = CentralForces()(x["pos"])["stress"] + pressure * (torch.arange(6) < 3)
        stored = own[..., place] * factor
        return {"y": stored if declared != ep.tensor(2) else stored[..., unfold]}

    for pressure in (0.0, 100.0):
        said = opinion(lambda x, p=pressure: predict(x, p), positions, declared)  # type: ignore[misc]
        assert f"ep.{ep.voigt(order, shears)}" in said, said
    if declared != ep.tensor(2):
        assert opinion(predict, positions, ep.voigt(order, shears)) == ""


def test_a_stress_that_is_broken_otherwise_has_no_factor(matrix: Tensor, positions: Tensor) -> None:
    """A constant matrix, and a sound stress with one shear left out."""
    lost = torch.tensor([1.0, 1, 1, 0, 1, 1])
    for predict in (
        lambda x: {"y": QuadraticEnergy(matrix)(x["pos"])["stress"]},
        lambda x: {"y": CentralForces()(x["pos"])["stress"] * lost},
        lambda x: {"y": CentralForces()(x["pos"])["stress"] * (torch.arange(6) < 3)},
    ):
        assert "shears" not in opinion(predict, positions, ep.voigt())


@pytest.mark.parametrize("name", ["field", "denoiser", "energy", "central"])
def test_models_that_are_broken_or_right_as_declared_are_not_doubted(
    name: str, matrix: Tensor, positions: Tensor
) -> None:
    model, output = {
        "field": (LinearField(matrix), "forces"),
        "denoiser": (LinearDenoiser(matrix), "denoised"),
        "energy": (QuadraticEnergy(matrix), "energy"),
        "central": (CentralForces(), "forces"),
    }[name]
    assert opinion(lambda x: {"y": model(x["pos"])[output]}, positions, model.outputs[output]) == ""


def test_without_values_there_is_no_opinion(positions: Tensor) -> None:
    assert opinion(lambda x: {"y": CentralForces()(x["pos"])["forces"]}, positions, ep.scalar, keep=False) == ""


def test_it_is_among_the_notes(positions: Tensor) -> None:
    schema = ep.Schema({"pos": ep.point}, {"y": ep.scalar})
    orbit = ep.twirl(lambda x: {"y": CentralForces()(x["pos"])["forces"]}, {"pos": positions}, schema, PLAN)
    found = ep.decompose(orbit)
    assert "declare outputs=" in found.notes[0]
    assert "declare outputs=" in str(found)


def test_three_energies_of_a_packed_batch_are_no_point_and_no_error(matrix: Tensor) -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.arange(3).repeat_interleave(4)

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.stack([QuadraticEnergy(matrix)(inputs["pos"][index == k])["energy"] for k in range(3)])}

    schema = ep.Schema({"pos": ep.point}, {"y": ep.scalar}, batch="batch")
    orbit = ep.twirl(predict, {"pos": x, "batch": index}, schema, PLAN)
    assert second_opinion(orbit, "y") == ""


def named_opinion(predict, positions: Tensor, name: str, declared: Representation, plan=PLAN) -> str:
    schema = ep.Schema({"pos": ep.point}, {name: declared})
    return second_opinion(ep.twirl(lambda x: {name: predict(x["pos"])}, {"pos": positions}, schema, plan), name)


def principal(x: Tensor) -> Tensor:
    """The rotation into principal axes, with signs by the third moments: a frame that rotates with the molecule."""
    x = x - x.mean(0)
    axes = torch.linalg.eigh(x.mT @ x).eigenvectors
    axes = axes * ((x @ axes) ** 3).sum(0).sign()
    return torch.cat([axes[:, :2], torch.linalg.cross(axes[:, 0], axes[:, 1])[:, None]], 1)


@pytest.mark.parametrize(("name", "declared"), [("forces", ep.vector), ("stress", ep.tensor(2)), ("dipole", ep.vector)])
def test_a_known_quantity_in_the_models_own_frame_is_a_defect_and_no_scalar(
    name: str, declared: Representation, positions: Tensor
) -> None:
    model = CentralForces()

    def own_frame(x: Tensor) -> Tensor:
        inside = model(x @ principal(x))
        if name == "stress":
            s = inside["stress"]
            return s[..., [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        return inside["forces"] if name == "forces" else inside["forces"][0]

    said = named_opinion(own_frame, positions, name, declared)
    assert "does not rotate at all" in said
    assert "defect" in said
    assert f'outputs={{"{name}"' not in said, "declared a scalar, the audit would show green"
    unknown = named_opinion(own_frame, positions, "features", declared)
    assert 'outputs={"features": ep.scalar}' in unknown, "of what may well be invariant, it is advice"


def test_a_rotation_too_many_or_the_wrong_way_is_named(positions: Tensor) -> None:
    """Planted: the forces of the rotated structure, rotated once more; and rotated by the inverse."""
    model, reference = CentralForces(), positions - positions.mean(0)

    def rotated(x: Tensor, times: int) -> Tensor:
        x = x - x.mean(0)
        g = torch.linalg.lstsq(reference, x).solution.T  # the rotation of this copy
        return model(reference)["forces"] @ torch.linalg.matrix_power(g, times).T

    assert "already rotated with its input" in named_opinion(lambda x: rotated(x, 2), positions, "forces", ep.vector)
    assert "by the inverse" in named_opinion(lambda x: rotated(x, -1), positions, "forces", ep.vector)
    assert named_opinion(lambda x: rotated(x, 1), positions, "forces", ep.vector) == ""


@pytest.mark.parametrize("size", [0.02, 5.0])
def test_a_bias_on_vectors_is_named_with_its_value(size: float, positions: Tensor) -> None:
    """Closed form: rotated back, ``F + g⁻¹ b``, of which least squares recovers b."""
    b, model = size * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), CentralForces()
    said = named_opinion(lambda x: model(x)["forces"] + b, positions, "forces", ep.vector)
    assert "constant vector" in said
    assert ", ".join(f"{float(one):.4g}" for one in b) in said


@pytest.mark.parametrize("seed", range(5))
def test_no_digit_of_rounding_is_said(seed: int, positions: Tensor) -> None:
    """Other threads, another processor: predictions that differ by rounding are explained in the same words."""
    generator = torch.Generator().manual_seed(seed)
    model, b = CentralForces(), torch.tensor([100.0, 0.0, -0.2637], dtype=torch.float64)

    def rounded(y: Tensor) -> Tensor:
        return y * (1 + 1e-14 * torch.randn(y.shape, generator=generator, dtype=y.dtype))

    assert "(100, 0, -0.3)" in named_opinion(lambda x: rounded(model(x)["forces"] + b), positions, "forces", ep.vector)
    said = opinion(lambda x: {"y": rounded(model(x["pos"])["forces"])}, positions, ep.scalar)
    assert "as ep.vector it would vary more than 1e+06 times less" in said


def test_a_parity_error_of_a_known_quantity_is_named(positions: Tensor) -> None:
    plan = ep.RotationPlan("tetrahedral", 4, improper=True)

    def crossed(x: Tensor) -> Tensor:  # axial
        f = CentralForces()(x)["forces"]
        return torch.linalg.cross(f, f.roll(1, 0))

    said = named_opinion(crossed, positions, "forces", ep.vector, plan)
    assert "does not change its sign under reflection" in said
    assert "declare" not in said


def test_a_broken_known_quantity_is_not_explained_away(matrix: Tensor, positions: Tensor) -> None:
    for name, declared in (("forces", ep.vector), ("denoised", ep.point)):
        assert named_opinion(lambda x: (x - x.mean(0)) @ matrix.T, positions, name, declared) == ""


class Peak(torch.nn.Module):
    """From a grid to a place in voxel indices, times the spacing: equivariant about the middle of the box."""

    def __init__(self, spacing: float, axes: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spacing, self.axes = spacing, axes

    def forward(self, x: Tensor) -> Tensor:
        lines = [torch.arange(n).to(x) * self.spacing for n in x.shape[-3:]]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
        places = places[:, ["xyz".index(a) for a in self.axes]] if self.axes != "xyz" else places
        return x.square().flatten(2).softmax(-1) @ places


def test_places_that_hardly_leave_the_middle_are_no_scalars() -> None:
    """Broken a little, and of little spread: as scalars they would vary least of all."""
    net, x = Peak(1.0, "xyz"), torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    schema = ep.Schema({"x": ep.grid()}, {"0": ep.point})
    off = torch.tensor([0.03, 0.0, 0.0], dtype=torch.float64)
    for about, said in (("origin", 'center="box"'), ("box", "")):
        orbit = ep.twirl(lambda v: net(v) + off * v.mean(), x, schema, center=about)
        found = ep.decompose(orbit)
        assert said in "".join(found.notes)
        assert "ep.scalar" not in "".join(found.notes)


@pytest.mark.slow
@pytest.mark.parametrize(("spacing", "axes"), [(1.0, "xyz"), (0.5, "xyz"), (1.0, "zyx")])
@pytest.mark.parametrize("side", [7, 8])
def test_places_counted_in_voxels_rotate_about_the_middle_of_the_box(side: int, spacing: float, axes: str) -> None:
    x = torch.rand(2, 1, side, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = Peak(spacing, axes)
    schema = ep.Schema({"x": ep.grid(spacing=spacing, axes=axes)}, {"0": ep.point})
    middle = spacing * (side - 1) / 2
    wrong = ep.decompose(ep.twirl(net, x, schema, center="origin"))
    assert wrong.equiv > 0.1 * middle**2
    assert f"({middle:.4g}, {middle:.4g}, {middle:.4g})" in wrong.notes[0]
    assert 'center="box"' in wrong.notes[0]
    assert ep.decompose(ep.twirl(net, x, schema, center="box")).equiv < 1e-24
    audit = ep.audit_grid(net, x, schema, plan="klein", progress=False)
    assert any('center="box"' in note for note in audit.cube.notes)
    assert ep.audit_grid(net, x, schema, plan="klein", progress=False, center="box").cube.equiv < 1e-24
    with ep.Probe(net.eval(), schema, center="box", full=1, budget=None, every=1) as probe:
        net(x)
    assert probe.compute()["equiv/val/0/L_equiv"] < 1e-24


def test_the_middle_of_a_box_needs_a_grid(positions: Tensor) -> None:
    with pytest.raises(ep.EquivProbeError, match='center="box" without a grid'):
        ep.twirl(lambda v: v, positions, ep.Schema({"0": ep.point}, {"0": ep.point}), center="box")
