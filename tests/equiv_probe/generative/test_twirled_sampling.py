"""The twirled model in a sampler: what it costs, copies in few passes, conventions of flows, random frames as noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.testing import LinearField

from ..live.test_no_waiting import NoReading
from ..live_models import FORCES, Planted
from .samplers import Egnn, euler, quiet

FIELD = ep.Schema(inputs={"x": ep.point}, outputs={"v": ep.vector})
ONE, TWELVE = ep.RotationPlan("haar", 1), ep.RotationPlan("tetrahedral", 1)


class Counting(nn.Module):
    """A velocity network with every angular degree, which counts passes and the structures in them."""

    def __init__(self, output: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 12)).double()
        self.output, self.passes, self.copies = output, 0, 0

    def forward(self, x: Tensor, t: Tensor) -> Any:
        self.passes += 1
        self.copies += len(x)
        v = self.layers(torch.cat([x.flatten(1), t[:, None]], 1)).reshape(x.shape)
        extra = {"dict": {"v": v}, "None": (v, None), "features": {"v": v, "features": v.square().sum(-1)}}
        return extra.get(self.output, v)

    def count(self) -> tuple[int, int]:
        """Passes and structures since the last time."""
        found, self.passes, self.copies = (self.passes, self.copies), 0, 0
        return found


def batch(count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 4, 3, generator=generator, dtype=torch.float64)
    return x, torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("output", ["tensor", "dict", "None", "features"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_random_frame_costs_one_evaluation(output: str, grad: bool) -> None:
    """The unrotated model is asked at the first call, and wherever it returns more than the schema names."""
    network, (x, t) = Counting(output), batch()
    schema = ep.Schema({"x": ep.point}, {"0": ep.vector}) if output == "None" else FIELD
    twirled = ep.Twirled(network, schema, ONE, "random", center="origin")
    with torch.set_grad_enabled(grad):
        twirled(x, t)
        assert network.count() == (2, 10)
        found = twirled(x, t)
        passes = 2 if output == "features" else 1
        assert network.count() == (passes, 5 * passes)
        own = network(x, t)
    assert type(found) is type(own)
    if output == "features":
        assert torch.equal(found["features"], own["features"])


@pytest.mark.parametrize("grad", [False, True])
def test_copies_go_through_the_network_together(grad: bool) -> None:
    network, (x, t) = Counting(), batch()
    twirled = ep.Twirled(network, FIELD, TWELVE, center="origin")
    with torch.set_grad_enabled(grad):
        twirled(x, t)
        network.count()
        found = twirled(x, t)
        assert network.count() == (1, 60)
        one_by_one = sum(network(x @ g.mT, t) @ g for g in TWELVE.rotations()[0]) / 12
    assert (found - one_by_one).abs().max() < 1e-14
    assert found.requires_grad is grad


def test_stacked_copies_have_the_gradients_of_single_ones() -> None:
    network, (x, t) = Counting(), batch()
    twirled = ep.Twirled(network, FIELD, TWELVE, center="origin")
    x = x.requires_grad_()
    twirled(x, t)
    network.count()
    inputs = [x, *network.parameters()]
    found = torch.autograd.grad(twirled(x, t).square().sum(), inputs)
    assert network.count() == (1, 60)
    mean = sum(network(x @ g.mT, t) @ g for g in TWELVE.rotations()[0]) / 12
    expected = torch.autograd.grad(mean.square().sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-12
    assert all(a.abs().max() > 1e-3 for a in found[:-1])  # a bias of the velocity is averaged away


def test_a_network_that_mixes_its_batch_is_asked_copy_by_copy() -> None:
    class Mixing(Counting):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x - x.mean((0, 1)), t)

    network, (x, t) = Mixing(), batch()
    twirled = ep.Twirled(network, FIELD, TWELVE, center="origin")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            twirled(x, t)
            network.count()
            found = twirled(x, t)
            assert network.count() == (12, 60)
            expected = sum(network(x @ g.mT, t) @ g for g in TWELVE.rotations()[0]) / 12
            network.count()
        assert (found - expected).abs().max() < 1e-14


def test_velocity_noise_and_data_predictions(matrix: Tensor) -> None:
    """Vectors about any centre; data are points about the origin, where a constant place is averaged away."""

    class Flow(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"vector": x @ matrix.mT + 1.0, "data": x @ matrix.mT + 1.0}

    schema = ep.Schema({"x": ep.point}, {"vector": ep.vector, "data": ep.point})
    x = batch()[0]
    for mode, plan in (("fixed", TWELVE), ("random", TWELVE)):
        found = ep.Twirled(Flow(), schema, plan, mode, center="origin")(x)
        for name in ("vector", "data"):
            assert (found[name] - matrix.trace() / 3 * x).abs().max() < 1e-12, name
    found = ep.Twirled(Flow(), schema, TWELVE, center="centroid")(x)
    centre = x.mean(1, keepdim=True)
    assert (found["data"] - (matrix.trace() / 3 * (x - centre) + centre @ matrix.mT + 1)).abs().max() > 1e-2
    assert (found["vector"] - matrix.trace() / 3 * (x - centre)).abs().max() < 1e-12


@pytest.mark.parametrize("mode", ["fixed", "random"])
def test_nothing_is_read_back_from_the_device(mode: str) -> None:
    network, (x, t) = Counting(), batch()
    twirled = ep.Twirled(network, FIELD, TWELVE, mode, center="origin")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            twirled(x, t)
            with NoReading():
                twirled(x, t)


@pytest.mark.slow
def test_random_frames_rotate_along_with_the_noise() -> None:
    """The distribution is equivariant, and so is the path if its frames rotate; drawn anew, it owes much to them."""
    network = Counting()
    for plan in (ONE, ep.RotationPlan("haar", 3)):
        flow = euler(ep.Twirled(network, FIELD, plan, "random", center="origin"))
        along = quiet(flow, (6, 4, 3))
        assert along.verdict == "round-off"
        assert along.rms < 1e-13
        assert any("rotated along" in note for note in along.notes)
        fixed = quiet(flow, (6, 4, 3), frames="fixed")
        assert fixed.verdict == "broken"
        assert any("same in every run" in note for note in fixed.notes)
    assert quiet(euler(network), (6, 4, 3)).verdict == "broken"
    single = ep.Twirled(network, FIELD, ONE, "random", center="origin")
    alone = quiet(euler(lambda x, t: single(x[None], t[:1])[0]), (4, 3))
    assert alone.verdict == "round-off"


@pytest.mark.slow
def test_more_rotations_leave_less_deviation() -> None:
    """Fixed rotations: what they do not average is left, less for every design of higher degree."""
    network = Counting()
    found = [quiet(euler(network), (6, 4, 3)).rms]
    for design in ("klein", "tetrahedral", "octahedral", "icosahedral"):
        twirled = ep.Twirled(network, FIELD, ep.RotationPlan(design, 1), center="origin")
        found.append(quiet(euler(twirled), (6, 4, 3)).rms)
    assert found[0] > 1.5 * found[1]
    assert found[1] > found[2] > found[3] > 5 * found[4]
    assert found[4] < 1e-2 * found[0]


def test_an_audit_leaves_the_rotations_alone() -> None:
    """Fixed rotations that are first drawn inside an audit are the plan's own, and shift no later noise."""
    network, (x, t) = Counting(), batch()
    plan = ep.RotationPlan("icosahedral", 1)
    for mode in ("fixed", "random"):
        twirled = ep.Twirled(network, FIELD, plan, mode, center="origin")

        def sampler(noise: Tensor, model: nn.Module = twirled) -> Tensor:
            y = noise
            for k in range(4):
                y = y + 0.1 * model(y, y.new_full((len(y),), k / 4)) + 0.3 * torch.randn_like(y)
            return y

        audit = quiet(sampler, (5, 4, 3))
        assert audit.rms < 1e-3, "the later noise is the same in every run"
        assert audit["end points"].nondeterminism == 0
        assert [one["call"] for one in audit.draws] == ["randn_like"]
    fixed = ep.Twirled(network, FIELD, plan, center="origin")
    quiet(euler(fixed), (5, 4, 3))
    assert torch.equal(fixed(x, t), ep.Twirled(network, FIELD, plan, center="origin")(x, t))


