"""Bins of time: met where the numbers are known at every time, with intervals that cover; and what becomes of them."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep
from equiv_probe.estimation.binned_sums import BinnedSums, merged
from equiv_probe.estimation.estimates import Sums
from equiv_probe.probe.bins import Over
from equiv_probe.results.over_time import OverTime
from equiv_probe.results.report import Report
from equiv_probe.rotations.drawing import RotationSource
from equiv_probe.schema.structures import Structures

from ..timed_models import SCALE, TIMED, Timed, drawn, exact

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EDGES = [0.0, 0.25, 0.5, 0.75, 1.0]


def steep(t: Tensor) -> Tensor:
    """A weight as flow matching has it, steep towards the data."""
    return 1 / (1.2 - t) ** 2


def measured(seed: int, steps: int, weight: Callable[[Tensor], Tensor] = steep, **options: Any) -> OverTime:
    torch.manual_seed(seed)
    net = Timed()
    probe = ep.Probe(net, TIMED, every=1, over="t", bins=EDGES, seed=seed, **options)

    def step() -> Tensor:
        x, t = drawn()
        return ((net(x, t) - SCALE * x).square().mean((1, 2)) * weight(t)).mean()

    for _ in range(steps):
        probe.step(step)
    return probe.over_time(window=False)


def require_exact(found: OverTime, weight: Callable[[Tensor], Tensor] = steep) -> None:
    """Four standard errors: one bin of four in ten thousand runs is further off."""
    for one in found.bins:
        total, equiv = exact(one.low, one.high, weight)
        assert abs(one.total - total) < 4 * one.total_stderr
        assert abs(one.equiv - equiv) < 4 * one.equiv_stderr
        assert abs(one.share - equiv / total) < 4 * one.share_stderr
        assert one.share_stderr < 0.1 * one.share, "the error bar is small enough for the test to say something"


def test_every_bin_meets_its_closed_form() -> None:
    found = measured(0, 40)
    require_exact(found)
    assert sum(one.structures for one in found.bins) == 40 * 64
    assert found.bins[0].share > 1.2 * found.bins[-1].share


def test_rotations_that_are_none_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: nothing is averaged."""
    draw = RotationSource.draw

    def none(self: RotationSource, *args: Any, **kwargs: Any) -> Tensor:
        rotations = draw(self, *args, **kwargs)
        return torch.eye(3, dtype=rotations.dtype).expand_as(rotations).clone()

    monkeypatch.setattr(RotationSource, "draw", none)
    with pytest.raises(AssertionError):
        require_exact(measured(0, 40))


