"""Nothing on the training path waits for a device: one without numbers can give none, and events are only asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.probe import account
from equiv_probe.probe.account import Timer

FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": self.layer(pos - pos.mean(1, keepdim=True))}


@pytest.mark.parametrize("batch", [4, 32], ids=["", "in parts"])
@pytest.mark.parametrize("kind", ["step", "hooks"])
def test_training_reads_nothing_back(kind: str, batch: int) -> None:
    """A tensor on the meta device has no numbers: ``float``, ``bool`` or ``.cpu()`` of it raise."""
    net, pos = Network().to("meta"), torch.zeros(batch, 5, 3, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(net(pos)["forces"].sum())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    every: Any = lambda step: True  # noqa: E731
    for cadence in (every, "auto"):
        with ep.Probe(net, FORCES, every=cadence) as probe:
            for _ in range(4):
                call = lambda: net(pos)["forces"].square().mean()  # noqa: E731
                loss = probe.step(call) if kind == "step" else call()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert not probe.failures
        measured = probe.schedules["step" if kind == "step" else "call", "train"].measured
        assert measured == (4 if cadence is every else 1)


class Event:
    """Of a device that is told when it is done; nobody may wait for it."""

    now = 0.0

    def __init__(self, done: float) -> None:
        self.at, self.done = Event.now, done

    def query(self) -> bool:
        return Event.now >= self.done

    def elapsed_time(self, other: Event) -> float:
        assert self.query(), "asked before it was there: a device would be waited for"
        assert other.query()
        return 1000 * (other.done - self.at)

    def synchronize(self) -> None:
        raise AssertionError("waited for the device")


def test_the_device_is_asked_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is busy the host's time counts, and once it is done its own, if that was longer."""
    work = iter([0.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(account, "_event", lambda: Event(next(work)))
    Event.now = 0.0
    spent = Timer()
    with spent.running():
        pass
    assert spent.seconds == spent.last < 1, "the host's"
    with spent.running():
        pass
    assert spent.seconds < 2
    Event.now = 5.0
    assert 5 <= spent.seconds < 6, "of the first, that of the device; the second is not done"
    assert spent.last < 1
    Event.now = 6.0
    assert spent.seconds == pytest.approx(5 + 6, abs=0.1)
    assert spent.last == 6
