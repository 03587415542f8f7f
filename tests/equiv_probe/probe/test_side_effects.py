"""What a step does beside its loss is done once, measured or not; what cannot be undone is not repeated."""

from __future__ import annotations

import array
import collections
import contextvars
import csv
import ctypes
import dataclasses
import io
import itertools
import logging
import multiprocessing
import os
import queue
import socket
import sqlite3
import types
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCHEMA = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
SEEN: list[float] = []
TOTAL = 0.0
STEPS = 4


class Meter:
    """An average in plain attributes, behind a property."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    @property
    def average(self) -> float:
        return self._sum / max(self._count, 1)

    def update(self, value: float) -> None:
        self._sum += value
        self._count += 1


class Slotted:
    __slots__ = ("__hidden", "last", "values")

    def __init__(self) -> None:
        self.__hidden, self.values = 0, []

    def update(self, value: float) -> None:
        self.__hidden += 1
        self.values.append(value)
        self.last = value

    def state(self) -> Any:
        return self.__hidden, list(self.values), self.last


@dataclasses.dataclass
class Record:
    total: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)


class OfTheClass:
    count = 0
    losses: ClassVar[list[float]] = []

    def update(self, value: float) -> None:
        type(self).count += 1
        self.losses.append(value)


class Balancer:
    """Weights the loss by what it remembers: with a memory that is off by one, training goes another way."""

    def __init__(self) -> None:
        self.calls, self.average = 0, None

    def __call__(self, loss: Tensor) -> Tensor:
        self.calls += 1
        self.average = loss.detach() if self.average is None else 0.9 * self.average + 0.1 * loss.detach()
        return loss / self.average / (1 + 0.1 * self.calls)


class Counting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


class Callback:
    def __init__(self) -> None:
        self.calls = 0


class Trainer:
    """Somebody's own: a step in a method, which other methods and callbacks help."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.callbacks, self.step_count = net, {"a": Callback()}, 0

    def note(self, value: float) -> None:
        SEEN.append(value)
        self.callbacks["a"].calls += 1

    def step(self, x: Tensor) -> Tensor:
        self.step_count += 1
        loss = (self.net(x) + x).square().mean()
        self.note(float(loss))
        return loss


def _global(value: float) -> None:
    global TOTAL  # noqa: PLW0603 - that is the case
    TOTAL += value


def _noted() -> None:
    """A function that keeps count in an attribute of its own."""


def nested(depth: int) -> Any:
    """A list, inside of so many objects."""
    return types.SimpleNamespace(inner=nested(depth - 1)) if depth else []


def innermost(value: Any) -> list[float]:
    """That list."""
    return innermost(value.inner) if hasattr(value, "inner") else value


def _rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def restored() -> dict[str, tuple[Any, Callable[[Any, float], Any], Callable[[Any], Any]]]:
    """Things that a step may write into: the thing, the writing, and what it holds in the end."""
    text, order = io.StringIO(), collections.OrderedDict(a=1, b=2)
    logger = logging.Logger("test")
    logger.addHandler(handler := Counting())
    space = types.SimpleNamespace(n=0)
    variable, objects = contextvars.ContextVar("count", default=0), np.empty(1, dtype=object)
    objects[0], _noted.count = [], 0  # type: ignore[attr-defined]
    variable.set(0)
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))], 0.1)
    return {
        "meter": (Meter(), Meter.update, lambda m: (m.average, m._count)),
        "slots": (Slotted(), Slotted.update, Slotted.state),
        "dataclass": (
            Record(),
            lambda r, v: (setattr(r, "total", r.total + v), r.losses.append(v)),
            lambda r: (r.total, list(r.losses)),
        ),
        "class": (OfTheClass(), OfTheClass.update, lambda _: (OfTheClass.count, list(OfTheClass.losses))),
        "deque": (collections.deque(maxlen=2), collections.deque.append, list),
        "counter": (collections.Counter(), lambda c, v: c.update([v > 1, "all"]), dict),
        "defaultdict": (collections.defaultdict(list), lambda d, v: d["k"].append(v), lambda d: list(d["k"])),
        "order": (order, lambda o, _: o.move_to_end(next(iter(o))), list),
        "array": (np.zeros(3), lambda a, v: a.__iadd__(v), lambda a: a.tolist()),
        "bytes": (bytearray(), lambda b, _: b.extend(b"x"), bytes),
        "array.array": (array.array("d"), lambda a, v: a.append(v), list),
        "tensor": (torch.zeros(2), lambda t, v: t.add_(v), lambda t: t.tolist()),
        "namespace": (space, lambda s, _: setattr(s, "n", s.n + 1), lambda s: s.n),
        "metric": (torchmetrics.MeanMetric(), lambda m, v: m.update(v), lambda m: float(m.compute())),
        "text": (text, lambda t, v: t.write(f"{v}\n"), lambda t: t.getvalue()),
        "csv": (csv.writer(text), lambda w, v: w.writerow([v]), lambda _: text.getvalue()),
        "handler": (logger, lambda log, v: log.error("%s", v), lambda _: list(handler.records)),
        "list iterator": (iter(list(range(100))), lambda it, _: next(it), next),
        "bound method": ((kept := []).append, lambda append, v: append(v), lambda _: list(kept)),
        "global": (None, lambda _, v: _global(v), lambda _: TOTAL),
        "local list": ([0.0], lambda b, v: b.__setitem__(0, max(b[0], v)), list),
        "context": (variable, lambda c, _: c.set(c.get() + 1), lambda c: c.get()),
        "environment": (os.environ, lambda e, _: e.update(STEPS=e.get("STEPS", "") + "x"), lambda e: e.pop("STEPS")),
        "function": (_noted, lambda f, _: setattr(f, "count", f.count + 1), lambda f: f.count),
        "objects": (objects, lambda o, v: o[0].append(v), lambda o: len(o[0])),
        "view": (memoryview(bytearray(1)), lambda m, _: m.__setitem__(0, m[0] + 1), bytes),
        "of C": (ctypes.c_int(0), lambda c, _: setattr(c, "value", c.value + 1), lambda c: c.value),
        "shared": (multiprocessing.Value("i", 0), lambda c, _: setattr(c, "value", c.value + 1), lambda c: c.value),
        "far inside": (nested(12), lambda n, v: innermost(n).append(v), lambda n: len(innermost(n))),
        "group": (adam, lambda a, _: a.param_groups[0].update(lr=a.param_groups[0]["lr"] / 2), _rate),
        "schedule": (ExponentialLR(adam, 0.5), lambda s, _: s.step(), lambda s: (s.last_epoch, _rate(s.optimizer))),
        "reversed": (reversed(list(range(100))), lambda it, _: next(it), next),
    }