def test_times_that_are_shuffled_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: every structure in the bin of its neighbour."""
    values = Over.values
    monkeypatch.setattr(Over, "values", lambda *given: values(*given).roll(1))
    with pytest.raises(AssertionError):
        require_exact(measured(0, 40))


@pytest.mark.slow
def test_intervals_cover() -> None:
    """Of 100 runs with 4 bins each, 95 % ± 2.2 % (two standard errors); skewed losses cost a little on the low side."""
    inside = {"share": 0, "equiv": 0}
    for seed in range(100):
        for one in measured(seed, 4).bins:
            total, equiv = exact(one.low, one.high, steep)
            for key, wanted in (("share", equiv / total), ("equiv", equiv)):
                low, high = getattr(one, f"{key}_interval")
                inside[key] += low < wanted < high
    assert all(0.915 < number / 400 < 0.98 for number in inside.values()), inside


def test_the_bins_add_up_to_the_whole() -> None:
    """Structures of all bins together give the estimates of the batches, up to rounding."""
    torch.manual_seed(0)
    net = Timed()
    probe = ep.Probe(net, TIMED, every=1, over="t")
    for _ in range(5):
        x, t = drawn()
        probe.step(lambda x=x, t=t: (net(x, t) - x).square().mean())
    bins = probe.over_time(window=False).bins
    whole = probe.compute(window=False)
    for name in ("total", "mean", "equiv"):
        mean = sum(getattr(one, name) * one.structures for one in bins if one.structures) / (5 * 64)
        assert mean == pytest.approx(whole[f"equiv/train/loss/L_{name}"], rel=1e-9)
    assert [round(edge, 9) for edge in probe.over_time().edges] == [round(0.1 * k, 9) for k in range(11)]


def test_hooks_with_labels_and_without() -> None:
    """Labels among the inputs give the share, outputs alone L_equiv; both in bins, structure by structure."""

    class Labelled(Timed):
        def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
            del y
            return super().forward(x_t, t)

    for targets in ({"v": "y"}, None):
        torch.manual_seed(0)
        net = Labelled()
        probe = ep.Probe(net, TIMED, every=1, over="t", bins=EDGES, targets=targets)
        with probe:
            for _ in range(40):
                x, t = drawn()
                net(x, t, SCALE * x)
        found = probe.over_time("train", "v", window=False)
        if targets:
            require_exact(found, torch.ones_like)
            continue
        for one in found.bins:
            assert abs(one.equiv - exact(one.low, one.high)[1]) < 4 * one.equiv_stderr
            assert math.isnan(one.total)
            assert math.isnan(one.share)
        assert "L_equiv" in str(found)
        assert "share" not in " ".join(probe.compute())


def test_sums_of_a_bin_are_those_of_its_structures() -> None:
    generator = torch.Generator().manual_seed(0)
    equiv, total, weight, t = torch.rand(4, 50, generator=generator, dtype=torch.float64)
    equiv[3], t[4], t[5], t[6], t[7] = torch.nan, -0.1, 1.1, 1.0, torch.nan
    weight[8] = 0
    over = Over("t", EDGES)
    rows = over.binned(t, equiv, total, weight)
    for k, (low, high) in enumerate(pairwise(EDGES)):
        own = (t >= low) & ((t < high) | (high == 1) & (t == 1)) & equiv.isfinite()
        assert torch.allclose(rows[k + 1], Sums.of(equiv[own], total[own], weight[own]).flat(), rtol=1e-12)
    assert OverTime.of(over.name, over.edges.tolist(), ("val", "loss"), rows, labelled=True, loss="mse").outside == 3
    halves = [over.binned(*(v[part] for v in (t, equiv, total, weight))) for part in (slice(20), slice(20, 50))]
    assert torch.allclose(halves[0] + halves[1], rows, rtol=1e-12)


def test_ranks_merge_measurement_by_measurement() -> None:
    ranks = [BinnedSums(2), BinnedSums(2), BinnedSums(2)]
    for k, one in enumerate(ranks[:2]):
        for step in range(3 - k):  # the second joined a measurement later
            one.add(torch.full((6, 13), 10.0**k * (step + 1 + k)))
    found = merged([one.state_dict() for one in ranks])
    assert float(found["everything"][0, 0]) == 6 + 50
    assert [float(one[0, 0]) for one in found["recent"]] == [2 + 20, 3 + 30]
    assert merged([{}, {}]) == {}


def test_it_resumes() -> None:
    def run(probe: ep.Probe, net: Timed, seeds: range) -> None:
        for seed in seeds:
            torch.manual_seed(seed)
            x, t = drawn()
            probe.step(lambda x=x, t=t: (net(x, t) - x).square().mean())

    def fresh(**options: Any) -> ep.Probe:
        return ep.Probe(net, TIMED, every=1, window=3, **{"over": "t", "bins": EDGES, **options})

    net = Timed()
    whole, first, second = fresh(), fresh(), fresh()
    run(whole, net, range(6))
    run(first, net, range(4))
    second.load_state_dict(first.state_dict())
    run(second, net, range(4, 6))
    for window in (True, False):
        assert second.compute(window=window) == whole.compute(window=window)
        assert second.over_time(window=window) == whole.over_time(window=window)
    for other in ({"bins": 3}, {"over": None, "bins": None}):
        changed = fresh(**other)
        changed.load_state_dict(first.state_dict())
        assert not any("/t_" in name for name in changed.compute()), "sums of other bins are forgotten"
        assert "equiv/train/loss/share" in changed.compute()


def test_names_print_report_and_figure() -> None:
    found = measured(0, 2)
    assert set(found.values()) >= {"t_0-0.25/share", "t_0-0.25/share_stderr", "t_0.75-1/L_equiv"}
    report = Report("net", "a run", {}, [], over=[found])
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.over[0] == found
    lines = [line for line in str(report).splitlines() if " to " in line]
    assert [line.split()[:3] for line in lines] == [[f"{a:g}", "to", f"{b:g}"] for a, b in pairwise(EDGES)]
    assert lines[0].endswith("█" * 12), "the largest share has the longest bar"
    empty = OverTime.of("t", [1e-3, 1, 2.5e7], ("val", "loss"), torch.zeros(4, 13), labelled=True, loss="mse")
    assert [one.label for one in empty.bins] == ["0.001-1", "1-2.5e7"]
    assert empty.values() == {}
    assert "–" in str(empty)


def test_a_figure_shows_the_shares() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="figures are optional")
    pyplot.switch_backend("agg")
    found = measured(0, 2)
    axes = found.plot()
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_xdata())) == 2]
    assert levels == pytest.approx([100 * one.share for one in found.bins])
    assert axes.get_xlabel() == "t"
    assert "share" in axes.get_ylabel()
    pyplot.close(axes.figure)
    own = pyplot.figure().add_subplot()
    assert found.plot(own) is own
    pyplot.close(own.figure)


@pytest.mark.parametrize(
    ("bins", "t", "message"),
    [
        (None, torch.arange(4), "edges of the bins"),
        (None, torch.tensor([0.5, 80.0, 1.0, 2.0]), "edges of the bins"),
        (7, torch.tensor([0.5, 1.5, 0.1, 0.2]), "edges of the bins"),
        (None, torch.rand(4, 2), "several values within one structure"),
        (None, torch.rand(3), "one number for each structure"),
    ],
)
def test_what_cannot_be_binned_is_said_at_once(bins: Any, t: Tensor, message: str) -> None:
    structures = Structures("leading", 4)
    with pytest.raises(ep.EquivProbeError, match=message):
        Over("t", bins).values({"x": torch.randn(4, 3, 3), "t": t}, structures)


@pytest.mark.parametrize("bins", [0, [1.0], [0.0, 0.0, 1.0], [1.0, 0.0], "many", [0.0, math.inf], True])
def test_bins_that_are_none(bins: Any) -> None:
    with pytest.raises(ep.EquivProbeError, match="rising order"):
        ep.Probe(Timed(), TIMED, over="t", bins=bins)


def test_an_input_that_is_not_there_is_said_with_those_that_are() -> None:
    net = Timed()
    probe = ep.Probe(net, TIMED, every=1, over="sigma")
    x, t = drawn(4)
    with pytest.raises(ep.EquivProbeError, match=r"'t': \(4,\)") as raised:
        probe.step(lambda: net(x, t).square().mean())
    assert "over='t'" in str(raised.value)


INDEX = torch.tensor([0, 0, 1, 1, 1, 2])
TIMES = torch.tensor([0.1, 0.5, 0.9])
SHAPES: dict[str, tuple[Any, Structures, list[float]]] = {
    "a number": (0.5, Structures("leading", 3), [0.5] * 3),
    "one for all": (torch.tensor(0.5), Structures("leading", 3), [0.5] * 3),
    "(B, 1, 1)": (TIMES[:, None, None], Structures("leading", 3), TIMES.tolist()),
    "(B, N)": (TIMES[:, None].expand(3, 4), Structures("leading", 3), TIMES.tolist()),
    "(B, N) masked": (
        torch.tensor([[0.1, 0.1], [0.5, 0.0], [0.9, 7.0]]),
        Structures("leading", 3, mask=torch.tensor([[1, 1], [1, 0], [1, 0]])),
        TIMES.tolist(),
    ),
    "(N, 1)": (TIMES[INDEX][:, None], Structures("index", 3, index=INDEX), TIMES.tolist()),
    "(B,) by an index": (TIMES, Structures("index", 3, index=INDEX), TIMES.tolist()),
    "(B, 1), B unknown": (TIMES[:, None], Structures("index", 6, index=INDEX), [*TIMES.tolist(), *[math.nan] * 3]),
    "one structure": (torch.full((5, 1), 0.5), Structures("one", 1), [0.5]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_times(shape: str) -> None:
    value, structures, wanted = SHAPES[shape]
    over = Over("t", [0.0, 1.0])
    found = over.values({"x": torch.randn(2), "t": value}, structures)
    assert found.tolist() == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", ["k/10", "1 - k/10", "k·0.1"])
def test_times_on_the_edges_of_bins_are_not_scattered_by_rounding(how: str, dtype: torch.dtype) -> None:
    """Ten discrete times and ten bins: one in each, whatever the precision; the end belongs to the last."""
    k = torch.arange(11)
    given = {"k/10": k.to(dtype) / 10, "1 - k/10": 1 - k.to(dtype) / 10, "k·0.1": k.to(dtype) * 0.1}[how]
    over, structures = Over("t"), Structures("leading", 11)
    values = over.values({"x": torch.randn(11, 2, 3), "t": given[:, None].expand(11, 4)}, structures)
    one = torch.ones(11, dtype=torch.float64)
    assert over.binned(values, one, one, one)[:, -1].tolist() == [0, *[1] * 9, 2, 0]


def test_edges_without_room_for_rounding_would_be_caught() -> None:
    """Negative control of the test above: 0.7 in float32 is less than 0.7, and the bin from there on stays empty."""
    times = (torch.arange(11) / 10).double()
    counts = torch.bincount(torch.bucketize(times, Over("t").edges, right=True), minlength=12)
    assert counts.tolist() != [0, *[1] * 9, 2, 0]