def test_flat_batches_and_shared_frames() -> None:
    """Frames by the index of the structure; and one frame for all where the audit rotates all samples alike."""

    class Flat(nn.Module):
        def forward(self, x: Tensor, batch: Tensor) -> Tensor:
            mean = torch.zeros(3, 3, dtype=x.dtype).index_add(0, batch, x)[batch]
            return torch.tanh(x * torch.tensor([1.0, 2.0, 0.3], dtype=x.dtype)) + mean[:, [1, 2, 0]]

    index = torch.arange(3).repeat_interleave(torch.tensor([5, 3, 4]))
    random = ep.Twirled(Flat(), FIELD, ONE, "random", center="origin")

    def flow(model: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            for _ in range(4):
                x = x - 0.1 * model(x, index)
            return x

        return run

    assert quiet(flow(Flat()), (12, 3), batch=index).verdict == "broken"
    assert quiet(flow(random), (12, 3), batch=index).verdict == "round-off"
    assert quiet(flow(random), (12, 3), batch=index, per_sample=False).verdict == "round-off"
    doubled = ep.Twirled(Counting(), FIELD, ONE, "random", center="origin")

    def guidance(x: Tensor) -> Tensor:
        both = doubled(torch.cat([x, x]), x.new_zeros(2 * len(x)))
        return x + both[: len(x)] + 0.5 * both[len(x) :]

    with pytest.raises(ep.EquivProbeError, match="per_sample=False"):
        quiet(guidance, (5, 4, 3))
    assert quiet(guidance, (5, 4, 3), per_sample=False).verdict == "round-off"


def test_an_equivariant_network_is_unchanged_by_it() -> None:
    torch.manual_seed(0)
    network, (x, t) = Egnn(), batch()
    for mode in ("fixed", "random"):
        twirled = ep.Twirled(network, FIELD, TWELVE, mode, center="origin")
        assert (twirled(x, t) - network(x, t)).abs().max() < 1e-13


def test_std_in_one_pass(matrix: Tensor) -> None:
    planted, x = LinearField(matrix), batch()[0]
    plan = ep.RotationPlan("icosahedral", 2)
    with torch.no_grad():
        twirled = ep.Twirled(Planted(planted), FORCES, plan, std=True)
        twirled(x)
        _, std = twirled(x)
    exact = sum(planted.equiv(one)["forces"] for one in x) / len(x)
    assert abs(float(std["forces"].square().mean()) / exact - 1) < 1e-10
