"""What a probe's numbers must have passed: steps with a memory, outputs that see no rotation, neighbours, losses."""

from __future__ import annotations

import types
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.controls import SEES_ROTATION, TRANSLATION

from ..live_models import Unseen

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS = ep.Schema({"pos": ep.point}, {"0": ep.vector})
PLAN = ep.RotationPlan("tetrahedral", 2)


def data(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Field(nn.Module):
    """``f(x) = A (x − x̄)``: equivariant for A = 1, else ``L_equiv = ‖A − tr(A)/3‖² ⟨x²⟩ / 9`` per component."""

    def __init__(self, *diagonal: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.diag(torch.tensor(diagonal or (1.0, 1.0, 1.0), dtype=torch.float64)))

    def forward(self, pos: Tensor) -> Tensor:
        return (pos - pos.mean(1, keepdim=True)) @ self.matrix.T


def failed(probe: ep.Probe) -> list[str]:
    return [one.name for one in probe.controls if one.passed is False]


# Steps with a memory -------------------------------------------------------------------------------------------------


class Meter:
    """A user's own running mean."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def mixed(self, loss: Tensor) -> Tensor:
        mixed = loss if self.value is None else 0.5 * loss + 0.5 * self.value
        self.value = mixed.detach()
        return mixed


class Remembering(nn.Module):
    """A module that mixes its loss with the last one, kept in one way or another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = Field(), how
        self.register_buffer("mean", torch.tensor(7.0, dtype=torch.float64))
        self.table: Any = defaultdict(dict)
        self.queue: deque[Tensor] = deque([torch.tensor(7.0)], maxlen=3)
        self.meter = Meter()
        self.array = np.array([7.0])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = (self.net(x) - y).square().mean()
        if self.how == "buffer":
            loss = 0.5 * loss + 0.5 * self.mean.clone()
            self.mean.copy_(loss.detach())
        elif self.how == "attribute":
            loss = 0.5 * loss + 0.5 * getattr(self, "last", 7.0)
            self.last = loss.detach()
        elif self.how == "nested dict":
            loss = 0.5 * loss + 0.5 * self.table["train"].get("y", 7.0)
            self.table["train"]["y"] = loss.detach()
        elif self.how == "queue":
            loss = 0.5 * loss + 0.5 * torch.stack(list(self.queue)).mean()
            self.queue.append(loss.detach())
        elif self.how == "object":
            loss = self.meter.mixed(loss)
        elif self.how == "array":
            loss = 0.5 * loss + 0.5 * float(self.array[0])
            self.array[0] = float(loss)
        return loss


WAYS = ["buffer", "attribute", "nested dict", "queue", "object", "array"]


@pytest.mark.parametrize("how", WAYS)
def test_a_module_with_a_memory_is_as_equivariant_as_its_network(how: str) -> None:
    plain, probed = Remembering(how), Remembering(how)
    x, y = data(), data(seed=1)
    probe = ep.Probe(probed.net, VECTORS, every=1)
    for _ in range(3):
        assert torch.equal(probe.step(lambda: probed(x, y)), plain(x, y)), "the user's own numbers"
    found = probe.compute(window=False)
    assert abs(found["equiv/train/loss/L_equiv"]) < 1e-12 * found["equiv/train/loss/L_total"]
    assert not failed(probe)
    assert not probe.failures


def closures() -> dict[str, Callable[[Field], Callable[[], Tensor]]]:
    x, y = data(), data(seed=1)

    def variable(net: Field) -> Callable[[], Tensor]:
        last = torch.tensor(7.0)

        def step() -> Tensor:
            nonlocal last
            last = (0.5 * (net(x) - y).square().mean() + 0.5 * last).detach() + 0 * net.matrix.sum()
            return last

        return step

    def held(place: Any, read: Callable[[Any], Any], write: Callable[[Any, Any], object]) -> Any:
        def made(net: Field) -> Callable[[], Tensor]:
            def step() -> Tensor:
                loss = 0.5 * (net(x) - y).square().mean() + 0.5 * read(place)
                write(place, loss.detach())
                return loss

            return step

        return made

    return {
        "variable": variable,
        "dict": held({"last": 7.0}, lambda d: d["last"], lambda d, v: d.update(last=v)),
        "list": held([7.0], lambda d: d[-1], lambda d, v: d.append(v)),
        "namespace": held(types.SimpleNamespace(v=7.0), lambda d: d.v, lambda d, v: setattr(d, "v", v)),
        "tensor": held(torch.tensor(7.0, dtype=torch.float64), Tensor.clone, lambda d, v: d.copy_(v)),
        "past torch": held(torch.tensor(7.0, dtype=torch.float64), Tensor.clone, lambda d, v: d.data.copy_(v)),
    }


@pytest.mark.parametrize("how", closures())
def test_a_closure_with_a_memory_is_as_equivariant_as_its_network(how: str) -> None:
    plain, step = closures()[how](Field()), None
    net = Field()
    step = closures()[how](net)
    probe = ep.Probe(net, VECTORS, every=1)
    for _ in range(3):
        assert torch.equal(probe.step(step), plain()), "what the step remembers is what its own runs left"
    found = probe.compute(window=False)
    assert abs(found["equiv/train/loss/L_equiv"]) < 1e-12 * found["equiv/train/loss/L_total"]


def test_without_putting_back_the_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: nothing is put back, and the control of replay refuses."""
    monkeypatch.setattr("equiv_probe.probe.recorded.RecordedStep.rewind", lambda self: self.before.restore())
    probed, x, y = Remembering("nested dict"), data(), data(seed=1)
    with pytest.raises(ep.EquivProbeError, match="run again with the very outputs"):
        ep.Probe(probed.net, VECTORS, every=1).step(lambda: probed(x, y))


def test_a_memory_out_of_reach_is_refused() -> None:
    x, y, net, drift = data(), data(seed=1), Field(), Unseen()
    with pytest.raises(ep.EquivProbeError, match="run again with the very outputs"):
        ep.Probe(net, VECTORS).replay(lambda: (net(x) - y).square().mean() * drift.next())
    with pytest.raises(ep.EquivProbeError, match="run again with the very outputs"):
        ep.Probe(net, VECTORS, every=1).step(lambda: (net(x) - y).square().mean() + drift.next())


@pytest.mark.parametrize("how", ["apart", "rebound", "in place", "array", "input in place"])
def test_a_step_that_writes_into_its_batch_reads_what_one_that_does_not_reads(how: str) -> None:
    net, batch = Field(2.0, 1.0, 1.0), {"pos": data(), "y": 3 * data(seed=1), "w": np.array([3.0])}
    kept = {name: value.clone() if isinstance(value, Tensor) else value.copy() for name, value in batch.items()}

    def step() -> Tensor:
        y = batch["y"]
        if how == "rebound":
            batch["y"] = y = y / 3
        elif how == "in place":
            y /= 3
        elif how == "array":
            y, batch["w"][:] = y / float(batch["w"][0]), 0.5 * batch["w"]
        elif how == "input in place":
            y = y / 3
            batch["pos"] -= batch["pos"].mean(1, keepdim=True)
        else:
            y = y / 3
        return (net(batch["pos"]) - y).square().mean()

    def truth() -> Tensor:
        return (net(kept["pos"]) - kept["y"] / 3).square().mean()

    found, right = ep.Probe(net, VECTORS).replay(step, PLAN), ep.Probe(net, VECTORS).replay(truth, PLAN)
    assert found.total == pytest.approx(right.total, rel=1e-12)
    assert found.equiv == pytest.approx(right.equiv, rel=1e-9)
    assert found.equiv > 0.01
    if how == "in place":
        assert torch.equal(batch["y"], kept["y"] / 3), "as the user's own run left it"
    assert found.result.requires_grad
    found.result.backward()  # no graph has lost what it saved
    assert torch.isfinite(net.matrix.grad).all()


# What the outputs depend on ------------------------------------------------------------------------------------------


class Blind(nn.Module):
    """Looks at something else than the coordinates it is given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(3, 3, dtype=torch.float64)
        self.cache: Tensor | None = None

    def forward(self, pos: Tensor, features: Tensor) -> Tensor:
        if self.how == "cache":
            self.cache = self.layer(pos).detach() if self.cache is None else self.cache
            return self.cache
        if self.how == "features":
            return self.layer(features)
        if self.how == "detached":
            return self.layer(torch.zeros_like(pos))
        return self.layer(pos - pos.mean(1, keepdim=True)) + 0 * features


BLIND = ep.Schema({"pos": ep.point, "features": ep.fixed}, {"0": ep.vector})


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize(("how", "blind"), [("cache", 1), ("features", 1), ("detached", 1), ("sees", 0)])
def test_outputs_that_do_not_depend_on_the_rotated_inputs(how: str, blind: int, mode: str) -> None:
    net, x = Blind(how), data()
    with ep.Probe(net, BLIND, every=1) as probe:
        if mode == "hooks":
            net(x, x.clone())
        else:
            probe.step(lambda: net(x, x.clone()).square().mean())
    assert [name for name in failed(probe) if name == "sees the rotation"] == ["sees the rotation"] * blind
    if blind:
        report = probe.report()
        top = report.document().headline
        assert top.severity == "bad"
        assert "Not to be believed" in top.answer
        assert "do not depend on the rotated inputs" in top.answer
        assert not any("do not depend" in note for note in report.notes), "in one place alone"


@pytest.mark.parametrize(
    ("shape", "failures"), [((8, 5, 4), 0), ((8, 4), 1), ((8, 5, 1), 1)], ids=["features", "properties", "charges"]
)
@pytest.mark.parametrize("seeing", [True, False])
def test_features_of_elements_are_no_failure_beside_an_output_that_changes(
    shape: tuple[int, ...], failures: int, seeing: bool
) -> None:
    """One-hot elements that a network hands on; what it says of a structure, or one number of an atom, does depend."""

    class Handing(nn.Module):
        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            forces = pos - pos.mean(1, keepdim=True) if seeing else torch.ones_like(pos)
            return {"forces": forces, "kinds": torch.ones(shape).to(pos)}

    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector, "kinds": ep.scalar})
    with ep.Probe(Handing(), schema, every=1) as probe:
        probe.model(data())
    assert failed(probe).count("sees the rotation") == (failures if seeing else 1)


