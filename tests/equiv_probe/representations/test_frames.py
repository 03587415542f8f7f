"""Rigid frames against SciPy and against frames built from points, and networks on frames with known outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.representations.frames import quaternions
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation

EXACT = 1e-12  # float64: a few products of numbers of order one
PLAN = ep.RotationPlan("tetrahedral", replicates=2)  # exact for what is linear in ρ_in and in ρ_out


def rotations(count: int, seed: int = 0) -> Tensor:
    return haar(count, torch.Generator().manual_seed(seed))


def improper(count: int, seed: int = 0) -> Tensor:
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)[:count, None, None]
    return sign * rotations(count, seed)


def as_matrices(q: Tensor) -> Tensor:
    """By SciPy, ``(..., 4)`` with w first."""
    flat = Rotation.from_quat(q.reshape(-1, 4).numpy()[:, [1, 2, 3, 0]]).as_matrix()
    return torch.from_numpy(flat).reshape(*q.shape[:-1], 3, 3)


def built(points: Tensor) -> Tensor:
    """Orientations by Gram-Schmidt from three points ``(..., 3, 3)``, axes as columns."""
    a, b = points[..., 1, :] - points[..., 0, :], points[..., 2, :] - points[..., 0, :]
    first = nn.functional.normalize(a, dim=-1)
    second = nn.functional.normalize(b - (b * first).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def whole(orientations: Tensor, places: Tensor, form: str) -> Tensor:
    if form == "quaternion":
        q = quaternions(orientations)
        return torch.cat([torch.where(q[..., :1] < 0, -q, q), places], -1)
    frames = torch.eye(4, dtype=places.dtype).repeat(*places.shape[:-1], 1, 1)
    frames[..., :3, :3], frames[..., :3, 3] = orientations, places
    return frames


def random_frames(*lead: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    count = int(np.prod(lead))
    places = torch.randn(*lead, 3, generator=generator, dtype=torch.float64)
    return haar(count, generator).reshape(*lead, 3, 3), places


def test_quaternions_against_scipy_at_every_angle_and_at_180_degrees() -> None:
    by_180 = 2 * torch.einsum("ki,kj->kij", *2 * [torch.eye(3, dtype=torch.float64)]) - torch.eye(3)
    many = torch.cat([rotations(500), by_180.double(), torch.eye(3, dtype=torch.float64)[None]])
    found = quaternions(many)
    assert float((as_matrices(found) - many).abs().max()) < EXACT
    assert float((found.norm(dim=-1) - 1).abs().max()) < EXACT
    matrices = many.clone().requires_grad_()
    quaternions(matrices).sum().backward()
    assert matrices.grad is not None
    assert bool(matrices.grad.isfinite().all())


def test_orientations_rotate_as_frames_that_are_built_from_points_do() -> None:
    """Also under reflections, where the third axis is a cross product and the frame stays proper."""
    points = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = improper(6)
    rotated = built(ep.point.rotate(points, g))
    assert float((ep.orientation.rotate(built(points), g) - rotated).abs().max()) < EXACT
    assert float((torch.linalg.det(rotated) - 1).abs().max()) < EXACT
    # A tensor of rank two would rotate from both sides.
    assert float((ep.tensor(2).rotate(built(points), g) - rotated).abs().max()) > 0.1


def test_quaternions_rotate_as_orientations_do() -> None:
    orientations, _ = random_frames(6, 4)
    g = improper(6)
    rotated = ep.quaternion.rotate(quaternions(orientations), g)
    assert float((as_matrices(rotated) - ep.orientation.rotate(orientations, g)).abs().max()) < EXACT
    assert bool((rotated[..., 0] >= 0).all())


@pytest.mark.parametrize("form", ["matrix", "quaternion"])
@pytest.mark.parametrize("centred", [False, True])
def test_a_frame_is_an_orientation_and_a_point(form: str, centred: bool) -> None:
    orientations, places = random_frames(6, 4)
    g, rep = improper(6), ep.frame("matrix") if form == "matrix" else ep.frame("quaternion")
    center = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if centred else None
    expected = whole(ep.orientation.rotate(orientations, g), ep.point.rotate(places, g, center), form)
    frames = whole(orientations, places, form)
    assert float((rep.rotate(frames, g, center) - expected).abs().max()) < EXACT
    assert float((rep.rotate_back(expected, g, center) - frames).abs().max()) < EXACT
    assert torch.equal(rep.places(frames), places)
    if not centred:
        size = int(np.prod(rep.event_shape))
        linear = torch.einsum("kij,knj->kni", rep.matrix(g), frames.reshape(6, 4, size)).reshape(frames.shape)
        sign = torch.where(linear[..., :1] < 0, -1.0, 1.0) if form == "quaternion" else torch.ones(1)
        linear = torch.cat([sign * linear[..., :4], linear[..., 4:]], -1) if form == "quaternion" else linear
        assert float((linear - expected).abs().max()) < EXACT


@pytest.mark.parametrize("rep", [ep.orientation, ep.quaternion, ep.frame(), ep.frame("quaternion")], ids=str)
def test_homomorphism_batches_and_precision(rep: Representation) -> None:
    orientations, places = random_frames(6, 4)
    values = {
        "orientation": orientations,
        "quaternion": whole(orientations, places, "quaternion")[..., :4],
        'frame("matrix")': whole(orientations, places, "matrix"),
        'frame("quaternion")': whole(orientations, places, "quaternion"),
    }[str(rep)]
    g, h = improper(6, 2), improper(6, 3).flip(0)
    one_by_one = rep.rotate(rep.rotate(values, h), g)
    assert float((rep.rotate(values, g @ h) - one_by_one).abs().max()) < EXACT
    assert float((rep.rotate(values, h @ g) - one_by_one).abs().max()) > 0.01
    singles = torch.stack([rep.rotate(v, r) for v, r in zip(values, g, strict=True)])
    assert float((singles - rep.rotate(values, g)).abs().max()) < EXACT
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 2.0**-5)):
        low = rep.rotate(values.to(dtype), g)
        assert low.dtype == dtype
        exact = rep.rotate(values.to(dtype).double(), g)
        gap = (low.double() - exact).abs().amax(-1)
        # Near w = 0 the sign may fall either way; such quaternions are equal up to it.
        if "quaternion" in str(rep):
            keep = exact[..., 0] > 0.05
            gap = gap[keep]
            assert bool(keep.any())
        assert float(gap.max()) < tolerance * float(values.abs().max())


def test_wrong_forms_and_shapes_teach() -> None:
    with pytest.raises(ep.EquivProbeError, match="matrix"):
        ep.frame("euler")  # type: ignore[arg-type]
    with pytest.raises(ep.EquivProbeError, match="trailing axes"):
        ep.frame().rotate(torch.zeros(2, 7), torch.eye(3, dtype=torch.float64))


class OnFrames(nn.Module):
    """``R ↦ A R``, ``t ↦ B (t − c) + c``: the twirl is ``tr(A)/3 R`` and ``tr(B)/3 (t − c) + c``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, rotmats_t: Tensor, trans_t: Tensor, t: Tensor, res_mask: Tensor) -> dict[str, Tensor]:
        held = res_mask[..., None]
        c = (trans_t * held).sum(-2, keepdim=True) / held.sum(-2, keepdim=True)
        return {"pred_rotmats": self.a @ rotmats_t, "pred_trans": (trans_t - c) @ self.b.T + c}


