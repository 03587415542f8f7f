"""A replayed step leaves no trace in what modules hold, and says nothing; its ordinary run does both as always."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, SpearmanCorrCoef

import equiv_probe as ep
from equiv_probe.live.silence import silenced

from ..live_models import FORCES, MUTATING, Mutating, Unseen, mutating_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAN = ep.RotationPlan("klein", 2)
LOG = logging.getLogger("test_replay_silent")


class Bookkeeping(nn.Module):
    """A network whose user keeps books in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, dtype=torch.float64)
        self.history: list[float] = []
        self.by_name: dict[str, list[float]] = {"loss": []}
        self.nested = defaultdict(list, {"a": [[0.0]]})
        self.ordered: OrderedDict[int, float] = OrderedDict()
        self.seen: set[int] = set()
        self.counter: Counter[str] = Counter()
        self.recent: deque[float] = deque(maxlen=3)
        self.total = torch.zeros((), dtype=torch.float64)
        self.attached = torch.zeros((), dtype=torch.float64)
        self.sums = [torch.zeros(2)]
        self.same = self.sums[0]
        self.array = np.zeros(3)
        self.weights = [self.layer.weight]
        self.steps = 0
        self.loss = MeanMetric()
        self.metrics = MetricCollection([MeanSquaredError(), MeanAbsoluteError()])
        self.rank = SpearmanCorrCoef()  # keeps lists of tensors
        self.unregistered = {"mean": MeanMetric()}

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        return {"forces": self.layer(pos - pos.mean(-2, keepdim=True))}

    def step(self, pos: Tensor, forces: Tensor) -> Tensor:
        output = self(pos)["forces"]
        loss = (output - forces).square().mean()
        value = float(loss.detach())
        self.history.append(value)
        self.by_name["loss"].append(value)
        self.nested["a"][0].append(value)
        self.nested["b"].append(value)
        self.ordered[len(self.ordered)] = value
        self.seen.add(len(self.seen))
        self.counter["steps"] += 1
        self.recent.append(value)
        self.total += loss.detach()
        self.attached += loss
        self.sums[0] += 1
        self.same += 1
        self.array += 1
        self.steps += 1
        self.loss.update(loss.detach())
        self.metrics.update(output.detach().contiguous(), forces)
        self.rank.update(output.detach().flatten(), forces.flatten())
        self.unregistered["mean"].update(loss.detach())
        return loss

    def books(self) -> list[Any]:
        """All of it, as numbers."""
        return [
            list(self.history), list(self.by_name["loss"]), {k: repr(v) for k, v in self.nested.items()},
            dict(self.ordered), set(self.seen), dict(self.counter), list(self.recent), float(self.total),
            float(self.attached.detach()), self.sums[0].tolist(), self.array.tolist(), self.steps,
            float(self.loss.compute()),
            {k: float(v) for k, v in self.metrics.compute().items()}, [t.tolist() for t in self.rank.preds],
            self.unregistered["mean"].compute().item(), self.loss._update_count, self.rank._update_count,
            [m._update_count for m in self.metrics.values()], self.unregistered["mean"]._update_count,
        ]  # fmt: skip

    def objects(self) -> list[Any]:
        """The very objects that hold them."""
        return [
            self.history, self.by_name, self.by_name["loss"], self.nested, self.nested["a"], self.nested["a"][0],
            self.ordered, self.seen, self.counter, self.recent, self.total, self.attached, self.sums, self.sums[0],
            self.same, self.array, self.weights, self.weights[0], self.rank.preds,
        ]  # fmt: skip


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pos, forces = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64)
    return pos, forces


def model() -> Bookkeeping:
    torch.manual_seed(0)
    return Bookkeeping()


def by_step(probe: ep.Probe, step: Callable[[], Any]) -> None:
    with probe:
        probe.step(step)


def by_replay(probe: ep.Probe, step: Callable[[], Any]) -> None:
    probe.replay(step, PLAN)


WAYS = pytest.mark.parametrize("run", [by_step, by_replay])


