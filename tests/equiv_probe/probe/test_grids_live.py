"""Grids through the whole instrument: planted convolutions, the probe on a network in training, twirls."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, pad

import equiv_probe as ep
from equiv_probe.live.network_search import calls_of

from ..live.test_no_waiting import NoReading

SCALARS = ep.Schema({"input": ep.grid()}, {"0": ep.grid()})
SMOOTH = ep.Schema({"input": ep.grid(interpolation="linear")}, {"0": ep.grid(interpolation="linear")})


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cube_of(array: Tensor) -> list[Tensor]:
    """An array in the cube's 24 orientations, by NumPy: each of six faces to the front, and four rotates about it."""
    given = array.numpy()
    faces = [np.rot90(given, k, (-3, -1)) for k in range(4)] + [np.rot90(given, k, (-2, -1)) for k in (1, 3)]
    return [torch.from_numpy(np.rot90(face, k, (-3, -2)).copy()) for face in faces for k in range(4)]


def convolved(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    return conv3d(pad(x, (1,) * 6, mode="circular" if mode == "circular" else "constant"), kernel)


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_the_twirl_of_a_convolution_is_that_with_the_averaged_kernel(mode: str) -> None:
    kernel, x, y = values(3, 2, 3, 3, 3), values(4, 2, 5, 5, 5, seed=1), values(4, 3, 5, 5, 5, seed=2)
    predict = lambda field: convolved(field, kernel, mode)  # noqa: E731
    orbit = ep.twirl(predict, x, ep.Schema({"0": ep.grid()}, {"0": ep.grid()}))
    kernels = torch.stack(cube_of(kernel))
    assert len(torch.unique(kernels.flatten(1), dim=0)) == 24
    twirled = convolved(x, kernels.mean(0), mode)
    assert str(orbit.plan).startswith("cube")
    assert torch.allclose(orbit.means["0"][0], twirled, atol=1e-13)
    assert float((orbit.identity["0"] - twirled).abs().max()) > 1, "control: the kernel itself is another"
    found = ep.decompose(orbit, y, structures="leading")
    apart = torch.stack([convolved(x, k, mode) - twirled for k in kernels]).square().mean()
    assert math.isclose(found.equiv, float(apart), rel_tol=1e-12)
    assert math.isclose(found.mean, float((twirled - y).square().mean()), rel_tol=1e-12)
    assert found.floor < 1e-28
    spread = found.per_structure["equiv"].std() / 2
    assert math.isclose(found.equiv_stderr, float(spread), rel_tol=1e-12), "over the four structures alone"


def network(*, averaged: bool, scalar: bool = False) -> nn.Module:
    """Two convolutions in float64; with kernels that the cube does not change, or at random."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 4, 3, padding=1).double(), nn.SiLU(), nn.Conv3d(4, 2, 3, padding=1).double()]
    if averaged:
        for layer in layers[::2]:
            layer.weight.data = torch.stack(cube_of(layer.weight.data)).mean(0)
    if scalar:
        layers += [nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("scalar", [False, True], ids=["field", "scalar"])
@pytest.mark.parametrize("averaged", [True, False])
def test_averaged_kernels_are_at_the_floor_and_others_are_not(averaged: bool, scalar: bool) -> None:
    schema = ep.Schema({"0": ep.grid()}, {"0": ep.scalar if scalar else ep.grid()})
    net = network(averaged=averaged, scalar=scalar)
    found = ep.decompose(ep.twirl(net, values(3, 2, 6, 6, 6), schema), structures="leading")
    assert (found.equiv < 1e-28) if averaged else (found.equiv > 1e-6)
    live = ep.Probe(net, ep.Schema({"input": ep.grid()}, schema.outputs), full=1, cost=None)
    with live:
        net(values(3, 2, 6, 6, 6))
    assert math.isclose(live.compute()["equiv/val/0/L_equiv"], found.equiv, rel_tol=1e-6, abs_tol=1e-28)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("stage", ["train", "val"])
@pytest.mark.parametrize("labelled", [True, False], ids=["step", "call"])
def test_training_on_grids_has_a_floor_and_a_verdict(
    averaged: bool, dtype: torch.dtype, stage: str, labelled: bool
) -> None:
    """Averaged kernels read nothing but rounding, whose floor is as large as what is read; random ones are broken."""
    net = network(averaged=averaged).to(dtype).train(stage == "train")
    x, y = values(3, 2, 6, 6, 6).to(dtype), values(3, 2, 6, 6, 6, seed=1).to(dtype)
    before = [p.detach().clone() for p in net.parameters()]
    with ep.Probe(net, ep.Schema({"input": ep.grid()}, {"0": ep.grid()}), every=1, full=1, cost=None) as probe:
        for _ in range(3):
            if labelled:
                probe.step(lambda: (net(x) - y).square().mean())
            else:
                net(x)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    (row,) = probe.report().measured
    assert math.isfinite(row.floor)
    assert row.verdict == ("round-off" if averaged else "broken"), row.sentence
    if not labelled:
        eps = torch.finfo(dtype).eps
        assert 0.03 * eps < row.floor < 30 * eps, "of outputs of order one"


def test_a_mixing_of_vector_channels_has_its_trace_as_twirl() -> None:
    """``f(v) = A v`` at every voxel: over the cube's rotations, which act irreducibly, the mean is ``tr A / 3``."""
    matrix, v = values(3, 3), values(2, 3, 4, 4, 4, seed=1)
    rep = ep.grid(ep.vector)
    predict = lambda x: torch.einsum("ij,bjxyz->bixyz", matrix, x)  # noqa: E731
    for given, plan in ((rep, None), (ep.grid(ep.vector, interpolation="linear"), ep.RotationPlan("cube"))):
        orbit = ep.twirl(predict, v, ep.Schema({"0": given}, {"0": given}), plan)
        inside = 1.0 if given.counted(v) is None else given.counted(v).double()
        assert torch.allclose(orbit.means["0"][0], matrix.trace() / 3 * v * inside, atol=1e-14)
        g = ep.RotationPlan("cube").rotations()[0]
        deviations = g.mT @ matrix @ g - matrix.trace() / 3 * torch.eye(3)
        each = torch.einsum("kij,bjxyz->kbixyz", deviations, v).square() * inside
        weight = torch.ones_like(each) * inside
        found = ep.decompose(orbit, structures="leading")
        assert math.isclose(found.equiv, float(each.sum() / weight.sum()), rel_tol=1e-12)


def test_vectors_beside_a_grid_rotate_along() -> None:
    """``f(field, d)``, the derivative of a field along an arrow, is a scalar field; with the arrow left behind, not."""

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        field = inputs["field"]
        gradient = torch.stack([field.roll(-1, a) - field.roll(1, a) for a in (-3, -2, -1)], -1)
        return {"slope": (gradient * inputs["arrow"][:, None, None, None, None]).sum(-1)}

    given = {"field": values(3, 1, 5, 5, 5), "arrow": values(3, 3, seed=1)}
    for arrow, expected in ((ep.vector, 0.0), (ep.fixed, 1.0)):
        schema = ep.Schema({"arrow": arrow, "field": ep.grid()}, {"slope": ep.grid()})
        found = ep.decompose(ep.twirl(predict, given, schema), structures="leading")
        assert (found.equiv < 1e-28) == (expected == 0.0)


def test_boxes_that_are_no_cubes() -> None:
    net, x = network(averaged=False), values(2, 2, 3, 4, 5)
    by_default = ep.twirl(net, x, ep.Schema({"0": ep.grid()}, {"0": ep.grid()}))
    assert by_default.plan.design == "box"
    # One copy at a time, all 24; the mean over NumPy's own rotates.
    schema = ep.Schema({"0": ep.grid()}, {"0": ep.grid()})
    orbit = ep.twirl(net, x, schema, ep.RotationPlan("cube"))
    kernels = zip(*(cube_of(net[i].weight.data) for i in (0, 2)), strict=True)
    rotated = []
    with torch.no_grad():
        for first, second in kernels:
            hidden = torch.nn.functional.silu(conv3d(x, first, net[0].bias, padding=1))
            rotated.append(conv3d(hidden, second, net[2].bias, padding=1))
    assert torch.allclose(orbit.means["0"][0], torch.stack(rotated).mean(0), atol=1e-13)
    stacked = lambda copies: net(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])  # noqa: E731
    with pytest.raises(ep.EquivProbeError, match="whose copies would differ in shape"):
        ep.twirl(stacked, x, schema, ep.RotationPlan("cube"), stacked=True)
    other = ep.grid(spacing=(1, 1, 2))
    with pytest.raises(ep.EquivProbeError, match="with spacing"):
        ep.twirl(net, x, ep.Schema({"0": other}, {"0": other}), ep.RotationPlan("cube"))
    for plan in (ep.RotationPlan(), ep.RotationPlan("octahedral")):
        with pytest.raises(ep.EquivProbeError, match="the rotations of the cube, which take voxels to voxels"):
            ep.twirl(net, x, schema, plan)
    with (
        pytest.raises(ep.EquivProbeError, match=r'Fix: ep.RotationPlan\("cube"\)'),
        ep.Probe(net, SCALARS, ep.RotationPlan("haar", 4), full=1),
    ):
        net(x)


