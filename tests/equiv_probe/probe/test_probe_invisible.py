"""Promise 1: training with the probe attached gives, to the last bit, what training without it gives."""

from __future__ import annotations

import copy
import os
import pickle
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import equiv_probe as ep

from ..live_models import FORCES, MUTATING, Energy, Mutating, Noisy, Unseen, mutating_batch


class Noise(Dataset[tuple[Tensor, Tensor]]):
    """Samples that draw from the worker's own random state."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 3) + index / 64
        return x, 0.3 * x + 0.1 * torch.randn(4, 3)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that training leaves behind, as bytes and numbers."""
    tensors = [*model.state_dict().values(), torch.get_rng_state()]
    for state in optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    grads = [p.grad for p in model.parameters()]
    flags = [(name, m.training) for name, m in model.named_modules()]
    numbers = [t.numpy().tobytes() for t in (*tensors, *(g for g in grads if g is not None))]
    numpy = np.random.get_state()[1].tobytes()  # noqa: NPY002 - the global state is what users' code draws from
    return [*numbers, flags, random.getstate(), numpy, sorted(vars(model))]


def train(mode: str, *, workers: int = 0, epochs: int = 20, amp: bool = False) -> tuple[list[Any], list[float], Any]:
    """Train for 160 steps; ``mode`` says how the probe is used."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = Noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(Noise(), batch_size=8, shuffle=True, num_workers=workers)
    probe = ep.Probe(model, FORCES, every=3, full=1, cost=None, seed=5)
    losses = []
    with probe if mode != "without" else nullcontext():
        for _ in range(epochs):
            model.train()
            for x, y in loader:

                def step(x: Tensor = x, y: Tensor = y) -> Tensor:
                    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                        shift = random.random() + np.random.rand()  # noqa: NPY002
                        noise = 0.01 * torch.randn_like(x) + shift
                        return (model(x + noise)["forces"].float() - y).square().mean()

                loss = probe.step(step) if mode == "step" else step()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            model.eval()
            with torch.no_grad():
                losses.append(float(model(x)["forces"].sum()))
    return everything(model, optimizer), losses, probe


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_training_is_bit_identical(mode: str, workers: int) -> None:
    epochs = 20 if workers == 0 else 3
    without, losses, _ = train("without", workers=workers, epochs=epochs)
    found, probed_losses, probe = train(mode, workers=workers, epochs=epochs)
    assert found == without
    assert probed_losses == losses
    assert not probe.failures
    expected = {"hooks": {("train", "forces"), ("val", "forces")}, "step": {("train", "loss"), ("val", "forces")}}
    assert set(probe.running) == expected[mode], "it did measure"


@pytest.mark.parametrize("mode", ["hooks", "step"])
def test_training_under_autocast_is_bit_identical(mode: str) -> None:
    without = train("without", epochs=5, amp=True)[:2]
    *found, probe = train(mode, epochs=5, amp=True)
    assert tuple(found) == without
    assert not probe.failures


def test_a_probe_that_draws_from_the_global_state_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the isolation, training is another."""
    without, _, _ = train("without", epochs=2)
    monkeypatch.setattr("equiv_probe.live.random_state.RandomState.restore", lambda self: None)
    monkeypatch.setattr("equiv_probe.live.isolation.ModuleState.restore", lambda self: None)
    found, _, _ = train("hooks", epochs=2)
    assert found != without


@pytest.mark.parametrize("kind", ["light", "step", "replay"])
def test_gradients_buffers_and_graph_survive_a_measurement_between_forward_and_backward(kind: str) -> None:
    def gradients(probing: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = Noisy()
        for module in model.modules():  # batch norm in eval mode saves its buffers for the backward pass
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        x = torch.randn(8, 4, 3)
        model(x)["forces"].square().mean().backward()  # gradients that are there already
        with ep.Probe(model, FORCES, every=1) if probing else nullcontext() as probe:

            def step() -> Tensor:
                return model(x)["forces"].square().mean()

            loss = probe.step(step) if probing and kind == "step" else step()
            if probing and kind == "replay":
                state = torch.get_rng_state()
                probe.replay(step, ep.RotationPlan("klein", 2))
                torch.set_rng_state(state)  # the replay's own ordinary run draws, as any run of the step does
            loss.backward()
        return [p.grad for p in model.parameters()]

    for plain, probed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, probed)


