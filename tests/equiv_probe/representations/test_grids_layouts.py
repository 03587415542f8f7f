"""Grids as users have them: classes and masks, no axis of channels, points beside them, other resolutions, any name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import equiv_probe as ep
from equiv_probe.schema.grid_plans import fitting_plan

from ..probe.test_grids_live import cube_of, values


def rotated_back(net: Any, *fields: Tensor) -> Tensor:
    """The orbit over the 24 rotations, ``(24, *S)``, by NumPy's rotates alone: voxels carry their numbers along."""
    numbers = torch.arange(fields[0].shape[-1] ** 3).reshape(fields[0].shape[-3:])
    found = []
    for *copies, places in zip(*(cube_of(field) for field in (*fields, numbers)), strict=True):
        output = net(*copies)
        flat = torch.empty_like(output).flatten(-3)
        flat[..., places.flatten()] = output.flatten(-3)
        found.append(flat.reshape(output.shape))
    return torch.stack(found)


def spread(orbit: Tensor) -> float:
    """``L_equiv`` without labels."""
    return float((orbit - orbit.mean(0)).square().mean())


class Masked(nn.Module):
    """A convolution of what a mask leaves, with or without an axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 1, 3, padding=1).double()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        given = x.double() * mask
        return self.layer(given) if x.ndim == 5 else self.layer(given[:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("channels", [True, False])
def test_masks_classes_and_fields_without_channels_rotate_along(channels: bool, declared: bool) -> None:
    net = Masked().eval()
    x, mask = values(3, 1, 5, 5, 5), values(3, 1, 5, 5, 5, seed=1) > 0
    field = ep.grid(channel_axis=channels)
    schema = ep.Schema({"x": field, "mask": field}, {"0": field})
    if not channels:
        x, mask = x[:, 0], mask[:, 0]
        schema = schema if declared else ep.Schema({"x": field}, {})
    for number in (x, (2 * x).round().to(torch.int16)):
        truth = spread(rotated_back(net, number, mask))
        with ep.Probe(net, schema if declared or not channels else None, full=1, budget=None) as probe:
            net(number, mask)
        assert probe.schema is not None
        assert (dict(probe.schema.inputs), dict(probe.schema.outputs)) == (
            dict.fromkeys(("x", "mask"), field),
            {"0": field},
        )
        assert probe.compute()["equiv/val/0/L_equiv"] == pytest.approx(truth, rel=1e-12)
        assert probe.compute()["equiv/val/0/L_equiv_stderr"] > 0, "over three structures"
        orbit = ep.twirl(lambda given: net(*given.values()), {"x": number, "mask": mask}, schema_of(field))
        assert ep.decompose(orbit, structures="leading").equiv == pytest.approx(truth, rel=1e-12)
        left_behind = ep.Schema({"x": field, "mask": ep.fixed}, {"0": field})
        with ep.Probe(net, left_behind, full=1, budget=None) as control:
            net(number, mask)
        assert control.compute()["equiv/val/0/L_equiv"] != pytest.approx(truth, rel=1e-2)


def schema_of(field: Any) -> ep.Schema:
    return ep.Schema({"x": field, "mask": field}, {"0": field})


@torch.no_grad()
def test_a_field_without_channels_is_found_beside_one_with_them() -> None:
    layer = nn.Conv3d(1, 1, 3, padding=1).double().eval()
    net, x = nn.Sequential(layer, nn.Flatten(1, 2)), values(3, 1, 5, 5, 5)
    with ep.Probe(net.eval(), full=1, budget=None) as probe:
        net(x)
    assert probe.schema is not None
    assert probe.schema.outputs == {"0": ep.grid(channel_axis=False)}
    assert probe.compute()["equiv/val/0/L_equiv"] == pytest.approx(spread(rotated_back(layer, x)), rel=1e-12)


def test_labels_of_classes_rotate_with_the_data() -> None:
    x = values(2, 5, 5, 5)
    schema = ep.Schema({"x": ep.grid()}, {}, {"classes": ep.grid(channel_axis=False), "mask": ep.grid()})
    transform, same = ep.RandomRotation(schema), 0
    for convert in (lambda t: t, lambda t: t.numpy()):
        sample = {"x": convert(x), "classes": convert((x[0] > 0).long()), "mask": convert(x > 1)}
        for _ in range(6):
            rotated = {name: torch.as_tensor(value) for name, value in transform(sample).items()}
            assert torch.equal((rotated["x"][0] > 0).long(), rotated["classes"])
            assert torch.equal(rotated["x"] > 1, rotated["mask"])
            same += torch.equal(rotated["x"], x)
        assert isinstance(transform(sample)["classes"], type(sample["classes"]))
    assert same < 6, "control: most of them were rotated"
    smooth = ep.Schema({"x": ep.grid(), "mask": ep.grid(interpolation="linear")}, {})
    with pytest.raises(ep.EquivProbeError, match="whole numbers only as scalars, without interpolation"):
        ep.RandomRotation(smooth)({"x": x, "mask": x > 0})


@pytest.mark.parametrize("interpolation", [None, "linear", "cubic"])
def test_rotating_without_channels_is_rotating_one_channel(interpolation: Any) -> None:
    x, plan = values(3, 4, 5, 6), ep.RotationPlan("box" if interpolation is None else "haar", seed=1)
    g = plan.rotations().reshape(-1, 3, 3)[1]
    options = {"interpolation": interpolation, "spacing": (1.0, 0.8, 1.3)}
    bare, full = ep.grid(**options, channel_axis=False), ep.grid(**options)
    assert torch.equal(bare.rotate(x, g), full.rotate(x[:, None], g)[:, 0])
    assert torch.equal(bare.rotate_back(x, g), full.rotate_back(x[:, None], g)[:, 0])
    assert not torch.equal(bare.rotate(x, g), bare.within(x))
    assert fitting_plan(ep.RotationPlan(), ep.Schema({"x": ep.grid(channel_axis=False)}, {}), {"x": x}).design == "box"
    numpy = ep.twirl(lambda field: field * np.arange(5), np.arange(125.0).reshape(1, 1, 5, 5, 5))
    assert (numpy.schema.inputs, numpy.schema.outputs) == ({"0": ep.grid()}, {"0": ep.grid()}), (
        "arrays are inferred too"
    )
    with pytest.raises(ep.EquivProbeError, match="one scalar field"):
        ep.grid(ep.vector, channel_axis=False)


def test_points_beside_a_grid_stay_where_they_are_in_the_box() -> None:
    def at_atoms(given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The field's values at the atoms, which lie on voxels, counted from the box's centre: invariant."""
        places = (given["pos"] + 2).round().long().clamp(0, 4).unbind(-1)
        found = [field[0][tuple(p[b] for p in places)].sum() for b, field in enumerate(given["field"])]
        return {"energy": torch.stack(found)}

    class Net(nn.Module):
        def forward(self, field: Tensor, pos: Tensor) -> dict[str, Tensor]:
            return at_atoms({"field": field, "pos": pos})

    field = values(3, 1, 5, 5, 5)
    pos = torch.randint(-2, 3, (3, 7, 3), generator=torch.Generator().manual_seed(0)).double()
    schema = ep.Schema({"field": ep.grid(), "pos": ep.point}, {"energy": ep.scalar})
    orbit = ep.twirl(at_atoms, {"field": field, "pos": pos}, schema, center="origin")
    assert ep.decompose(orbit, structures="leading").equiv < 1e-28
    with ep.Probe(Net().eval(), schema, full=1, center="origin", budget=None) as probe:
        probe.model(field, pos)
    assert probe.compute()["equiv/val/energy/L_equiv"] < 1e-28
    with pytest.raises(ep.EquivProbeError, match='Fix: center="origin"'):
        ep.twirl(at_atoms, {"field": field, "pos": pos}, schema)
    with pytest.raises(ep.EquivProbeError, match='Fix: center="origin"'):
        ep.Probe(probe.model, schema).replay(lambda: probe.model(field, pos)["energy"].square().mean())