def test_stacked_copies_are_those_one_by_one() -> None:
    net, schema = network(averaged=False), ep.Schema({"0": ep.grid()}, {"0": ep.grid()})
    stacked = lambda copies: net(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])  # noqa: E731
    for x, design in ((values(2, 2, 4, 4, 4), "cube"), (values(2, 2, 3, 4, 5), "box")):
        alone, together = ep.twirl(net, x, schema), ep.twirl(stacked, x, schema, stacked=True, chunk=5)
        assert alone.plan.design == together.plan.design == design
        assert torch.allclose(alone.kept("0"), together.kept("0"), atol=1e-14)
        assert float(alone.kept("0").std(1).max()) > 1e-2


def test_plans_that_nobody_chose_fit_the_grid(caplog: pytest.LogCaptureFixture) -> None:
    net, x = network(averaged=False), values(2, 2, 5, 5, 5)
    with ep.Probe(net, every=1, full=1, cost=None) as probe:
        net(x)
        net.train()
        net(x)
    assert str(probe.plan).startswith("cube: the 24 rotations of the cube")
    assert probe.light == ep.RotationPlan("cube", subset=2)
    said = caplog.text
    assert "that of a voxel grid (B, C, D, H, W), every channel taken as a scalar" in said
    assert 'Schema(inputs={"input": ep.grid()}, outputs={"0": ep.grid()})' in said
    with ep.Probe(net, SCALARS, every=1) as box:
        net(x[..., 2:, 1:])
    assert (box.plan.design, box.light) == ("box", ep.RotationPlan("box", subset=2))
    with ep.Probe(net, SCALARS, every=1) as square:
        net(x[..., 1:])
    assert (square.plan.design, square.light) == ("box-z", ep.RotationPlan("box-z", subset=2))
    with ep.Probe(net, SMOOTH, every=1) as smooth:
        net(x)
    assert (smooth.plan.design, smooth.light.design) == ("tetrahedral", "haar")


