"""Steps that move structures into a frame of their own before they call the network, and steps that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.estimation.controls import OWN_FRAME
from equiv_probe.probe import own_frame
from equiv_probe.rotations.haar import haar

from .test_controls import VECTORS, Field, data

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.estimation.controls import Control

BROKEN = (2.0, 1.0, 1.0)
"""``A`` of a network with ``L_equiv = ‖A − tr(A)/3‖² ⟨x²⟩ / 9``."""


def axes(pos: Tensor, *, signed: bool) -> Tensor:
    """Principal axes ``(B, 3, 3)`` as columns; ``signed``: along the third moment, which no sign of theirs changes."""
    x = pos - pos.mean(1, keepdim=True)
    found: Tensor = torch.linalg.eigh(x.mT @ x)[1]
    if not signed:
        return found
    return found * ((x @ found) ** 3).sum(1, keepdim=True).sign()


def of_three_atoms(pos: Tensor) -> Tensor:
    """Gram and Schmidt's axes ``(B, 3, 3)`` of the first three atoms, as columns."""
    first = nn.functional.normalize(pos[:, 1] - pos[:, 0], dim=-1)
    third = nn.functional.normalize(torch.linalg.cross(first, pos[:, 2] - pos[:, 0]), dim=-1)
    return torch.stack([first, torch.linalg.cross(third, first), third], -1)


def control(step: Callable[[], Any], network: nn.Module, schema: ep.Schema = VECTORS) -> Control | None:
    """What the probe says of a step's frame, after two measurements."""
    probe = ep.Probe(network, schema, every=1, cost=None)
    for _ in range(2):
        probe.step(step)
    assert not probe.failures
    found = [one for one in probe.controls if one.name == OWN_FRAME]
    assert len(found) < 2, "it is looked at once"
    return found[0] if found else None