def test_a_step_may_go_backward_in_replay() -> None:
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(8, 4, 3)

    def step() -> Tensor:
        loss = model(x)["forces"].square().mean()
        loss.backward()
        return loss

    probe = ep.Probe(model, FORCES)
    torch.manual_seed(1)
    step()
    once = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    found = probe.replay(step, ep.RotationPlan("klein", 2))
    assert found.equiv > 0
    for p, gradient in zip(model.parameters(), once, strict=True):
        assert torch.equal(p.grad, gradient), "of the one ordinary run"


def test_the_batch_is_as_the_model_alone_would_leave_it() -> None:
    model, batch = Mutating(), mutating_batch()
    alone = mutating_batch()
    model(alone)
    before = batch["_positions"].clone()
    with ep.Probe(model, MUTATING, every=1) as probe:
        model(batch)
        assert batch.keys() == alone.keys()
        assert torch.equal(batch["_positions"], before)
        found = probe.replay(lambda: model(batch)["energy"].square().mean(), ep.RotationPlan("klein", 2))
    assert batch.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(batch[name], value), name
    assert found.equiv > 0


def test_hooks_are_gone_after_removal_and_after_an_error() -> None:
    model = Noisy()
    hooks = lambda: (len(model._forward_hooks), len(model._forward_pre_hooks), "forward" in vars(model))  # noqa: E731
    probe = ep.Probe(model, FORCES, every=1)
    with pytest.raises(ZeroDivisionError), probe:
        model(torch.randn(8, 4, 3) / (1 // 0))
    assert hooks() == (0, 0, False)
    runs = Unseen(0)

    def failing_in_replay() -> Tensor:
        loss = model(torch.ones(8, 4, 3))["forces"].sum()
        if runs.next():
            raise ZeroDivisionError
        return loss

    for at in (0, 1):  # in a replay, and in the ordinary run
        runs = Unseen(at)
        with pytest.raises(ZeroDivisionError):
            probe.replay(failing_in_replay)
        assert hooks() == (0, 0, False)
    with probe.attach():
        with pytest.raises(RuntimeError):
            model(torch.randn(8, 5, 3))  # the user's own mistake, in forward
        assert model(torch.randn(8, 4, 3))["forces"].shape == (8, 4, 3)
        assert probe.running["train", "forces"].everything.count == 8
    augmentation = ep.augment(model, FORCES)
    augmentation.remove()
    assert hooks() == (0, 0, False)


def test_the_users_error_in_a_step_is_raised_and_only_ours_is_kept_back() -> None:
    model, x = Noisy(), torch.randn(8, 4, 3)

    def divide() -> float:
        return 1 / 0

    with ep.Probe(model, FORCES, every=1) as probe:
        probe.step(lambda: model(x)["forces"].square().mean())
        with pytest.raises(ZeroDivisionError):
            probe.step(divide)
        runs = Unseen()

        def unrepeatable() -> Tensor:
            return model(torch.full((8, 4, 3), float(runs.next())))["forces"].sum()

        with pytest.warns(UserWarning, match="could not measure"):
            assert probe.step(unrepeatable).ndim == 0
        assert "something else when it is run again" in probe.failures[0]


def test_reentry_and_two_probes() -> None:
    model, x = Noisy(), torch.randn(8, 4, 3)
    with ep.Probe(model, FORCES, every=1) as first, ep.Probe(model, FORCES, every=1) as second:
        model(x)
        assert model.calls == 1, "attributes of the model are put back"
        first.step(lambda: second.step(lambda: model(x)["forces"].square().mean()))
    assert first.running["train", "forces"].everything.count == 8
    assert second.running["train", "forces"].everything.count == 8, "nothing of the other's passes"
    assert first.running["train", "loss"].everything.count == 1
    assert second.running["train", "loss"].everything.count == 1


def test_copies_and_pickles_of_the_model_carry_no_probe() -> None:
    model, x = Noisy(), torch.randn(8, 4, 3)
    with ep.Probe(model, FORCES, every=1) as probe:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(x)
    assert not probe.running


def test_inference_mode_and_autograd_forces() -> None:
    model = Energy().eval()
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    with ep.Probe(model, schema, full=1, plan=ep.RotationPlan("klein", 4)) as probe:
        model(x)
    assert probe.compute()["equiv/val/forces/L_equiv"] > 0
    noisy = Noisy().eval()
    with (
        ep.Probe(noisy, FORCES, full=1, cost=None, plan=ep.RotationPlan("klein", 4)) as probe,
        torch.inference_mode(),
    ):
        output = noisy(x.float())["forces"]
        assert output.is_inference()
        probe.step(lambda: noisy(x.float())["forces"].square().mean())
    found = probe.compute()
    assert found["equiv/val/forces/L_equiv"] > 0
    assert found["equiv/val/loss/L_equiv"] > 0


@pytest.mark.slow
def test_a_compiled_model() -> None:
    def run(probing: bool) -> tuple[list[Tensor], int, ep.Probe | None]:
        torch.manual_seed(0)
        torch.compiler.reset()
        compilations = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
            compilations.append(graph)
            return graph.forward

        model, x = Noisy(), torch.randn(8, 4, 3)
        compiled = torch.compile(model, backend=backend)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step() -> Tensor:
            return compiled(x)["forces"].square().mean()

        with ep.Probe(compiled, FORCES, every=2) if probing else nullcontext() as probe:
            for _ in range(6):
                loss = probe.step(step) if probing else step()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                compiled(x)
        return [value.clone() for value in model.state_dict().values()], len(compilations), probe

    weights, compilations, _ = run(False)
    found, probed_compilations, probe = run(True)
    assert all(torch.equal(a, b) for a, b in zip(weights, found, strict=True))
    assert probed_compilations == compilations > 0, "measuring compiles nothing"
    assert not probe.failures
    assert probe.running["train", "loss"].everything.count == 3
    assert probe.running["train", "forces"].everything.count == 24


@pytest.mark.slow
@pytest.mark.parametrize("how", ["inside a compiled module", "compiled in place"])
def test_a_probed_module_within_compiled_code_reads_as_the_plain_one(how: str) -> None:
    x, found = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1)), []
    for compiling in (False, True):
        torch.manual_seed(0)
        torch.compiler.reset()
        model = Noisy().eval()
        outer: Any = nn.Sequential(model) if how.startswith("inside") else model
        if compiling and how.startswith("inside"):
            outer = torch.compile(outer, backend="eager")
        elif compiling:
            model.compile(backend="eager")
        with ep.Probe(model, FORCES, ep.RotationPlan("klein", 2), full=1, cost=None) as probe:
            for _ in range(3):
                outer(x)
            replay = probe.replay(lambda m=outer: m(x)["forces"].square().mean())
        found.append((probe.compute()["equiv/val/forces/L_equiv"], replay.equiv, replay.total))
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5)
    assert found[0][0] > 0


def test_a_data_parallel_wrapper_of_one_process() -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ["MASTER_PORT"] = str(random.randrange(20000, 60000))
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    try:
        weights = []
        for probing in (False, True):
            torch.manual_seed(0)
            model = nn.parallel.DistributedDataParallel(Noisy())
            x = torch.randn(8, 4, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with ep.Probe(model, FORCES, every=1) if probing else nullcontext() as probe:
                for _ in range(3):
                    step = lambda m=model, x=x: m(x)["forces"].square().mean()  # noqa: E731
                    loss = probe.step(step) if probing else step()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    model(x)
            weights.append([value.clone() for value in model.state_dict().values()])
        assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
        assert {key for key, _ in ((k, v) for k, v in probe.running.items())} == {
            ("train", "loss"),
            ("train", "forces"),
        }
    finally:
        torch.distributed.destroy_process_group()