def variance(matrix: Tensor) -> float:
    """``E_g |g⁻¹ A g u|² − |tr(A)/3 u|²`` for a unit vector u."""
    return float(matrix.square().sum() / 3 - matrix.trace() ** 2 / 9)


def masked_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    orientations, places = random_frames(5, 7)
    mask = (torch.arange(7)[None] < torch.tensor([7, 4, 5, 2, 6])[:, None]).double()
    return orientations, places, torch.rand(5, generator=torch.Generator().manual_seed(2)), mask


def test_a_step_on_frames_is_the_closed_form_without_a_schema() -> None:
    """Names as in public codes for proteins; the loss draws nothing that rotates, so only A and B are broken."""
    net, (r, x, t, mask) = OnFrames(), masked_batch()
    held = mask.sum()

    def step() -> dict[str, Tensor]:
        out = net(r, x, t, mask)
        rotational = (out["pred_rotmats"] - r).square().sum((-1, -2))
        moving = (out["pred_trans"] - x).square().sum(-1)
        return {"rotation": (rotational * mask).sum() / held, "translation": (moving * mask).sum() / held}

    found = ep.Probe(net).replay(step, PLAN)
    centre = (x * mask[..., None]).sum(-2, keepdim=True) / mask.sum(-1)[:, None, None]
    size = float(((x - centre).square().sum(-1) * mask).sum() / held)
    a, b = net.a.detach(), net.b.detach()
    assert float(found.scalars["rotation"].equiv) == pytest.approx(3 * variance(a), rel=1e-10)
    assert float(found.scalars["translation"].equiv) == pytest.approx(variance(b) * size, rel=1e-10)
    # ‖tr(A)/3 R − R‖² = 3 (tr(A)/3 − 1)²
    assert float(found.scalars["rotation"].mean) == pytest.approx(3 * float(a.trace() / 3 - 1) ** 2, rel=1e-10)
    assert float(found.scalars["translation"].mean) == pytest.approx(float(b.trace() / 3 - 1) ** 2 * size, rel=1e-10)


def test_the_label_free_measurement_agrees_and_orientations_are_no_vectors() -> None:
    net, (r, x, t, mask) = OnFrames().eval(), masked_batch()
    for rep, right in ((ep.orientation, True), (ep.vector, False)):
        inputs = {"rotmats_t": rep, "trans_t": ep.point}
        schema = ep.Schema(inputs=inputs, outputs={"pred_rotmats": rep})
        with ep.Probe(net, schema, PLAN, full=1, budget=None) as probe, torch.no_grad():
            net(r, x, t, mask)
        # Per entry of a 3×3 matrix. Vectors in the rows, R ↦ R gᵀ, commute with A: nothing would seem broken.
        expected = 3 * variance(net.a.detach()) / 9 if right else 0.0
        assert probe.compute(window=False)["equiv/val/pred_rotmats/L_equiv"] == pytest.approx(
            expected, rel=1e-10, abs=1e-12
        )