def test_what_is_ambiguous_is_asked() -> None:
    x, pos = values(2, 1, 4, 4, 4), values(2, 5, 3)
    with pytest.raises(ep.EquivProbeError, match=r"could be a voxel grid or ep\.scalar"):
        ep.Schema.infer({"pos": pos}, {"density": x})
    with pytest.raises(ep.EquivProbeError, match=r"could be a voxel grid or ep\.fixed"):
        ep.Schema.infer({"pos": pos, "pairs": x}, {"energy": pos[:, 0, 0]})
    found = ep.Schema.infer({"x": x}, {"y": x[:, :1], "energy": pos[:, 0, 0]})
    assert found.outputs == {"y": ep.grid(), "energy": ep.scalar}


@pytest.mark.slow
@pytest.mark.parametrize("schema", [SCALARS, SMOOTH], ids=["exact", "interpolated"])
def test_light_mode_is_unbiased(schema: ep.Schema) -> None:
    """Two rotations per structure, many times: the mean is that of the whole average, within its scatter."""
    net, x = network(averaged=False), values(8, 2, 4, 4, 4)
    plan = None if schema is SCALARS else ep.RotationPlan("tetrahedral", 16)
    inside = ep.Schema({"0": schema.inputs["input"]}, schema.outputs)
    truth = ep.decompose(ep.twirl(net, x, inside, plan, floor=0), structures="leading").equiv
    with ep.Probe(net, schema, every=1, window=1) as probe:
        net.train()
        found = []
        for _ in range(60):
            net(x)
            found.append(probe.compute()["equiv/train/0/L_equiv"])
    each = torch.tensor(found)
    assert abs(float(each.mean()) - truth) < 4 * float(each.std()) / math.sqrt(60) + 1e-3 * truth