def trained(
    write: Callable[[float], Any], *, probed: bool, balance: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, ep.Probe | None]:
    """Weights after a few steps that write something, and the probe."""
    torch.manual_seed(0)
    net = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    probe = ep.Probe(net, SCHEMA, every=1) if probed else None

    def step(x: Tensor) -> Tensor:
        loss = (net(x) + x).square().mean()
        write(float(loss))
        return loss if balance is None else balance(loss)

    for _ in range(STEPS):
        x = torch.randn(4, 5, 3)
        loss = probe.step(lambda x=x: step(x)) if probe is not None else step(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.weight.detach().clone(), probe


@pytest.mark.slow
@pytest.mark.parametrize("kind", restored())
def test_what_can_be_put_back_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, weights = [], []
    for probed in (False, True):
        monkeypatch.setattr(OfTheClass, "count", 0)
        OfTheClass.losses.clear()
        monkeypatch.setitem(globals(), "TOTAL", 0.0)
        thing, write, state = restored()[kind]
        weight, probe = trained(lambda value, write=write, thing=thing: write(thing, value), probed=probed)
        outcomes.append(state(thing))
        weights.append(weight)
        if probe is not None:
            assert not probe.failures
            assert "equiv/train/loss/L_equiv" in probe.compute(), "and the loss is decomposed"
    assert outcomes[0] == outcomes[1]
    assert torch.equal(*weights)


def test_a_loss_balancer_goes_the_same_way() -> None:
    """Weights are the same to the last bit; a balancer that is called twice as often is seen (control)."""
    plain, _ = trained(lambda _: None, probed=False, balance=Balancer())
    probed, probe = trained(lambda _: None, probed=True, balance=Balancer())
    assert probe is not None
    assert "equiv/train/loss/share" in probe.compute()
    assert torch.equal(plain, probed)
    twice = Balancer()
    control, _ = trained(lambda _: twice(torch.ones(())), probed=False, balance=twice)
    assert not torch.equal(plain, control)


def test_a_trainer_of_somebodys_own_and_its_callbacks() -> None:
    counts = []
    for probed in (False, True):
        SEEN.clear()
        torch.manual_seed(0)
        trainer = Trainer(nn.Linear(3, 3))
        probe = ep.Probe(trainer.net, SCHEMA, every=1)
        for _ in range(STEPS):
            x = torch.randn(4, 5, 3)
            probe.step(lambda x=x, trainer=trainer: trainer.step(x)) if probed else trainer.step(x)
        counts.append((trainer.step_count, trainer.callbacks["a"].calls, list(SEEN)))
    assert counts[0] == counts[1]
    assert counts[0][0] == STEPS


def _generator() -> Iterator[Tensor]:
    while True:
        yield torch.ones(())


def _batches() -> Iterator[Any]:
    yield from range(100)


def unrepeatable(folder: Path) -> dict[str, tuple[Any, Callable[[Any, float], Any], Callable[[Any], Any], str]]:
    """Things that cannot be put back, likewise, and what they are called."""
    here, there = socket.socketpair()
    database = sqlite3.connect(":memory:")
    database.execute("create table t (v)")
    file = (folder / "log.txt").open("w")
    rows = (folder / "rows.csv").open("w", newline="")
    loader = torch.utils.data.DataLoader(list(range(100)))

    crowd: dict[int, list[float]] = {k: [] for k in range(1000)}
    low = os.open(folder / "low.txt", os.O_CREAT | os.O_WRONLY)
    (folder / "0").mkdir()
    files = lambda _: sorted(one.name for one in folder.iterdir())  # noqa: E731

    def renamed(_: Any, value: float) -> None:
        del value
        (last,) = (one for one in folder.iterdir() if one.is_dir())
        last.rename(folder / str(int(last.name) + 1))

    def append(_: Any, value: float) -> None:
        with (folder / "more.txt").open("a") as opened:
            opened.write(f"{value}\n")

    def read(path: Path) -> str:
        file.flush()
        rows.flush()
        return path.read_text()

    return {
        "print": (file, lambda f, v: print(v, file=f), lambda _: read(folder / "log.txt"), "file log.txt"),
        "csv_file": (csv.writer(rows), lambda w, v: w.writerow([v]), lambda _: read(folder / "rows.csv"), "rows.csv"),
        "opened": (None, append, lambda _: (folder / "more.txt").read_text(), "more.txt"),
        "generator": (_batches(), lambda it, _: next(it), next, "generator"),
        "enumerate": (enumerate("abcdefghij"), lambda it, _: next(it), next, "enumerate"),
        "zip": (zip(_batches(), _generator(), strict=False), lambda it, _: next(it), lambda it: next(it)[0], "zip"),
        "count": (itertools.count(), lambda it, _: next(it), next, "count"),
        "loader": (iter(loader), lambda it, _: next(it), lambda it: int(next(it)), "Iter"),
        "queue": (queue.Queue(), lambda q, v: q.put(v), lambda q: list(q.queue), "Queue"),
        "socket": (here, lambda s, _: s.send(b"x"), lambda _: there.recv(99), "socket"),
        "entries of a dict": (iter(dict.fromkeys(range(100))), lambda it, _: next(it), next, "dict_keyiterator"),
        "many lists": (crowd, lambda c, v: c[999].append(v), lambda c: len(c[999]), "(dict)"),
        "folder": (
            None,
            lambda *_: (folder / str(len(files(0)))).mkdir(),
            files,
            "a folder that it makes",
        ),
        "saved": (None, lambda *_: torch.save(1, folder / f"{len(files(0))}.pt"), files, "saves"),
        "renamed": (None, renamed, files, "makes, moves or removes"),
        "low": (low, lambda d, _: os.write(d, b"x"), lambda _: (folder / "low.txt").read_text(), "writes to"),
        "database": (
            database,
            lambda d, v: d.execute("insert into t values (?)", (v,)),
            lambda d: d.execute("select * from t").fetchall(),
            "Connection",
        ),
    }


KINDS = (
    "print",
    "csv_file",
    "opened",
    "generator",
    "enumerate",
    "zip",
    "count",
    "loader",
    "queue",
    "socket",
    "database",
    "entries of a dict",
    "many lists",
    "folder",
    "saved",
    "renamed",
    "low",
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_put_back_is_not_repeated(kind: str, tmp_path: Path) -> None:
    """The step runs once, its outputs are measured without labels, and it is said once why, by name."""
    outcomes, weights = [], []
    for probed in (False, True):
        folder = tmp_path / str(probed)
        folder.mkdir()
        thing, write, state, called = unrepeatable(folder)[kind]
        run = lambda write=write, thing=thing, probed=probed: trained(  # noqa: E731
            lambda value: write(thing, value), probed=probed
        )
        if probed:
            with pytest.warns(UserWarning, match="cannot be put back") as heard:
                weight, probe = run()
            said = [str(one.message) for one in heard if "cannot be put back" in str(one.message)]
            assert len(said) == 1
            assert called in said[0]
            assert probe is not None
            assert not probe.failures
            assert set(probe.running) == {("train", "0")}, "no loss, but the network's output"
            assert any(called in control.sentence for control in probe.controls)
        else:
            weight, _ = run()
        outcomes.append(state(thing))
        weights.append(weight)
    assert outcomes[0] == outcomes[1]
    assert torch.equal(*weights)


def test_a_generator_that_looks_the_same_after_each_turn_is_noticed() -> None:
    endless, drawn = _generator(), []
    next(endless)
    net = nn.Linear(3, 3)
    probe = ep.Probe(net, SCHEMA, every=1)

    def step() -> Tensor:
        drawn.append(next(endless))
        return (net(torch.randn(4, 5, 3)) + drawn[-1]).square().mean()

    with pytest.warns(UserWarning, match="generator"):
        probe.step(step)
    assert len(drawn) == 1


def test_what_a_step_names_and_does_not_use_is_no_hindrance(tmp_path: Path) -> None:
    batches = _batches()
    with (tmp_path / "log.txt").open("w") as file:
        file.write("before")
        _, probe = trained(lambda value: (batches, file) if value < 0 else None, probed=True)
    assert probe is not None
    assert "equiv/train/loss/share" in probe.compute()


def test_an_explicit_replay_of_what_cannot_be_put_back_teaches(tmp_path: Path) -> None:
    net, x = nn.Linear(3, 3), torch.randn(4, 5, 3)
    with (tmp_path / "log.txt").open("w") as file, pytest.raises(ep.EquivProbeError, match=r"file log\.txt.*outside"):
        ep.Probe(net, SCHEMA).replay(lambda: (print(1, file=file), net(x).square().mean())[1])


def test_hooks_on_submodules_and_their_counters() -> None:
    """What a hook writes is what it wrote at the user's own calls."""
    found = []
    for probed in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))
        seen: list[float] = []
        counter = {"forward": 0, "backward": 0}
        net[0].register_forward_hook(lambda m, i, o, seen=seen: seen.append(float(o.detach().sum())))
        net[2].register_forward_pre_hook(lambda m, i, c=counter: c.__setitem__("forward", c["forward"] + 1))
        net[2].register_full_backward_hook(lambda m, i, o, c=counter: c.__setitem__("backward", c["backward"] + 1))
        probe = ep.Probe(net, SCHEMA, every=2)
        if probed:
            probe.attach()
        for number in range(2 * STEPS):
            x = torch.randn(4, 5, 3)
            step = lambda x=x, net=net: (net(x) + x).square().mean()  # noqa: E731
            (probe.step(step) if probed and number < STEPS else step()).backward()
        probe.remove()
        found.append((seen, counter))
    assert found[0] == found[1]
    assert found[0][1] == {"forward": 2 * STEPS, "backward": 2 * STEPS}


