"""A probe doubts what it guessed, and what a network draws itself: neither may pass for broken symmetry in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.controls import ELSEWHERE
from equiv_probe.estimation.loss_verdict import verdict_of_loss
from equiv_probe.probe.call_checks import CHANCE, FITS

F = torch.float64
POS = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(0), dtype=F) + 1.0
STRETCH = torch.tensor([1.0, 2.0, 3.0], dtype=F)


def pull(pos: Tensor) -> Tensor:
    d = pos[:, :, None] - pos[:, None]
    return (d * torch.exp(-d.norm(dim=-1, keepdim=True))).sum(2)


def invariants(pos: Tensor) -> Tensor:
    return pull(pos).norm(dim=-1, keepdim=True) * STRETCH


def own_frame(pos: Tensor) -> Tensor:
    centred = pos - pos.mean(1, keepdim=True)
    along = centred @ torch.linalg.svd(centred, full_matrices=False)[2].mT
    return along * torch.sign(along.pow(3).sum(1, keepdim=True))


def stress(pos: Tensor) -> dict[str, Tensor]:
    s = pull(pos).mT @ pull(pos)
    return {"stress": torch.stack([s[:, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))], 1)}


OUTPUTS = {
    "three classes of atoms": invariants,
    "three levels": lambda pos: {"levels": invariants(pos).sum(1)},
    "own frame": own_frame,
    "charge and force": lambda pos: torch.cat([pull(pos).norm(dim=-1, keepdim=True), pull(pos)], -1),
    "flat forces": lambda pos: pull(pos).flatten(1),
    "another order": stress,
    "broken": lambda pos: pull(pos) * STRETCH,
    "broken, beside a bias": lambda pos: 0.1 * pull(pos) * STRETCH + 5.0 * STRETCH,
    "sound": pull,
}


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, pos: Tensor) -> Tensor | dict[str, Tensor]:
        return OUTPUTS[self.kind](pos)  # type: ignore[no-untyped-call, no-any-return]


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("three classes of atoms", ep.scalar),
        ("three levels", ep.scalar),
        ("own frame", ep.scalar),
        ("charge and force", ep.concat(1, ep.vector)),
        ("flat forces", ep.concat((8, ep.vector))),
        ("another order", ep.voigt("xx xy xz yy yz zz")),
        ("broken", None),
        ("broken, beside a bias", None),
        ("sound", None),
    ],
)
def test_an_output_that_was_guessed_wrong_is_doubted(kind: str, right: object) -> None:
    with ep.Probe(Net(kind).eval(), every=1, full=1, budget=None) as probe, torch.no_grad():
        probe.model(POS)
    doubts = [one for one in probe.report().controls if one.name == FITS]
    is_wrong = right is not None
    assert [one.passed for one in doubts] == [False] * is_wrong, "the negative control: a broken vector stays one"
    assert all(f"as ep.{right} it" in one.sentence for one in doubts)
    error = next(v for k, v in probe.compute(window=False).items() if k.endswith("/L_equiv"))
    assert (error > 1e-3) == (kind != "sound")
    if is_wrong:
        name = next(iter(probe.schema.outputs))  # type: ignore[union-attr]
        declared = ep.Schema({"pos": ep.point}, {name: right})
        with ep.Probe(Net(kind).eval(), declared, every=1, full=1, budget=None) as probe, torch.no_grad():
            probe.model(POS)
        assert probe.compute(window=False)[f"equiv/val/{name}/L_equiv"] < 1e-24
        assert not any(one.name == FITS for one in probe.report().controls)


class Gradient(nn.Module):
    """Three channels that are a vector: of a grid, exactly equivariant under the rotations of the cube."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.roll(-1, axis) - x.roll(1, axis) for axis in (2, 3, 4)], 1)


@pytest.mark.parametrize(
    ("net", "is_wrong"), [(Gradient(), True), (nn.Conv3d(1, 3, 3, padding=1).double(), False)], ids=["vector", "broken"]
)
def test_channels_that_were_guessed_to_be_scalars_are_doubted(net: nn.Module, is_wrong: bool) -> None:
    x = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0), dtype=F)
    with ep.Probe(net.eval(), every=1, full=1, budget=None) as probe, torch.no_grad():
        net(x)
    doubts = [one.sentence for one in probe.report().controls if one.name == FITS]
    assert len(doubts) == is_wrong
    assert all("ep.grid(ep.vector)" in one for one in doubts)