@pytest.mark.parametrize("schema", [SCALARS, SMOOTH], ids=["exact", "interpolated"])
def test_replay_of_the_users_own_loss(schema: ep.Schema) -> None:
    """Outside of the ball every replay has the user's own prediction: it counts alike in all, and never as broken."""
    net, x, y = network(averaged=False), values(2, 2, 5, 5, 5), values(2, 2, 5, 5, 5, seed=3)
    counted = schema.outputs["0"].counted(y)
    inside = torch.ones(5, 5, 5, dtype=torch.bool) if counted is None else counted
    plan = ep.RotationPlan("cube")
    found = ep.Probe(net, schema).replay(lambda: (net(x) - y).square().mean(), plan)
    ball = ep.Schema({"0": schema.inputs["input"]}, schema.outputs)
    whole = ep.decompose(ep.twirl(net, x, ball, plan), y, structures="leading")
    share = float(inside.double().mean())
    with torch.no_grad():
        outside = float(((net(x) - y).square() * ~inside).mean())
    assert math.isclose(found.equiv, share * whole.equiv, rel_tol=1e-10)
    assert math.isclose(found.total, share * whole.total + outside, rel_tol=1e-10)
    assert math.isclose(found.resolution, 2 * torch.finfo(torch.float64).eps * found.total), "without replicates too"