def test_what_is_no_grid_for_certain_is_asked() -> None:
    x = values(2, 1, 8, 8, 8)
    cases = {
        "coarser": ({"x": x}, {"y": values(2, 4, 2, 2, 2)}, r"could be a voxel grid or ep\.scalar"),
        "coarser, no channels": ({"x": x}, {"y": values(2, 4, 4, 4)}, r"ep\.grid\(channel_axis=False\)"),
        "a vector's name": ({"x": x}, {"forces": values(2, 3, 8, 8, 8)}, r"ep\.grid\(ep\.vector\)"),
        "no channels": ({"x": x[:, 0]}, {"y": x[:, 0]}, r"ep\.grid\(channel_axis=False\)"),
        "no channels, six": ({"x": values(2, 6, 6, 6)}, {"y": x}, r"ep\.grid\(channel_axis=False\)"),
    }
    for inputs, outputs, message in cases.values():
        with pytest.raises(ep.EquivProbeError, match=message):
            ep.Schema.infer(inputs, outputs)
    found = ep.Schema.infer(
        {"mask": x, "z": x}, {"charges": x, "pooled": values(2, 4, 1, 1, 1), "logits": values(2, 4)}
    )
    assert found.inputs == {"mask": ep.grid(), "z": ep.grid()}, "whatever atoms call so"
    assert found.outputs == {"charges": ep.grid(), "pooled": ep.scalar, "logits": ep.scalar}
    beside = ep.Schema.infer({"pos": values(2, 9, 3), "mask": x}, {"energy": values(2)})
    assert beside.inputs["mask"] == ep.fixed, "beside points, by its name, as ever"


def test_an_output_of_another_number_of_structures_is_refused() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(0, keepdim=True)

    with (
        pytest.raises(ep.EquivProbeError, match="one grid for each structure"),
        ep.Probe(Mean().eval(), ep.Schema({"x": ep.grid()}, {"0": ep.grid()}), full=1) as probe,
    ):
        probe.model(values(3, 1, 4, 4, 4))


