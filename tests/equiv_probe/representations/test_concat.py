"""Several quantities side by side rotate each as it does alone, and what does not rotate keeps every bit."""

from __future__ import annotations

import pytest
import torch

import equiv_probe as ep
from equiv_probe.rotations.haar import haar


def rotation() -> torch.Tensor:
    return haar(1, torch.Generator().manual_seed(3))[0]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["proper", "improper"])
@pytest.mark.parametrize(
    "parts",
    [(ep.point, 6), (4, ep.vector), ((2, ep.vector), ep.axial, 1), (ep.tensor(2), ep.pseudoscalar), (1, ep.voigt(), 2)],
    ids=str,
)
def test_every_part_rotates_as_it_does_alone(parts: tuple[object, ...], sign: float) -> None:
    whole, g = ep.concat(*parts), sign * rotation()
    values = torch.randn(5, *whole.event_shape, dtype=torch.float64)
    center = torch.randn(3, dtype=torch.float64)
    rotated, start = whole.rotate(values, g, center), 0
    for part in parts:
        count, rep = part if isinstance(part, tuple) else (1, part)
        if isinstance(rep, int):
            count, rep = rep, ep.scalar
        for _ in range(count):
            size = int(torch.tensor(rep.event_shape).prod()) if rep.event_shape else 1
            own = values[:, start : start + size].reshape(5, *rep.event_shape)
            wanted = rep.rotate(own, g, center if rep.is_affine else None).reshape(5, size)
            torch.testing.assert_close(rotated[:, start : start + size], wanted, rtol=0, atol=1e-13)
            if rep == ep.scalar:
                assert torch.equal(rotated[:, start : start + size], values[:, start : start + size])
            start += size
    assert start == whole.event_shape[0]
    torch.testing.assert_close(whole.rotate_back(rotated, g, center), values, rtol=0, atol=1e-13)
    if not whole.is_affine:
        matrix = whole.matrix(g)
        torch.testing.assert_close(values @ matrix.mT, rotated, rtol=0, atol=1e-13)


def test_batches_of_rotations_and_of_copies() -> None:
    whole, g = ep.concat(2, ep.vector), haar(4, torch.Generator().manual_seed(0))
    values = torch.randn(1, 6, 5, dtype=torch.float64)
    rotated = whole.rotate(values, g)
    assert rotated.shape == (4, 6, 5)
    for k in range(4):
        torch.testing.assert_close(rotated[k], whole.rotate(values[0], g[k]), rtol=0, atol=1e-14)


def test_what_is_not_finite_stays_in_its_column() -> None:
    values = torch.tensor([[float("nan"), 1.0, 2.0, 3.0]])
    rotated = ep.concat(1, ep.vector).rotate(values, rotation())
    assert torch.isfinite(rotated[0]).tolist() == [False, True, True, True]


def test_places_move_and_the_rest_stays() -> None:
    whole, values = ep.concat(1, ep.point, ep.vector), torch.randn(5, 7)
    shift = torch.tensor([1.0, 2.0, 3.0])
    moved = whole.translate(values, shift)
    assert torch.equal(moved[:, 1:4], values[:, 1:4] + shift)
    assert torch.equal(moved[:, [0, 4, 5, 6]], values[:, [0, 4, 5, 6]])
    assert torch.equal(whole.places(values), values[:, 1:4])


@pytest.mark.parametrize(
    "parts", [(), (ep.grid(),), (ep.quaternion,), (ep.frame(),), ("pos",), (0,), ((0, ep.vector),)]
)
def test_what_cannot_stand_side_by_side_is_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"ep\.concat"):
        ep.concat(*parts)  # type: ignore[arg-type]


def test_an_invariant_model_on_mixed_features_is_found_invariant_and_a_broken_one_is_not() -> None:
    """Closed form: for ``f = x_0`` of one atom at distance d from its centroid, Var over rotations is d²/3."""
    pos = torch.randn(6, 3, dtype=torch.float64)
    inputs = {"x": torch.cat([pos, torch.randn(6, 2, dtype=torch.float64)], 1)}
    schema = ep.Schema({"x": ep.concat(ep.point, 2)}, {"y": ep.scalar})
    plan = ep.RotationPlan("icosahedral", 4)
    invariant = lambda v: {"y": torch.cdist(v["x"][:, :3], v["x"][:, :3]).sum() + v["x"][:, 3:].sum()}  # noqa: E731
    assert ep.decompose(ep.twirl(invariant, inputs, schema, plan)).equiv < 1e-24
    broken = lambda v: {"y": v["x"][0, 0]}  # noqa: E731
    wanted = float((pos[0] - pos.mean(0)).square().sum()) / 3
    assert abs(ep.decompose(ep.twirl(broken, inputs, schema, plan)).equiv - wanted) < 1e-9 * max(1.0, wanted)
    left = ep.Schema({"pos": ep.point, "x": ep.fixed}, {"y": ep.scalar})
    hidden = ep.decompose(ep.twirl(broken, {**inputs, "pos": pos}, left, plan)).equiv
    assert hidden < 1e-24 * wanted, "the negative control: left as they are, the columns hide the error"