class Whole(nn.Module):
    """Frames in one tensor: the orientation is multiplied from the right, as equivariant networks do, or the left."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.update, self.broken = nn.Parameter(rotations(1, 5)[0]), broken

    def forward(self, frames: Tensor) -> Tensor:
        r, t = frames[..., :3, :3], frames[..., :3, 3]
        new = self.update @ r if self.broken else r @ self.update
        return torch.cat([torch.cat([new, (t + new[..., 0])[..., None]], -1), frames[..., 3:, :]], -2)


@pytest.mark.parametrize("broken", [False, True])
def test_networks_on_whole_frames(broken: bool) -> None:
    r, t = random_frames(4, 6)
    frames, net = whole(r, t, "matrix"), Whole(broken=broken)
    schema = ep.Schema(inputs={"frames": ep.frame()}, outputs={"0": ep.frame()})
    orbit = ep.twirl(lambda inputs: net(inputs["frames"]).detach(), {"frames": frames}, schema, PLAN)
    found = ep.decompose(orbit, structures="leading")
    # Of the 16 entries the nine of R and the three of t (through its first column) vary.
    expected = (3 + 1) * variance(net.update.detach()) / 16 if broken else 0.0
    assert found.equiv == pytest.approx(expected, rel=1e-10, abs=1e-25)


def test_quaternion_frames_in_a_network_that_rotates_them_from_the_right_are_at_the_floor() -> None:
    r, t = random_frames(4, 6)
    update = rotations(1, 5)[0]

    def net(inputs: dict[str, Tensor]) -> Tensor:
        new = as_matrices(inputs["rigids_t"][..., :4]) @ update
        return whole(new, inputs["rigids_t"][..., 4:] + new[..., 0], "quaternion")

    frames = {"rigids_t": whole(r, t, "quaternion")}
    schema = ep.Schema.infer(frames, net(frames), ep.Schema({}, {"0": ep.frame("quaternion")}))
    assert schema.inputs["rigids_t"] == ep.frame("quaternion")
    orbit = ep.twirl(net, frames, schema, PLAN)
    assert ep.decompose(orbit).equiv < 1e-25


def test_augmentation_rotates_orientations_and_places_together() -> None:
    """Training mode: what the network sees is a rotated frame, what the user sees is rotated back."""
    net, (r, x, t, mask) = OnFrames(), masked_batch()
    seen: list[Tensor] = []
    net.register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    schema = ep.Schema(
        inputs={"rotmats_t": ep.orientation, "trans_t": ep.point},
        outputs={"pred_rotmats": ep.orientation, "pred_trans": ep.point},
        mask="res_mask",
    )
    with ep.augment(net, schema) as handle:
        out = net(r, x, t, mask)
    g = handle.rotations
    assert g is not None
    assert torch.allclose(seen[0], g[:, None] @ r, atol=EXACT)
    assert torch.allclose(out["pred_rotmats"], g.mT[:, None] @ net.a @ g[:, None] @ r, atol=EXACT)


def test_atoms_of_residues_with_a_mask_and_nan_where_there_is_none() -> None:
    """``(B, N, 37, 3)``: one centroid for each structure, of the atoms that are there, for twirl and for the probe."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(3, 4, 37, 3, generator=generator, dtype=torch.float64) + 5
    mask = torch.rand(3, 4, 37, generator=generator) < 0.4
    atoms[~mask] = torch.nan
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, atom37: Tensor, atom37_mask: Tensor) -> dict[str, Tensor]:
            held = atom37_mask[..., None]
            x = torch.where(held, atom37, 0.0)
            centre = x.sum((1, 2), keepdim=True) / held.sum((1, 2), keepdim=True)
            return {"denoised": torch.where(held, (x - centre) @ matrix.T + centre, torch.nan)}

    net = Net().eval()
    held = torch.where(mask[..., None], atoms, 0.0)
    centre = held.sum((1, 2), keepdim=True) / mask.sum((1, 2))[:, None, None, None]
    sizes = torch.where(mask[..., None], atoms - centre, 0.0).square().sum((1, 2, 3)) / (3 * mask.sum((1, 2)))
    # The loss weighs structures by their atoms.
    expected = variance(matrix) * float((sizes * mask.sum((1, 2))).sum() / mask.sum())
    with ep.Probe(net, plan=PLAN, full=1, budget=None) as probe, torch.no_grad():
        net(atoms, mask)
    assert probe.schema is not None
    assert probe.schema.mask == "atom37_mask"
    assert probe.compute(window=False)["equiv/val/denoised/L_equiv"] == pytest.approx(expected, rel=1e-10)
    orbit = ep.twirl(lambda x: net(**x), {"atom37": atoms, "atom37_mask": mask}, probe.schema, PLAN)
    direct = ep.decompose(orbit, structures="leading", mask=mask[..., None])
    assert direct.equiv == pytest.approx(expected, rel=1e-10)