def train(*, probed: bool, augmented: bool, schema: ep.Schema | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.SiLU(), nn.Dropout(0.2), nn.Conv3d(4, 1, 3, padding=1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, y = values(6, 3, 1, 5, 5, 5, dtype=torch.float32), values(6, 3, 1, 5, 5, 5, seed=1, dtype=torch.float32)
    probe = ep.Probe(net, schema, every=2, full=1)
    with ep.augment(net, schema) if augmented else nullcontext(), probe if probed else nullcontext():
        for k in range(6):
            step = lambda k=k: (net(x[k]) - y[k]).square().mean()  # noqa: E731
            loss = probe.step(step) if probed and k % 3 else step()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        net(x[0])
    assert not probed or probe.running
    assert not probe.failures
    return {**copy.deepcopy(net.state_dict()), "drawn": torch.rand(3)}


@pytest.mark.parametrize("augmented", [False, True], ids=["", "augmented"])
@pytest.mark.parametrize("schema", [None, SMOOTH], ids=["inferred", "interpolated"])
def test_training_is_the_same_to_the_last_bit(schema: ep.Schema | None, augmented: bool) -> None:
    without = train(probed=False, augmented=augmented, schema=schema)
    with_probe = train(probed=True, augmented=augmented, schema=schema)
    assert all(torch.equal(without[name], with_probe[name]) for name in without)
    if augmented:
        other = train(probed=False, augmented=False, schema=schema)
        assert not all(torch.equal(without[name], other[name]) for name in without)


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("augmented", [False, True], ids=["", "augmented"])
@pytest.mark.parametrize("case", ["exact", "box", "interpolated"])
def test_light_mode_reads_nothing(case: str, augmented: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("probe.player", "live.kept_numbers", "representations.voxel_rotations"):
        monkeypatch.setattr(f"equiv_probe.{module}.at_hand", lambda value: False)
    schema = SMOOTH if case == "interpolated" else SCALARS
    net, x = network(averaged=False).train(), values(3, 2, 4, 4, 3 if case == "box" else 4)
    with ep.augment(net, schema) if augmented else nullcontext(), ep.Probe(net, schema, every=1) as probe:

        def run() -> Any:
            return probe.step(lambda: net(x).square().mean()) if mode == "step" else net(x)

        run()
        with NoReading():
            run()
    assert not probe.failures
    assert all(running.everything.equiv.value > 0 for running in probe.running.values())


def test_augmentation_rotates_each_structure_by_one_of_the_cubes_rotations_and_back() -> None:
    net, x = network(averaged=False).train(), values(4, 2, 5, 5, 5)
    with ep.augment(net, SCALARS, improper=True) as handle:
        for _ in range(5):
            found = net(x)
            assert handle.rotations is not None
            assert torch.equal(handle.rotations.abs().sum(-1), torch.ones(4, 3).double())
            with torch.no_grad():
                rotated = torch.stack([ep.grid().rotate(v, g) for v, g in zip(x, handle.rotations, strict=True)])
                net.eval()
                output = net(rotated)
                net.train()
            back = [ep.grid().rotate_back(v, g) for v, g in zip(output, handle.rotations, strict=True)]
            assert torch.allclose(found, torch.stack(back), atol=1e-14)
        assert torch.autograd.grad(found.sum(), net[0].weight)[0].abs().max() > 0


@pytest.mark.parametrize("mode", ["fixed", "random"])
def test_the_twirled_network_is_equivariant(mode: str) -> None:
    net, x = network(averaged=False), values(2, 2, 4, 4, 4).requires_grad_()
    model = ep.Twirled(net, mode=mode)
    g = ep.RotationPlan("cube").rotations()[0][11]
    out = model(x)
    assert model.plan.design == "cube"
    assert torch.allclose(model(ep.grid().rotate(x, g)), ep.grid().rotate(out, g), atol=1e-14)
    assert float((net(ep.grid().rotate(x, g)) - ep.grid().rotate(net(x), g)).detach().abs().max()) > 1e-3
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert float(gradient.abs().max()) > 0


def test_augmentation_draws_from_the_plan_it_is_given() -> None:
    net, x = network(averaged=False).train(), values(8, 2, 4, 4, 4)
    with ep.augment(net, SCALARS, plan=ep.RotationPlan("box", improper=True)) as handle:
        net(x)
        assert handle.rotations is not None
        assert torch.equal(handle.rotations.diagonal(dim1=1, dim2=2).abs(), torch.ones(8, 3).double())
        assert {float(d) for d in torch.linalg.det(handle.rotations)} == {1.0, -1.0}
    with ep.augment(net, SCALARS, plan=ep.RotationPlan("haar")), pytest.raises(ep.EquivProbeError, match="to voxels"):
        net(x)


@pytest.mark.parametrize("schema", [SCALARS, SMOOTH], ids=["exact", "interpolated"])
def test_a_network_in_half_precision(schema: ep.Schema) -> None:
    """Voxel by voxel it is equivariant to the last bit where nothing is interpolated; a convolution is not."""
    for net, broken in ((nn.Conv3d(2, 2, 1), False), (nn.Conv3d(2, 2, 3, padding=1), True)):
        half = net.to(torch.bfloat16).eval()
        with torch.no_grad():
            half.weight.copy_(values(*half.weight.shape, seed=7))
            half.bias.zero_()
        x = values(2, 2, 5, 5, 5, dtype=torch.bfloat16)
        with ep.Probe(half, schema, full=1, cost=None) as probe:
            assert half(x).dtype == torch.bfloat16
        found = probe.compute()["equiv/val/0/L_equiv"]
        assert (found > 0.5) if broken else found < (1e-30 if schema is SCALARS else 0.5)


def test_a_step_that_calls_a_network_with_grids_shows_which() -> None:
    net, x = network(averaged=False), values(2, 2, 5, 5, 5)
    outer = nn.ModuleDict({"net": net, "head": nn.Linear(1, 1)})
    with calls_of(outer) as called:
        outer["net"](x)
    assert called.only(outer) is net


class Voxeliser(nn.Module):
    """Atoms to a density of Gaussians on a fixed box about the origin, with a width along each axis."""

    def __init__(self, widths: tuple[float, float, float], n: int = 12, spacing: float = 0.6) -> None:
        super().__init__()
        self.places = ep.grid(spacing=spacing).coordinates((n, n, n))
        self.widths = torch.tensor(widths).double()

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        apart = (self.places - pos[:, :, None, None, None]) / self.widths
        density = torch.exp(-apart.square().sum(-1) / 2).sum(1, keepdim=True)
        return {"density": density, "self": density.square().mean((1, 2, 3, 4))}


def test_at_the_source_a_round_voxeliser_is_at_the_floor_and_an_oblong_one_is_not() -> None:
    schema = ep.Schema({"pos": ep.point}, {"density": ep.grid(spacing=0.6, interpolation="cubic"), "self": ep.scalar})
    pos, plan = 0.6 * values(2, 4, 3), ep.RotationPlan("klein", 4)
    for widths, broken in (((0.8, 0.8, 0.8), False), ((1.0, 0.8, 0.6), True)):
        model = Voxeliser(widths)
        orbit = ep.twirl(lambda x, m=model: m(x["pos"]), {"pos": pos}, schema, plan, center="origin")
        found = ep.decompose(orbit, structures="leading")
        size = float(orbit.identity["density"].square().mean())
        assert (found.parts["density"].equiv > 100 * found.parts["density"].floor) == broken
        assert (found.parts["density"].equiv > 1e-3 * size) == broken
        assert (found.parts["self"].equiv > 1e-8) == broken
        with ep.Probe(model, schema, plan, full=1, cost=None, center="origin") as probe:
            model.eval()
            model(pos)
        near = probe.compute()["equiv/val/density/L_equiv"]
        assert 0.3 < near / found.parts["density"].equiv < 3
    # Rotated about another centre than the box's, even the round one seems broken: the centre matters.
    aside = pos + torch.tensor([1.0, 0, 0])
    wrong = ep.twirl(lambda x: Voxeliser((0.8, 0.8, 0.8))(x["pos"]), {"pos": aside}, schema, plan)
    assert ep.decompose(wrong, structures="leading").parts["density"].equiv > 1e-3 * size


def test_augmentation_and_twirls_at_the_source() -> None:
    schema = ep.Schema({"pos": ep.point}, {"density": ep.grid(spacing=0.6, interpolation="cubic")})
    model, pos = Voxeliser((0.8, 0.8, 0.8)), (0.6 * values(2, 4, 3)).requires_grad_()
    plain = model(pos)["density"]
    inside = schema.outputs["density"].counted(plain)
    twirled = ep.Twirled(model, schema, ep.RotationPlan("tetrahedral", 1), center="origin")(pos)["density"]
    assert torch.equal(twirled[..., ~inside], plain[..., ~inside])
    # Cubic interpolation of Gaussians 1.3 voxels wide.
    assert float((twirled - plain).detach().abs().max()) < 0.05
    with ep.augment(model.train(), schema, center="origin") as handle:
        rotated = model(pos)["density"]
        assert float((rotated - plain)[..., inside].detach().abs().max()) < 0.1
        assert not torch.equal(rotated, plain)
        assert float((torch.autograd.grad(rotated.sum(), pos)[0]).abs().max()) > 0
        assert bool((handle.rotations.round() != handle.rotations).any())
    exact = ep.Schema({"pos": ep.point}, {"density": ep.grid(spacing=0.6)})
    orbit = ep.twirl(lambda x: model(x["pos"]), {"pos": pos.detach()}, exact, center="origin")
    assert ep.decompose(orbit, structures="leading").equiv < 1e-28


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schema", [SCALARS, SMOOTH], ids=["exact", "interpolated"])
def test_light_mode_does_not_wait_for_the_device(schema: ep.Schema, dtype: torch.dtype) -> None:
    net = network(averaged=False).to("cuda", dtype).train()
    x = values(3, 2, 6, 6, 6).to("cuda", dtype)
    with ep.Probe(net, schema, every=1) as probe:
        net(x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            net(x)
            probe.step(lambda: net(x).float().square().mean())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not probe.failures
    assert probe.compute()["equiv/train/0/L_equiv"] > 0