def test_what_is_given_to_tensorboard_is_written_once(tmp_path: Path) -> None:
    """The writer hands events to a thread of its own, from which nothing is taken back."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    weights = []
    for probed in (False, True):
        folder = tmp_path / str(probed)
        with SummaryWriter(str(folder)) as writer:
            weight, probe = trained(lambda value, writer=writer: writer.add_scalar("loss", value), probed=probed)
            writer.add_scalar("afterwards", 1.0)
        events = EventAccumulator(str(folder)).Reload()
        assert len(events.Scalars("loss")) == STEPS
        assert len(events.Scalars("afterwards")) == 1, "afterwards it writes as before"
        weights.append(weight)
        if probe is not None:
            assert "equiv/train/loss/share" in probe.compute()
    assert torch.equal(*weights)


@pytest.mark.parametrize("how", ["after backward", "in backward"])
def test_a_step_that_trains_is_run_once_and_measured_without_labels(how: str) -> None:
    """An optimizer in the step, or in hooks of the backward pass that the step makes: the weights are bit-identical."""

    def train(*, probed: bool) -> tuple[list[Tensor], Any]:
        torch.manual_seed(0)
        net, x = nn.Linear(3, 3), torch.randn(6, 3)
        optimizers = {p: torch.optim.SGD([p], 0.1, momentum=0.9) for p in net.parameters()}

        def go(p: Tensor) -> None:
            optimizers[p].step()  # type: ignore[index]
            optimizers[p].zero_grad()  # type: ignore[index]

        if how == "in backward":
            for p in net.parameters():
                p.register_post_accumulate_grad_hook(go)

        def step() -> Tensor:
            loss = (net(x) - x.square()).square().mean()
            loss.backward()
            if how != "in backward":
                for p in net.parameters():
                    go(p)
            return loss

        probe = ep.Probe(net, SCHEMA, every=2) if probed else None
        losses = [probe.step(step) if probe is not None else step() for _ in range(6)]
        return [*losses, *net.parameters(), *(p.grad for p in net.parameters() if p.grad is not None)], probe

    expected, _ = train(probed=False)
    with pytest.warns(UserWarning, match="changes the model's weights: the network's outputs were measured without"):
        found, probe = train(probed=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not probe.failures
    assert set(probe.running) == {("train", "0")}, "no loss: it cannot be had"
    assert "was not run again" in str(probe.report())
