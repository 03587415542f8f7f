"""The training path on torch's ``meta`` device: what would mix devices, or wait for one, fails on any machine.

Meta tensors have shapes and no numbers: they refuse operations with tensors of the CPU, and refuse to be read. So a
forgotten ``.to(device)`` and a hidden ``.item()`` raise here as they would slow down, or break, a run on a GPU. What
comes out is compared in shape, type and device; numbers are for the other tests.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.copies import Copies

from ..live.test_no_waiting import CASES, FORCES, flat

if TYPE_CHECKING:
    from collections.abc import Callable

META = torch.device("meta")
GRIDS = ep.Schema({"density": ep.grid()}, {"out": ep.grid()})
SMOOTH = ep.Schema({"density": ep.grid(interpolation="linear")}, {"out": ep.grid(interpolation="linear")})


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, density: Tensor) -> dict[str, Tensor]:
        return {"out": self.layer(density)}


class Flat(nn.Module):
    """Structures of a flat batch, with edges and an index."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False).double()

    def forward(self, pos: Tensor, batch: Tensor, edge_index: Tensor) -> dict[str, Tensor]:
        arrows = self.layer(pos[edge_index[0]] - pos[edge_index[1]])
        return {"forces": torch.zeros_like(pos).index_add(0, edge_index[0], arrows)}


MODELS: dict[str, tuple[Callable[[], nn.Module], ep.Schema, tuple[Tensor, ...]]] = {
    **{name: case for name, case in CASES.items() if name not in {"planted", "flat batch"}},
    "flat batch": (Flat, FORCES, flat()),
    "grids": (Convolution, GRIDS, (torch.zeros(4, 2, 6, 6, 6),)),
    "boxes": (Convolution, GRIDS, (torch.zeros(4, 2, 6, 4, 5),)),
    "interpolated grids": (Convolution, SMOOTH, (torch.zeros(4, 2, 6, 6, 6),)),
}


def on_meta(name: str) -> tuple[nn.Module, ep.Schema, tuple[Tensor, ...]]:
    make, schema, inputs = MODELS[name]
    return make().to(META).train(), schema, tuple(value.detach().to(META) for value in inputs)


def loss_of(outputs: dict[str, Tensor]) -> Tensor:
    return torch.stack([value.square().mean() for value in outputs.values()]).sum()


def measured(probe: ep.Probe) -> None:
    """Something was, on the device, and nothing went wrong on the way."""
    assert not probe.failures
    assert probe.running
    for running in probe.running.values():
        assert running.structures > 0
        assert running.sums.first.device == META


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stack", [None, True], ids=["found out", "stacked"])
def test_hooks_in_light_mode(name: str, stack: bool | None) -> None:
    model, schema, inputs = on_meta(name)
    with ep.Probe(model, schema, every=1, stacked=stack) as probe:
        for _ in range(3):
            loss_of(model(*inputs)).backward()
    measured(probe)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_that_is_replayed(name: str) -> None:
    model, schema, inputs = on_meta(name)
    with ep.Probe(model, schema, every=1) as probe:
        for _ in range(3):
            loss = probe.step(lambda: loss_of(model(*inputs)))
            assert (loss.device, loss.shape) == (META, ())
            loss.backward()
    measured(probe)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_augmentation(name: str) -> None:
    model, schema, inputs = on_meta(name)
    plain = {key: value.shape for key, value in model(*inputs).items()}
    with ep.augment(model, schema), ep.Probe(model, schema, every=1) as probe:
        for _ in range(3):
            found = model(*inputs)
            assert {key: value.shape for key, value in found.items()} == plain
            assert all(value.device == META for value in found.values())
            loss_of(found).backward()
    measured(probe)


@pytest.mark.parametrize("mode", ["fixed", "random"])
@pytest.mark.parametrize("name", MODELS)
def test_averaged_models(name: str, mode: Any) -> None:
    model, schema, inputs = on_meta(name)
    plain = {key: (value.shape, value.dtype) for key, value in model(*inputs).items()}
    plan = ep.RotationPlan("cube" if name == "grids" else "box" if name == "boxes" else "klein", replicates=None)
    twirled = ep.Twirled(model, schema, plan, mode)
    for _ in range(2):
        found = twirled(*inputs)
        assert {key: (value.shape, value.dtype) for key, value in found.items()} == plain
        loss_of(found).backward()


@pytest.mark.slow
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", ["autograd forces", "voigt, irreps, axial", "interpolated grids"])
def test_an_orbit(name: str, stacked: bool) -> None:
    model, schema, (given,) = on_meta(name)
    (key,) = schema.inputs
    plain = model(given)

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        (value,) = inputs.values()
        if not stacked:
            return model(value)
        found = model(value.flatten(0, 1))
        return {name: out.unflatten(0, value.shape[:2]) for name, out in found.items()}

    plan = ep.RotationPlan("tetrahedral", replicates=2)
    orbit = ep.twirl(predict, {key: given}, schema, plan, stacked=stacked)
    for out, like in plain.items():
        assert orbit.means[out].device == META
        assert orbit.means[out].shape == (2, *like.shape)


@pytest.mark.parametrize("name", ["autograd forces", "voigt, irreps, axial", "grids", "interpolated grids"])
def test_the_penalty(name: str) -> None:
    model, schema, inputs = on_meta(name)
    plan = ep.RotationPlan("cube", subset=2) if name == "grids" else None
    penalty = ep.equivariance_penalty(model, inputs[0], schema=schema, plan=plan)
    assert (penalty.device, penalty.shape) == (META, ())
    penalty.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Planted(nn.Module):
    """A model with a fault: it reads a number back, or mixes in a tensor of the CPU."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.layer, self.fault = nn.Linear(3, 3).double(), fault

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        forces = self.layer(pos)
        if self.fault == "reads":
            forces = forces * pos.sum().item()
        if self.fault == "mixes":
            forces = forces * torch.ones(3, dtype=torch.float64)
        if self.fault == "copies":
            forces = forces.to("cpu")
        return {"forces": forces}


@pytest.mark.parametrize("fault", ["reads", "mixes", "copies"])
def test_a_model_with_a_fault_fails_here(fault: str) -> None:
    """Negative control for what the device catches; the same model without the fault passes."""
    x = torch.zeros(4, 5, 3, dtype=torch.float64, device=META)
    for planted in ("", fault):
        model = Planted(planted).to(META).train()
        with (
            pytest.raises((RuntimeError, NotImplementedError), match="meta") if planted else nullcontext(),
            ep.Probe(model, FORCES, every=1) as probe,
        ):
            probe.step(lambda model=model: (model(x)["forces"] - x).square().mean()).backward()


@pytest.mark.parametrize("fault", ["reads", "mixes"])
def test_a_probe_with_a_fault_fails_here(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a hidden wait, and a constant left on the CPU, planted in the probe itself."""
    original = Copies.rotated_back

    def faulty(self: Copies, *args: Any) -> dict[str, Tensor]:
        found = original(self, *args)
        if fault == "reads":
            float(found["forces"].sum())
        return {name: value * torch.ones(3, dtype=value.dtype) for name, value in found.items()}

    monkeypatch.setattr(Copies, "rotated_back", faulty)
    model, schema, inputs = on_meta("flat batch")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"), ep.Probe(model, schema, every=1):
        model(*inputs)