def aligned(network: nn.Module, frame: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """A step whose output is taken back into the frame of its labels: an equivariant map, of whatever network."""

    def step() -> Tensor:
        own = frame(x)
        centred = x - x.mean(1, keepdim=True)
        return (network(centred @ own) @ own.mT - y).square().mean()

    return step


FRAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "principal axes": lambda x: axes(x, signed=True),
    "three atoms": of_three_atoms,
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_own_frame_is_told(frame: str, dtype: torch.dtype) -> None:
    network, x, y = Field(*BROKEN).to(dtype), data().to(dtype), data(seed=1).to(dtype)
    found = control(aligned(network, FRAMES[frame], x, y), network)
    assert found is not None
    assert found.failed
    assert "pos of Field stays the same" in found.sentence
    assert "signs" not in found.sentence
    assert "the step's loss stays, too" in found.sentence


def test_axes_whose_signs_jump_are_told() -> None:
    network, x, y = Field(*BROKEN), data(32), data(32, seed=1)

    def jumping(pos: Tensor) -> Tensor:
        return axes(pos, signed=False)

    # For A diagonal the map A Q^T ... is the same for both signs of an axis: another network makes the loss jump.
    network.matrix.data += 0.3
    found = control(aligned(network, jumping, x, y), network)
    assert found is not None
    assert found.failed
    assert "up to the signs of axes" in found.sentence
    assert "the step's loss changes by" in found.sentence


def test_labels_that_stay_in_the_laboratory_change_the_loss() -> None:
    network, x, y = Field(*BROKEN), data(), data(seed=1)
    own = FRAMES["three atoms"]
    found = control(lambda: (network(x @ own(x)) - y).square().mean(), network)
    assert found is not None
    assert found.failed
    assert "the step's loss changes by" in found.sentence


def test_an_arrow_that_is_left_behind_is_named() -> None:
    """Positions in their own frame, velocities in that of the laboratory: a mistake of the step."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = Field(*BROKEN)

        def forward(self, pos: Tensor, v: Tensor) -> Tensor:
            return self.field(pos) + v

    network, x, v, y = Two(), data(), data(seed=2), data(seed=1)
    schema = ep.Schema({"pos": ep.point, "v": ep.vector}, {"0": ep.vector})
    found = control(lambda: (network(x @ of_three_atoms(x), v) - y).square().mean(), network, schema)
    assert found is not None
    assert "pos of Two stays the same; not so v" in found.sentence


def moved(kind: str, x: Tensor) -> Tensor:
    """What a step does to coordinates that rotate along."""
    if kind == "centred":
        return x - x.mean(1, keepdim=True)
    if kind == "scaled":
        return x / x.norm(dim=-1).mean()
    if kind == "augmented":
        return x @ haar(len(x), torch.Generator().manual_seed(int(torch.randint(99, ())))).mT
    if kind == "noised":  # almost all of what the network sees is noise, which stays where it is
        return x + 200 * torch.randn_like(x)
    assert kind == "as it is"
    return x


@pytest.mark.parametrize("kind", ["as it is", "centred", "scaled", "augmented", "noised"])
def test_other_steps_are_not_accused(kind: str) -> None:
    network, x, y = Field(*BROKEN), data(), data(seed=1)
    found = control(lambda: (network(moved(kind, x)) - y).square().mean(), network)
    assert found is not None
    assert found.passed


def test_arrays_are_part_of_the_batch() -> None:
    network, x, y = Field(*BROKEN), data().numpy(), data(seed=1)

    def step() -> Tensor:
        return aligned(network, FRAMES["three atoms"], torch.from_numpy(x), y)()

    kept = x.copy()
    found = control(step, network)
    assert found is not None
    assert found.failed
    assert (x == kept).all()


def test_nothing_is_said_of_coordinates_that_come_from_elsewhere() -> None:
    """Noise alone: no tensor that the step names rotates, and none that does reaches the network."""
    network = Field(*BROKEN)
    y = data(seed=1)
    assert control(lambda: (network(torch.randn_like(y)) - y).square().mean(), network) is None


def test_the_control_hangs_on_the_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: where nothing is rotated, an own frame is not found."""
    monkeypatch.setattr(own_frame, "haar", lambda count, _: torch.eye(3, dtype=torch.float64).expand(count, 3, 3))
    network, x, y = Field(*BROKEN), data(), data(seed=1)
    found = control(aligned(network, FRAMES["three atoms"], x, y), network)
    assert found is None or not found.failed


def test_the_report_says_it_before_the_number() -> None:
    network, x, y = Field(*BROKEN), data(), data(seed=1)
    probe = ep.Probe(network, VECTORS, every=1, cost=None)
    for _ in range(4):
        probe.step(aligned(network, FRAMES["principal axes"], x, y))
    said = str(probe.report())
    assert said.index("network as it is called") < said.index("L_total")
    assert probe.compute()["equiv/train/loss/L_equiv"] > 0, "the network alone is not equivariant"


def test_the_map_of_both_is_equivariant() -> None:
    """What the report advises: a module whose forward moves into the frame, and back."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Field(*BROKEN)

        def forward(self, pos: Tensor) -> Tensor:
            own = of_three_atoms(pos)
            return self.network((pos - pos.mean(1, keepdim=True)) @ own) @ own.mT

    network, x, y = Both(), data(), data(seed=1)
    probe = ep.Probe(network, VECTORS, every=1, cost=None)
    for _ in range(2):
        probe.step(lambda: (network(x) - y).square().mean())
    found = probe.compute()
    assert abs(found["equiv/train/loss/L_equiv"]) < 1e-10 * found["equiv/train/loss/L_total"]
    assert not [one for one in probe.controls if one.failed]


@pytest.mark.parametrize("probed", [True, False])
def test_batches_and_gradients_are_the_same(probed: bool) -> None:
    """Bits of a training whose batch requires a gradient, and is saved by the graph."""
    weights = []
    for measured in (False, probed):
        network, x, y = Field(*BROKEN), data().requires_grad_(), data(seed=1)
        before, version = x.detach().clone(), x._version
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        probe = ep.Probe(network, VECTORS, every=1 if measured else None)
        for _ in range(3):
            loss = probe.step(aligned(network, FRAMES["three atoms"], x, y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert torch.equal(x.detach(), before)
        assert x._version == version
        weights.append((network.matrix.detach(), x.grad))
    (a, b), (c, d) = weights
    assert torch.equal(a, c)
    assert b is not None
    assert d is not None
    assert torch.equal(b, d)