class Draws(nn.Module):
    """Equivariant in law: noise, or a rotation that is undone, is drawn in its own call."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.drop = what, nn.Dropout(0.3)

    def forward(self, pos: Tensor) -> Tensor:
        if self.what == "noise":
            return pull(pos + 0.3 * torch.randn_like(pos))
        if self.what == "rotations":
            q = torch.linalg.qr(torch.randn(len(pos), 3, 3, dtype=F))[0]
            return (pull(pos @ q.mT) * STRETCH) @ q
        weights = torch.ones_like(pos[..., :1])
        return pull(pos) * (self.drop(weights) if self.what == "dropout" else weights)


@pytest.mark.parametrize("what", ["noise", "rotations", "dropout", "nothing"])
def test_directions_that_a_network_draws_itself_are_named(what: str) -> None:
    """A control, since their error cannot be told from broken symmetry: that of a sound network is not zero here."""
    net = Draws(what).train()
    probe = ep.Probe(net, every=1)
    torch.manual_seed(0)
    probe.step(lambda: (net(POS) - POS).square().mean())
    failed = [one for one in probe.report().controls if one.name == CHANCE and one.failed]
    assert len(failed) == (what in {"noise", "rotations"})
    assert all("(4, 8, 3)" in one.sentence or "(4, 3, 3)" in one.sentence for one in failed)
    share = probe.compute(window=False)["equiv/train/loss/share"]
    assert (abs(share) > 1e-3) == (what in {"noise", "rotations"}), "the negative control: dropout rotates along"


@pytest.mark.parametrize(
    ("equiv", "stderr", "said"),
    [(-0.2, 0.008, "negative"), (-0.2, 0.3, "error bar"), (-1e-15, 1e-16, "rounding"), (0.2, 0.3, "error bar")],
)
def test_a_negative_share_is_not_called_rounding(equiv: float, stderr: float, said: str) -> None:
    found = verdict_of_loss(equiv, stderr, 1.0, 1e-14, 1e-16)
    assert said in found.sentence
    assert (found.kind == "round-off") == (said == "rounding")


class Seeing(nn.Module):
    """Invariants of its inputs, and something that is no invariant of what it finds elsewhere."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.register_buffer("start", POS[:, :, [1, 2, 0]].clone())
        self.batch: dict[str, Tensor] = {}
        self.fetch = lambda: self.batch["pos"]
        self.context: Tensor | None = None

    def forward(self, pos: Tensor) -> Tensor:
        if self.where == "written by the pass":
            self.context = pos
        seen = {"attribute": self.context, "closure": self.batch.get("pos"), "written by the pass": self.context}.get(
            self.where, torch.zeros_like(pos) if self.where == "unused" else self.start
        )
        assert seen is not None
        return pull(pos).square().sum((1, 2)) + (seen * STRETCH).tanh().sum((1, 2))


@pytest.mark.parametrize("where", ["attribute", "closure", "written by the pass", "unused", "buffer"])
def test_coordinates_that_come_in_beside_the_inputs_fail_a_control(where: str) -> None:
    """Written by the pass itself they rotate, which shows; a buffer is the network's own, whatever it holds."""
    net = Seeing(where)
    before = POS.clone()

    def step() -> Tensor:
        net.batch["pos"] = net.context = POS
        return (net(POS) - 1).square().mean()

    probe = ep.Probe(net, every=1)
    probe.step(step)
    failed = [one.sentence for one in probe.report().controls if one.name == ELSEWHERE]
    assert len(failed) == (where in {"attribute", "closure"})
    assert all("'pos'" in one for one in failed)
    share = probe.compute(window=False)["equiv/train/loss/share"]
    assert (share > 1e-3) == (where == "written by the pass"), "what was measured is the zero that the control doubts"
    assert torch.equal(POS, before)
    assert net.context is POS


def test_grids_of_a_probe_say_what_right_angles_do_not_show() -> None:
    """A quartic weight has the symmetry of the cube, and no more."""

    class Quartic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            line = (torch.arange(6, dtype=F) - 2.5) ** 4
            return x * torch.exp(-(line[:, None, None] + line[:, None] + line) / 50)

    with ep.Probe(Quartic().eval(), every=1, full=1, budget=None) as probe:
        probe.model(torch.rand(2, 1, 6, 6, 6, dtype=F))
    assert probe.compute(window=False)["equiv/val/0/L_equiv"] == 0
    assert any("between right angles" in one for one in probe.report().blind_spots)
    with ep.Probe(Net("sound").eval(), every=1, full=1, budget=None) as probe:
        probe.model(POS)
    assert not any("right angles" in one for one in probe.report().blind_spots)


class Squares(nn.Module):
    """The six components of a symmetric tensor, in the order ``pairs``."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.i, self.j = ([("xyz").index(pair[k]) for pair in order.split()] for k in (0, 1))

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        arms = pos - pos.mean(-2, keepdim=True)
        return {"polarizability": (arms.mT @ arms)[..., self.i, self.j]}


@pytest.mark.parametrize("order", ["xx yy zz xy xz yz", "xx yy zz xz yz xy", "xx yy zz xz xy yz", "xx xy yy xz yz zz"])
def test_a_tensor_in_any_usual_order_is_not_accused_without_a_word(order: str) -> None:
    with ep.Probe(Squares(order).eval(), every=1, full=1, budget=None) as probe, torch.no_grad():
        probe.model(POS)
    (doubt,) = [one for one in probe.report().controls if one.name == FITS]
    assert f'ep.voigt("{order}")' in doubt.sentence