@WAYS
def test_what_modules_hold_is_as_after_one_ordinary_run(run: Callable[..., None]) -> None:
    plain, probed = model(), model()
    for seed in range(3):
        plain.step(*batch(seed))
        run(ep.Probe(probed, FORCES, light=PLAN, every=1), lambda seed=seed: probed.step(*batch(seed)))
    assert probed.books() == plain.books()
    assert probed.sums[0] is probed.same, "what was one thing is one thing"
    assert probed.weights[0] is probed.layer.weight


@WAYS
def test_the_objects_are_the_very_same(run: Callable[..., None]) -> None:
    probed = model()
    probed.step(*batch())
    before = probed.objects()
    run(ep.Probe(probed, FORCES, light=PLAN, every=1), lambda: probed.step(*batch(1)))
    assert all(a is b for a, b in zip(before, probed.objects(), strict=True))
    assert len(probed.history) == 2
    probed.attached.backward()  # its graph was not written to by the replays
    assert probed.layer.weight.grad is not None


def test_without_lending_the_books_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: one entry for each replay."""
    plain, probed = model(), model()
    plain.step(*batch())
    monkeypatch.setattr("equiv_probe.live.isolation.lend", lambda *_: None)
    monkeypatch.setattr("equiv_probe.live.held_by_modules.copied", lambda value, _: value)
    by_replay(ep.Probe(probed, FORCES), lambda: probed.step(*batch()))
    # One ordinary run, eight rotations, their mean, two means that leave a replicate out, and the two controls.
    assert len(probed.history) == 1 + 8 + 1 + 2 + 2
    assert probed.books() != plain.books()


def test_what_modules_hold_survives_a_replay_that_raises() -> None:
    probed = model()
    calls = Unseen()

    def step() -> Tensor:
        loss = probed.step(*batch())
        if calls.next() == 3:
            raise ValueError("the user's own")
        return loss

    with pytest.raises(ValueError, match="the user's own"):
        by_replay(ep.Probe(probed, FORCES), step)
    assert calls.next() == 4
    assert len(probed.history) == 1
    assert probed.loss._update_count == 1


def test_other_modules_of_the_step_are_protected_too() -> None:
    network, outer = model(), model()

    def step() -> Tensor:
        outer.history.append(0.0)
        outer.total += 1
        return network(batch()[0])["forces"].square().mean()

    by_replay(ep.Probe(network, FORCES, protect=[outer]), step)
    assert outer.history == [0.0]
    assert float(outer.total) == 1


def test_the_numbers_are_those_of_a_step_without_books() -> None:
    """A copy in the place of an attribute must not change what is measured."""
    pos, forces = batch()
    keeping, bare = model(), model()
    with_books = ep.Probe(keeping, FORCES).replay(lambda: keeping.step(pos, forces), PLAN)
    without = ep.Probe(bare, FORCES).replay(lambda: (bare(pos)["forces"] - forces).square().mean(), PLAN)
    assert with_books.equiv == without.equiv
    assert with_books.total == without.total


def test_a_batch_that_the_module_keeps_stays_the_batch() -> None:
    """The network writes into its dict; kept as an attribute, it must still be the one that is put back in order."""
    torch.manual_seed(0)
    network = Mutating()
    network.batch = mutating_batch()

    def step() -> Tensor:
        return network(network.batch)["energy"].sum()

    kept = network.batch
    found = ep.Probe(network, MUTATING).replay(step, PLAN)
    other = Mutating()
    other.load_state_dict(network.state_dict())
    given = mutating_batch()

    def elsewhere() -> Tensor:
        return other(given)["energy"].sum()

    assert found.total == ep.Probe(other, MUTATING).replay(elsewhere, PLAN).total
    assert network.batch is kept
    assert set(kept) == set(given)


def test_what_a_network_writes_in_a_measurement_of_its_own_is_gone() -> None:
    """Calls in evaluation too: what it keeps in lists and dicts is of the user's calls alone."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []
            self.last: dict[str, Tensor] = {}

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            self.seen.append(float(pos.sum()))
            self.last["pos"] = pos
            return {"forces": pos * pos[..., :1]}

    for training in (True, False):
        network, x = Keeping().train(training), batch()[0]
        with ep.Probe(network, FORCES, every=1, full=1) as probe:
            network(x)
            assert probe.running
            assert network.seen == [float(x.sum())]
            assert network.last == {"pos": x}


# What a replay says


