"""The floor of a grid model is what its arithmetic rounds, though a grid rotated there and back is the same grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.verdict import verdict

GRIDS = ep.Schema({"input": ep.grid()}, {"0": ep.grid()})


class Symmetric(nn.Module):
    """A convolution whose kernel is averaged over the cube, and tilted by a part ``tilt`` of itself."""

    def __init__(self, inside: int, outside: int, tilt: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        kernel = torch.randn(outside, inside, 3, 3, 3, generator=generator, dtype=torch.float64) / (5 * inside) ** 0.5
        even = ep.grid().rotate(kernel[None].expand(24, *kernel.shape), ep.RotationPlan("cube").rotations()[0]).mean(0)
        even[..., 0, :, :] += tilt * even.abs().mean()
        self.kernel = nn.Parameter(even)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv3d(x, self.kernel, padding=1)


def network(depth: int, seed: int, tilt: float = 0.0, norm: str = "instance") -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [Symmetric(1, 6, tilt, generator)]
    for _ in range(depth):
        layers += [nn.SiLU(), nn.InstanceNorm3d(6) if norm == "instance" else nn.GroupNorm(2, 6)]
        layers += [nn.AvgPool3d(3, 1, 1)] if norm == "group" else []
        layers.append(Symmetric(6, 6, tilt, generator))
    return nn.Sequential(*layers, Symmetric(6, 1, 0.0, generator)).eval()


def said(found: ep.Decomposition) -> tuple[str, float]:
    size = 1.0
    rms, floor = max(found.equiv, 0.0) ** 0.5, found.floor**0.5
    return verdict(rms, floor, 0.0, "", rms / size).kind, rms / max(floor, 1e-300)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("depth", [0, 2, 6])
def test_exactly_symmetric_networks_are_at_round_off(depth: int, norm: str, dtype: torch.dtype) -> None:
    """The error is within a factor of 5 of the floor; before, it was 8 to 36 times as large."""
    for seed in range(4):
        net = network(depth, seed, norm=norm).to(dtype)
        x = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
        kind, ratio = said(ep.decompose(ep.twirl(net, x, GRIDS, center="origin")))
        assert kind == "round-off", (seed, ratio)
        assert ratio < 5


@pytest.mark.parametrize(("dtype", "tilt"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=str)
def test_a_planted_tilt_is_more_than_round_off(dtype: torch.dtype, tilt: float) -> None:
    """Negative control, far smaller than a training leaves behind."""
    for seed in range(4):
        net = network(2, seed, tilt).to(dtype)
        x = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert said(ep.decompose(ep.twirl(net, x, GRIDS, center="origin")))[0] != "round-off"


def test_the_floor_is_that_of_the_precision() -> None:
    """Brute force: the mean squared difference of float32 from float64, to a factor of 5 in the root."""
    for depth in (1, 4):
        net, x = network(depth, 0), torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            truth = net.double()(x.double())
            rounded = net.float()(x).double()
        floor = ep.decompose(ep.twirl(net.float(), x, GRIDS, center="origin")).floor
        ratio = (floor / float((rounded - truth).square().mean())) ** 0.5
        assert 0.2 < ratio < 5, ratio


def test_the_audit_has_the_same_floor_and_touches_no_weight() -> None:
    net, x = network(3, 1).float(), torch.rand(2, 1, 8, 8, 8)
    before = {name: (weight, weight.detach().clone(), weight._version) for name, weight in net.named_parameters()}
    audit = ep.audit_grid(net, x, GRIDS, plan=ep.RotationPlan("klein", 2), progress=False)
    assert (audit.cube.equiv / audit.cube.floor) ** 0.5 < 5
    for name, weight in net.named_parameters():
        same, values, version = before[name]
        assert weight is same
        assert torch.equal(weight, values)
        assert weight._version == version
        assert weight.grad is None


def test_weights_come_back_after_a_failure() -> None:
    net, calls = network(1, 0).float(), [0]
    first = dict(net.named_parameters())

    def fails_late(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 26:  # in the first trip, when its weights are perturbed
            raise RuntimeError("memory")
        return net(x)

    fails_late.__wrapped__ = net  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="memory"):
        ep.twirl(fails_late, torch.rand(1, 1, 6, 6, 6), GRIDS, center="origin")
    assert all(weight is first[name] for name, weight in net.named_parameters())


@pytest.mark.parametrize(
    ("how", "calls"),
    [
        ({"plan": ep.RotationPlan("klein", 1)}, 0),
        ({"plan": "cube"}, 0),
        ({"targets": torch.rand(16, 6, 6, 6)}, 1),
        ({"targets": {"other": torch.rand(16, 1, 6, 6, 6)}}, 1),
        ({"targets": torch.rand(16, 1, 6, 6, 6), "loss": "msee"}, 1),
    ],
    ids=["one replicate", "cube", "shape", "name", "loss"],
)
def test_what_does_not_fit_is_refused_before_the_first_rotation(how: dict[str, object], calls: int) -> None:
    made = [0]

    def model(x: Tensor) -> Tensor:
        made[0] += 1
        return x

    with pytest.raises(ep.EquivProbeError):
        ep.audit_grid(model, torch.rand(16, 1, 6, 6, 6), GRIDS, progress=False, **how)  # type: ignore[arg-type]
    assert made[0] <= calls