@torch.no_grad()
@pytest.mark.parametrize("given", ["indices", "probabilities", "callable"])
def test_segmentation_has_its_classes_on_the_channels(given: str) -> None:
    torch.manual_seed(0)
    net, x = nn.Conv3d(1, 3, 3, padding=1).double().eval(), values(2, 1, 5, 5, 5)
    y = torch.randint(0, 3, (2, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    target = y if given != "probabilities" else values(2, 3, 5, 5, 5, seed=2).softmax(1)
    own = rotated_back(net, x)
    orbit = ep.twirl(net, x, ep.Schema({"0": ep.grid()}, {"0": ep.grid()}))
    loss: Any = "cross-entropy"
    if given == "callable":
        loss = lambda p, t: cross_entropy(p, t, reduction="none").flatten(1).mean(1)  # noqa: E731
    found = ep.decompose(orbit, target, loss, structures="leading")
    assert found.total == pytest.approx(float(torch.stack([cross_entropy(h, target) for h in own]).mean()), rel=1e-12)
    assert found.mean == pytest.approx(float(cross_entropy(own.mean(0), target)), rel=1e-12)
    assert found.equiv > 1e-3, "control: the mean is not the network's own output"
    assert len(found.per_structure["equiv"]) == 2
    assert not found.notes, "it depends on no frame"
    if given != "callable":
        ball = ep.grid(ball=True)
        within = ep.decompose(ep.twirl(net, x, ep.Schema({"0": ball}, {"0": ball})), target, loss, structures="leading")
        inside = ball.counted(x)
        assert inside is not None
        rotated = rotated_back(net, x * inside)
        each = torch.stack([cross_entropy(h, target, reduction="none") for h in rotated])
        assert within.total == pytest.approx(float(each[..., inside].mean()), rel=1e-12)


@pytest.mark.parametrize("voxels", [True, False])
def test_indices_of_classes_that_come_with_the_call(voxels: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(1, 3, 3, padding=1).double()

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            del y
            logits = self.layer(x)
            return {"logits": logits if voxels else logits.tanh().mean((2, 3, 4))}

    torch.manual_seed(0)
    net, x, y = Net(), values(2, 1, 5, 5, 5), torch.randint(0, 3, (2, 5, 5, 5) if voxels else (2,))
    schema = ep.Schema({"x": ep.grid()}, {"logits": ep.grid() if voxels else ep.scalar})
    with ep.Probe(net.eval(), schema, full=1, targets={"logits": "y"}, loss="cross-entropy", budget=None) as probe:
        net(x, y)
    with torch.no_grad():
        own = rotated_back(net.layer, x)
        own = own if voxels else own.tanh().mean((3, 4, 5))
        total = torch.stack([cross_entropy(h, y) for h in own]).mean()
    found = probe.compute()
    assert found["equiv/val/logits/L_total"] == pytest.approx(float(total), rel=1e-12)
    assert found["equiv/val/logits/L_mean"] == pytest.approx(float(cross_entropy(own.mean(0), y)), rel=1e-12)


class ChannelsLast(nn.Module):
    """A network that reads its input, and gives its output, with the channels last in memory, by ``view``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2).double()
        self.mixing = nn.Conv3d(2, 2, 3, padding=1).double()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *box = x.shape
        rows = x.permute(0, 2, 3, 4, 1).view(-1, channels)
        hidden = self.layer(rows).view(batch, *box, channels).permute(0, 4, 1, 2, 3)
        output = self.mixing(hidden).permute(0, 2, 3, 4, 1).contiguous()
        return output.permute(0, 4, 1, 2, 3)


def test_a_step_that_views_what_lies_channels_last() -> None:
    net, x = ChannelsLast(), values(3, 2, 5, 5, 5).contiguous(memory_format=torch.channels_last_3d)
    y = values(3 * 125, 2, seed=1)
    with pytest.raises(RuntimeError, match="view size is not compatible"):  # control: another layout will not do
        net(x.contiguous())
    loss = lambda: (net(x).permute(0, 2, 3, 4, 1).view(-1, 2) - y).square().mean()  # noqa: E731
    with torch.no_grad():
        own = rotated_back(lambda v: net(v.contiguous(memory_format=torch.channels_last_3d)), x)
    labels = y.view(3, 5, 5, 5, 2).permute(0, 4, 1, 2, 3)
    found = ep.Probe(net).replay(loss)
    assert found.total == pytest.approx(float((own - labels).square().mean()), rel=1e-12)
    assert found.equiv == pytest.approx(spread(own), rel=1e-12)
    probe = ep.Probe(net, every=1)
    with ep.augment(net, plan=ep.RotationPlan("cube")):
        for _ in range(3):
            probe.step(loss).backward()
    assert not probe.failures
    twirled = ep.Twirled(net)(x)
    assert torch.allclose(twirled.permute(0, 2, 3, 4, 1).view(-1, 2), own.mean(0).permute(0, 2, 3, 4, 1).reshape(-1, 2))
    orbit = ep.twirl(net, x, ep.Schema({"0": ep.grid()}, {"0": ep.grid()}))
    assert ep.decompose(orbit).equiv == pytest.approx(spread(own), rel=1e-12)
