"""A network that several threads call, copies and files of a network under a probe, and code compiled around it."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
POSITIONS = ep.Schema(inputs={"pos": ep.vector}, outputs={"0": ep.vector})


class Meeting(nn.Module):
    """Waits inside its call where it is told to, and notes the mode that every call saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.modes: list[bool] = []
        self.wait: Callable[[Tensor], object] = lambda _: None

    def forward(self, pos: Tensor) -> Tensor:
        self.wait(pos)
        self.modes.append(self.training)
        return self.layer(pos)


def test_calls_of_other_threads_are_left_alone() -> None:
    """One is inside while another is due: neither is measured, and nobody sees the network in another mode."""
    net, inside, leave = Meeting(), threading.Event(), threading.Event()
    probe = ep.Probe(net, POSITIONS, every=1).attach()

    def wait(x: Tensor) -> None:
        if float(x.sum()) == 0:  # the other thread's
            inside.set()
            leave.wait(10)

    net.wait = wait
    other = threading.Thread(target=lambda: net(torch.zeros(4, 3)))
    other.start()
    inside.wait(10)
    net(torch.ones(4, 3))
    leave.set()
    other.join()
    assert net.modes[:2] == [True, True], "two calls, in the mode that the user gave"
    assert probe.schedules["call", "train"].step == 1, "the one that came while another was inside does not count"
    net(torch.ones(5, 3))
    assert probe.running["train", "0"].structures == 2, "the first, measured once it was alone, and this one"
    assert net.training
    probe.remove()


def test_who_comes_during_a_measurement_waits_for_its_end() -> None:
    net, measuring, seen = Meeting(), threading.Event(), []
    probe = ep.Probe(net, POSITIONS, every=1).attach()

    def wait(x: Tensor) -> None:
        if threading.current_thread() is threading.main_thread():
            if not net.training and not measuring.is_set():
                measuring.set()
                started.wait(10)
        else:
            seen.append(net.training)

    net.wait, started = wait, threading.Event()

    def call() -> None:
        measuring.wait(10)
        started.set()
        net(torch.zeros(4, 3))

    other = threading.Thread(target=call)
    other.start()
    net(torch.ones(4, 3))
    other.join()
    probe.remove()
    assert measuring.is_set()
    assert seen[0], "the other thread's own call found the network in train mode"


def test_many_threads_leave_the_mode_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    with ep.Probe(net, SCHEMA, every=1):
        for _ in range(20):
            threads = [threading.Thread(target=lambda: net(torch.ones(64, 3))) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(module.training for module in net.modules())


def test_a_thread_that_ended_inside_hinders_nobody() -> None:
    net = Meeting()

    def fail(x: Tensor) -> None:
        raise ValueError(x)

    with ep.Probe(net, POSITIONS, every=1) as probe:
        net.wait = fail
        hook, threading.excepthook = threading.excepthook, lambda _: None
        thread = threading.Thread(target=lambda: net(torch.ones(4, 3)))
        thread.start()
        thread.join()
        threading.excepthook = hook
        net.wait = lambda _: None
        net(torch.ones(4, 3))
    assert set(probe.running) == {("train", "0")}


def test_another_threads_call_is_no_part_of_a_step() -> None:
    net = nn.Linear(3, 3)
    probe = ep.Probe(net, SCHEMA, every=1)

    def step() -> Tensor:
        thread = threading.Thread(target=lambda: net(torch.zeros(7, 3)))
        thread.start()
        thread.join()
        return net(torch.ones(4, 3)).square().mean()

    assert probe.record(step, []).calls[0].call.inputs["input"].shape == (4, 3)
    assert len(probe.record(step, []).calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["probe", "augment"])
def test_a_network_saved_under_a_probe_is_read_without_this_package(kind: str, tmp_path: Path) -> None:
    net, x = nn.Linear(3, 3), torch.ones(2, 3)
    attached = ep.Probe(net, SCHEMA, every=1).attach() if kind == "probe" else ep.augment(net, SCHEMA)
    torch.save(net, tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    whole, averaged = copy.deepcopy(nn.Sequential(net)), torch.optim.swa_utils.AveragedModel(net)
    copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    assert net._forward_hooks, "the network itself keeps them"
    for free in (copies[0], whole[0], averaged.module):
        kept = {name: value for name, value in vars(free).items() if "hooks" in name and value}
        assert not kept, "a copy has no hooks at all"
    attached.remove()
    expected = net(x)
    for one in copies:
        assert torch.equal(one(x), expected), "what stays on a copy does nothing"
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("equiv_probe"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import torch
net = torch.load({str(tmp_path / "net.pt")!r}, weights_only=False)
print(net(torch.ones(2, 3)).tolist())
"""
    # Where this package is not installed, torch knows no entry point of it.
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == str(expected.tolist())
    assert b"equiv_probe" not in (tmp_path / "net.pt").read_bytes()
    assert net.state_dict().keys() == torch.load(tmp_path / "state.pt").keys()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + x).square().mean()


def compiled_run(how: str, every: int | None) -> tuple[list[float], int, ep.Probe]:
    """Losses of training through code compiled around the network, its graph breaks, and the probe."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    outer = Outer()
    compiled = torch.compile(outer, backend="eager")
    probe = ep.Probe(outer.net, SCHEMA, every=every)
    if how == "hooks":
        probe.attach()
    optimizer, losses = torch.optim.SGD(outer.parameters(), 0.1), []
    for _ in range(6):
        x = torch.randn(8, 5, 3)
        loss = probe.step(lambda x=x: compiled(x)) if how == "step" else compiled(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    probe.remove()
    return losses, sum(torch._dynamo.utils.counters["graph_break"].values()), probe


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hooks", "step"])
def test_code_compiled_around_the_network_stays_in_one_piece(how: str) -> None:
    """No break where nothing is due, and none of a step that is; the numbers of training are the same bit for bit."""
    plain, breaks, _ = compiled_run("without", None)
    assert breaks == 0
    losses, breaks, probe = compiled_run(how, None)
    assert (losses, breaks) == (plain, 0)
    assert not probe.running
    losses, breaks, probe = compiled_run(how, 2)
    assert losses == plain
    assert not probe.failures
    name = ("train", "loss") if how == "step" else ("train", "0")
    assert probe.running[name].structures == (3 if how == "step" else 24), "three batches of eight"
    assert breaks == 0 if how == "step" else breaks > 0, "a call that is measured without its step is cut out (control)"