def talk(where: str) -> None:
    if where == "print":
        print("hello")
    elif where == "stderr":
        print("hello", file=sys.stderr)
    elif where == "warning":
        warnings.warn("hello", stacklevel=1)
    else:
        LOG.warning("hello")


@contextmanager
def ears(where: str, capsys: Any, caplog: Any) -> Iterator[Callable[[], int]]:
    """How often "hello" was heard."""
    if where == "logging":
        yield lambda: caplog.text.count("hello")
    elif where == "warning":
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield lambda: sum("hello" in str(one.message) for one in heard)
    else:
        yield lambda: sum(text.count("hello") for text in capsys.readouterr())


TALKS = pytest.mark.parametrize("where", ["print", "stderr", "warning", "logging"])


@TALKS
@WAYS
def test_a_step_says_once_what_it_says(where: str, run: Any, capsys: Any, caplog: Any) -> None:
    network = model()

    def step() -> Tensor:
        talk(where)
        return network(batch()[0])["forces"].square().mean()

    with ears(where, capsys, caplog) as count:
        run(ep.Probe(network, FORCES, light=PLAN, every=1), step)
        assert count() == 1
    with ears(where, capsys, caplog) as count:
        talk(where)
        assert count() >= 1, "afterwards it speaks as before"


@TALKS
def test_without_silence_it_would_be_heard_fourteen_times(
    where: str, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: one ordinary run, eleven replays, and two controls."""
    monkeypatch.setattr("equiv_probe.probe.recorded.silenced", contextmanager(lambda: iter([None])))
    network = model()

    def step() -> Tensor:
        talk(where)
        return network(batch()[0])["forces"].square().mean()

    with ears(where, capsys, caplog) as count:
        by_replay(ep.Probe(network, FORCES), step)
        assert count() == 14


def test_exceptions_in_a_replay_surface_and_the_streams_are_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, warnings.showwarning, [list(h.filters) for h in logging.root.handlers]
    network, calls = model(), Unseen()

    def step() -> Tensor:
        call = calls.next()
        print("run", call)
        if call == 2:
            raise KeyError("the user's own")
        return network(batch()[0])["forces"].square().mean()

    with pytest.raises(KeyError, match="the user's own"):
        by_replay(ep.Probe(network, FORCES), step)
    assert capsys.readouterr().out == "run 1\n"
    assert (sys.stdout, sys.stderr, warnings.showwarning, [list(h.filters) for h in logging.root.handlers]) == before


def test_other_threads_are_still_heard(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def other() -> None:
        print("print of another thread")
        LOG.warning("log of another thread")

    with silenced():
        print("ours")
        LOG.warning("ours")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "print of another thread\n"
    assert [record.message for record in caplog.records] == ["log of another thread"]


def test_python_does_not_forget_which_warnings_it_has_shown() -> None:
    """``warnings.catch_warnings`` would make it: the user's own run would warn anew after every replay."""
    network, heard = model(), []

    def step() -> Tensor:
        warnings.warn("once for each place", UserWarning, stacklevel=1)
        return network(batch()[0])["forces"].square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *args, **kwargs: heard.append(str(message))
        for _ in range(3):
            by_replay(ep.Probe(network, FORCES), step)
    assert heard.count("once for each place") == 1


def test_warnings_that_are_errors_are_errors_in_replays_too() -> None:
    network, calls = model(), Unseen()

    def step() -> Tensor:
        if calls.next() == 2:
            warnings.warn("as an error", UserWarning, stacklevel=1)
        return network(batch()[0])["forces"].square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="as an error"):
            by_replay(ep.Probe(network, FORCES), step)


def test_silence_within_silence() -> None:
    before = sys.stdout, warnings.showwarning
    with silenced(), silenced():
        print("nothing")
    assert (sys.stdout, warnings.showwarning) == before


def test_two_threads_whose_silences_overlap_leave_the_streams_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, warnings.showwarning
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with silenced():
            first_in.set()
            assert second_in.wait(10)
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with silenced():
            second_in.set()
            assert first_out.wait(10)
            print("still silent")
        print("heard again")

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sys.stdout, sys.stderr, warnings.showwarning) == before
    assert capsys.readouterr().out == "heard again\n"