@pytest.mark.parametrize("both", [False, True])
def test_an_output_of_nothing_but_zeros_is_no_failure_beside_one_that_changes(both: bool) -> None:
    """As a Hessian that nobody asked for; where all outputs are zero, nothing sees the rotation."""

    class Padded(nn.Module):
        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            forces = pos - pos.mean(1, keepdim=True)
            return {"forces": 0 * forces.abs() if both else forces, "hessian": torch.zeros(1).to(pos)}

    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector, "hessian": ep.fixed})
    with ep.Probe(Padded(), schema, every=1) as probe:
        probe.model(data())
    assert failed(probe) == ["sees the rotation"] * both
    said = [one.sentence for one in probe.controls if one.name == "sees the rotation" and one.passed is None]
    assert both or "hessian" in said[0]


def test_an_invariant_network_that_is_exact_sees_the_rotation() -> None:
    """Bit for bit the same at the rotations of a cube, and yet no blind one: a displacement moves it."""

    class Volume(nn.Module):
        def forward(self, grid: Tensor) -> Tensor:
            return grid.amax((1, 2, 3, 4))

    with ep.Probe(Volume().eval(), ep.Schema({"grid": ep.grid()}, {"0": ep.scalar}), full=1) as probe:
        probe.model(torch.rand(4, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert "sees the rotation" not in failed(probe)


class Mixing(nn.Module):
    """Invariant energies of single structures, and then something of the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.norm = how, nn.BatchNorm1d(1, dtype=torch.float64)

    def forward(self, pos: Tensor, mask: Tensor | None = None) -> Tensor:
        size = (pos - pos.mean(1, keepdim=True)).square().sum(-1)
        energy = size.mean(1) if mask is None else (size * mask).sum(1)
        if self.how == "batch norm":
            return self.norm(energy[:, None])[:, 0]
        if self.how == "pooling":
            return energy * (1 + 0.3 * torch.tanh(energy.mean() - 3))
        if self.how == "size of the batch":
            return energy / len(pos)
        return energy


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize(
    ("how", "training", "coupled"),
    [
        ("batch norm", True, True),
        ("batch norm", False, False),
        ("pooling", False, True),
        ("size of the batch", False, True),
        ("none", True, False),
        ("none", False, False),
    ],
)
def test_outputs_that_depend_on_other_structures(how: str, training: bool, coupled: bool, mode: str) -> None:
    net, x = Mixing(how).train(training), data()
    schema = ep.Schema({"pos": ep.point}, {"0": ep.scalar})
    with ep.Probe(net, schema, every=1, full=1, cost=None) as probe:
        if mode == "hooks":
            net(x)
        else:
            probe.step(lambda: net(x).square().mean())
    evaluated_in_train_mode = training and mode == "step"  # hooks measure in eval mode
    expected = coupled and (evaluated_in_train_mode or not training)
    assert ("does not depend on its batch" in failed(probe)) == expected
    found = probe.compute(window=False)
    assert all(abs(value) < 1e-12 for name, value in found.items() if name.endswith("L_equiv")), "it is invariant"


# Losses --------------------------------------------------------------------------------------------------------------


class Diffusion(nn.Module):
    """A module that puts out its own loss, of noise that it draws."""

    def __init__(self, reduce: bool, name: str | None = None) -> None:
        super().__init__()
        self.net, self.reduce, self.name = Field(2.0, 1.0, 1.0), reduce, name

    def forward(self, pos: Tensor) -> Any:
        noise = torch.randn_like(pos)
        loss = (self.net(pos + 0.1 * noise) - noise).square().mean((1, 2))
        loss = loss.mean() if self.reduce else loss
        return {self.name: loss} if self.name else loss


@pytest.mark.parametrize("mode", ["hooks", "step"])
@pytest.mark.parametrize("reduce", [True, False])
def test_a_module_that_puts_out_its_loss_is_refused_and_its_network_named(reduce: bool, mode: str) -> None:
    model, x = Diffusion(reduce).eval(), data()
    probe = ep.Probe(model, ep.Schema({"pos": ep.point}, {"0": ep.scalar}), every=1, full=1, cost=None)
    use = (lambda: probe.step(lambda: model(x).mean())) if mode == "step" else (lambda: model(x))
    with probe, pytest.raises(ep.EquivProbeError, match=r"ep\.Probe\(model\.net\)"):
        use()
    inner = ep.Probe(model.net, VECTORS, every=1, full=1)
    inner.step(lambda: model(x).mean())
    assert inner.compute()["equiv/val/loss/L_equiv"] > 1e-3, "the network named is the one to measure"


def test_a_loss_by_name_is_refused_and_an_energy_is_not() -> None:
    x = data()
    model = Diffusion(True, "loss").train()
    with pytest.raises(ep.EquivProbeError, match="zero by construction"):
        ep.Probe(model, ep.Schema({"pos": ep.point}, {"loss": ep.scalar}), every=1).step(lambda: model(x)["loss"])
    net = Mixing("none").eval()
    probe = ep.Probe(net, ep.Schema({"pos": ep.point}, {"0": ep.scalar}), full=1, cost=None)
    probe.step(lambda: (net(x) - 1).square().mean())
    assert not failed(probe)


def test_a_negative_number_of_a_loss_that_is_not_convex_is_explained() -> None:
    net, x = Field(3.0, -1.0, 1.0), data(16)
    probe = ep.Probe(net, VECTORS, PLAN, every=1, full=1, cost=None)
    for _ in range(8):
        probe.step(lambda: -(net(x)).square().mean(), stage="val")
    (control,) = [one for one in probe.controls if one.name == "L_equiv is not negative"]
    assert control.passed is None
    assert "not convex" in control.sentence
    assert any("not convex" in spot for spot in probe.report().blind_spots)


def test_a_negative_number_of_a_convex_loss_is_a_failed_control() -> None:
    """As where the sums were spoiled by something that no control saw."""
    net, x, y = Field(2.0, 1.0, 1.0), data(), data(seed=1)
    probe = ep.Probe(net, VECTORS, every=1, full=1, cost=None)
    for _ in range(4):
        probe.step(lambda: (net(x) - y).square().mean(), stage="val")
    assert "L_equiv is not negative" not in failed(probe)
    wrong = torch.full((50,), -0.5, dtype=torch.float64) + 0.01 * torch.randn(50, dtype=torch.float64)
    probe.running.add("val", "loss", wrong, torch.ones_like(wrong), torch.ones_like(wrong))
    assert "L_equiv is not negative" in failed(probe)
    assert "no convex loss allows" in probe.report().document().headline.answer


def aligned(p: Tensor, y: Tensor) -> Tensor:
    """The squared distance after the best rotation (Kabsch): not convex."""
    p, y = p - p.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    values = torch.linalg.svdvals(p.mT @ y)
    return (p.square().sum((1, 2)) + y.square().sum((1, 2)) - 2 * values.sum(-1)).mean()


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "squared": (lambda p, y: (p - y).square().mean(), False),
    "absolute": (lambda p, y: (p - y).abs().mean(), False),
    "norm": (lambda p, y: (p - y).norm(), False),
    "concave": (lambda p, y: -(p - y).square().mean(), True),
    "overlap": (lambda p, y: 1 - 2 * (p * y).sigmoid().sum() / (p.sigmoid().sum() + y.sigmoid().sum()), True),
    "saturating": (lambda p, y: (p - y).square().mean((1, 2)).tanh().mean(), True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_jensen_tells_a_loss_that_is_not_convex(name: str) -> None:
    """Never of a convex one; of others wherever ``L_equiv`` comes out negative, which is what has to be explained."""
    loss, may_be_negative = LOSSES[name]
    net, x, y = Field(3.0, -1.0, 1.0), 3 * data(), data(seed=1)
    found = ep.Probe(net, VECTORS).replay(lambda: loss(net(x), y), PLAN)
    assert bool(found.bent["loss"]) <= may_be_negative
    assert (found.equiv >= -1e-12) or (may_be_negative and bool(found.bent["loss"]))


def test_a_loss_after_alignment_keeps_what_it_says() -> None:
    """An equivariant network reads zero, whatever the loss."""
    net, x, y = Field(), data(), data(seed=1)
    found = ep.Probe(net, VECTORS).replay(lambda: aligned(net(x), y), PLAN)
    assert abs(found.equiv) < 1e-10 * found.total


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("anchored", "center", "passed"),
    [(0.0, "centroid", True), (0.3, "centroid", False), (0.3, "origin", None)],
)
def test_a_network_that_knows_where_its_structure_is_is_told(
    anchored: float, center: str, passed: bool | None, training: bool
) -> None:
    """What hangs on the place of a structure shows under no rotation about its centroid; structures are moved, once."""

    class Anchored(nn.Module):
        def forward(self, pos: Tensor) -> Tensor:
            return pos - pos.mean(-2, keepdim=True) + anchored * pos

    net, x = Anchored().train(training), data()
    with ep.Probe(net, ep.Schema({"pos": ep.point}, {"0": ep.vector}), every=1, full=1, center=center) as probe:
        net(x)
    (control,) = [one for one in probe.controls if one.name == TRANSLATION]
    assert control.passed is passed
    assert ("the model depends on where a structure is" in control.sentence) is (passed is False)
    assert ("not moved" in control.sentence) is (passed is None)


class Pairs(nn.Module):
    """A sound energy of distances, and ``off`` times what is not."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.weight, self.off = nn.Parameter(torch.ones(())), off

    def forward(self, pos: Tensor) -> Tensor:
        heights = (pos - pos.mean(1, keepdim=True))[..., 2].square().sum(1)
        return self.weight * (torch.cdist(pos, pos).sum((1, 2)) + self.off * heights)


@pytest.mark.parametrize("off", [0.0, 1.0])
@pytest.mark.parametrize(
    ("sizes", "state"), [([1, 5, 5, 1, 4], "passed"), ([5, 1, 5], "passed"), ([1, 1, 1], "FAILED")]
)
@pytest.mark.parametrize("mode", ["step", "hooks"])
def test_single_atoms_are_not_looked_at_until_there_are_others(
    mode: str, sizes: list[int], state: str, off: float
) -> None:
    """They have no orientation: the first batch accuses nobody and clears nobody, and a run of them alone does not."""
    net = Pairs(off)
    with ep.Probe(net, ep.Schema({"pos": ep.point}, {"0": ep.scalar}), every=1, full=2) as probe:
        for k, size in enumerate(sizes):
            x = torch.randn(4, size, 3, generator=torch.Generator().manual_seed(k))
            if mode == "step":
                probe.step(lambda x=x: (net(x) - 1).square().mean())  # type: ignore[misc]
            else:
                net(x)
    found = [one for one in probe.controls if one.name == SEES_ROTATION]
    assert [one.state for one in found] == [state]
    assert ("nothing was rotated" in found[0].sentence) == (state == "FAILED")
