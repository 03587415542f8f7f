"""A part of a large batch in the place of all of it: without bias, with an error bar that includes the draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.copies import Copies
from equiv_probe.live.cutting import FEW, CannotCut, GraphNames, chosen_structures, cut_graphs
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
U = 24
SEEDS = 120
DENSE = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


class Planted(nn.Module):
    """``f(x) = A (x - mean)``, whose symmetry error grows with the structure's size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3, bias=False).double()

    def forward(self, pos: Tensor, batch: Tensor | None = None) -> dict[str, Tensor]:
        if batch is None:
            return {"forces": self.layer(pos - pos.mean(1, keepdim=True))}
        centers = pos.new_zeros(int(batch.max()) + 1, 3).index_reduce_(0, batch, pos, "mean", include_self=False)
        return {"forces": self.layer(pos - centers[batch])}


def dense() -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.linspace(0.3, 3.0, U, dtype=torch.float64)[:, None, None]
    x = sizes * torch.randn(U, 5, 3, generator=generator, dtype=torch.float64)
    return {"pos": x}, -x + 0.1 * x.square()


def graphs() -> tuple[dict[str, Tensor], Tensor]:
    """Of 1 to 6 atoms: a mean over atoms weighs them differently."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.repeat_interleave(torch.arange(U), 1 + torch.arange(U) % 6)
    x = (0.3 + batch[:, None] / 8) * torch.randn(len(batch), 3, generator=generator, dtype=torch.float64)
    return {"pos": x, "batch": batch}, -x + 0.1 * x.square()


def mean_over_atoms(output: Tensor, label: Tensor) -> Tensor:
    return (output - label).square().mean()


def root(output: Tensor, label: Tensor) -> Tensor:
    """No sum over structures."""
    return (output - label).square().mean().sqrt()


def brute_force(net: nn.Module, batch: dict[str, Tensor], label: Tensor) -> tuple[float, float]:
    """``L_equiv`` and ``L_total`` of the mean over atoms, over many rotations of all structures."""
    outputs = []
    pos, index = batch["pos"], batch.get("batch")
    with torch.no_grad():
        for g in haar(4000, torch.Generator().manual_seed(7)).double():
            outputs.append(net(pos @ g.T, **({} if index is None else {"batch": index}))["forces"] @ g)
    stacked = torch.stack(outputs)
    total = (stacked - label).square().mean()
    return float(stacked.var(0).mean()), float(total)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many structures or nodes each pass of a measurement has."""
    seen: list[int] = []
    original = Copies._raw

    def counted(copies: Copies, *args: Any, **kwargs: Any) -> Any:
        raw = original(copies, *args, **kwargs)
        seen.append(len(raw["forces"]))
        return raw

    monkeypatch.setattr(Copies, "_raw", counted)
    return seen


def first_measurement(
    seed: int, made: Callable[[], tuple[dict[str, Tensor], Tensor]], *, loss: Any = mean_over_atoms, **options: Any
) -> ep.Probe:
    """A probe after the first training step, which nobody could foresee the cost of."""
    (batch, label), net = made(), Planted()
    with ep.Probe(net, None, seed=seed, **options) as probe:
        probe.step(lambda: loss(net(**batch)["forces"], label))
    return probe


@pytest.mark.parametrize("made", [dense, graphs])
def test_a_part_is_without_bias_and_its_error_bar_includes_the_draw(made: Any) -> None:
    """Over seeds the mean is that over all structures, within four standard errors; a plain mean over parts is not.

    Structures differ by a hundred times in their ``L_equiv``, and of graphs in how many atoms they have.
    """
    equiv, total = brute_force(Planted(), *made())
    found, errors, totals = [], [], []
    for seed in range(SEEDS):
        probe = first_measurement(seed, made)
        assert probe.schedules["step", "train"].small == 1
        values = probe.compute(window=False)
        found.append(values["equiv/train/loss/L_equiv"])
        errors.append(values["equiv/train/loss/L_equiv_stderr"])
        totals.append(values["equiv/train/loss/L_total"])
    for values, right in ((found, equiv), (totals, total)):
        sample = torch.tensor(values, dtype=torch.float64)
        assert abs(float(sample.mean()) - right) < 4 * float(sample.std()) / SEEDS**0.5
    sample, bars = torch.tensor(found, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)
    # Drawn without replacement, estimates scatter by sqrt(1 - 8/24) of what the bars, for other batches, say.
    assert 0.7 < float(bars.square().mean().sqrt() / sample.std()) < 1.8
    unscaled = float(sample.mean()) * FEW / U
    assert abs(unscaled - equiv) > 10 * float(sample.std()) / SEEDS**0.5, "a control that tells"


def test_grids_are_measured_in_parts_too() -> None:
    """By two of the cube's rotations, whose mean over seeds is that over all 24 of all structures."""
    torch.manual_seed(0)
    x, y = torch.randn(U, 1, 4, 4, 4).double(), torch.randn(U, 1, 4, 4, 4).double()
    x = x * torch.linspace(0.3, 2, U)[:, None, None, None, None]
    net = nn.Conv3d(1, 1, 3, padding=1).double()
    schema = ep.Schema({"input": ep.grid()}, {"0": ep.grid()})
    exact = ep.decompose(ep.twirl(net, x, schema), y, structures="leading").equiv
    found = []
    for seed in range(SEEDS // 2):
        with ep.Probe(net, schema, seed=seed) as probe:
            probe.step(lambda: (net(x) - y).square().mean())
        assert probe.schedules["step", "train"].fraction == pytest.approx(FEW / U)
        found.append(probe.compute()["equiv/train/loss/L_equiv"])
    sample = torch.tensor(found, dtype=torch.float64)
    error = float(sample.std()) / len(found) ** 0.5
    assert error < 0.1 * exact
    assert abs(float(sample.mean()) - exact) < 4 * error


def test_all_passes_are_of_few_structures(rows: list[int]) -> None:
    """Checks and floor included: of the part, of copies of it, or of one structure alone."""
    first_measurement(0, dense)
    assert len(rows) > 5
    assert all(count % FEW == 0 or count == 1 for count in rows)
    assert max(rows) <= 2 * FEW


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cost": None}, "no limit"),
        ({"every": 1}, "a cadence that was chosen"),
        ({"light": ep.RotationPlan("haar", 3)}, "a plan that was chosen"),
        ({"over": "pos"}, "in bins of every structure"),
    ],
)
def test_what_was_asked_for_is_measured_on_the_whole_batch(options: dict[str, Any], why: str, rows: list[int]) -> None:
    (batch, label), net = dense(), Planted()
    if "over" in options:
        options = {"over": "t", "bins": 2}
        batch["t"] = torch.rand(U, dtype=torch.float64)
        net.forward = lambda pos, t: Planted.forward(net, pos)  # type: ignore[method-assign, assignment]
    with ep.Probe(net, DENSE if "over" not in options else None, **options) as probe:
        probe.step(lambda: mean_over_atoms(net(**batch)["forces"], label))
    assert rows.count(U) + rows.count(2 * U) > 2, why


def test_a_loss_that_is_no_sum_over_structures_is_found_out(rows: list[int]) -> None:
    """Of a root of a mean the part says nothing: then all structures are measured, with all their digits."""
    (batch, label), net = dense(), Planted()
    with ep.Probe(net, seed=3) as probe:
        probe.step(lambda: root(net(**batch)["forces"], label))
    assert rows.count(U) + rows.count(2 * U) > 1


def test_the_global_random_state_is_untouched_and_a_seed_repeats_the_draw() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first, second, third = (first_measurement(seed, dense).compute() for seed in (1, 1, 2))
    torch.manual_seed(5)
    first_measurement(1, dense)
    assert first == second != third
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), wanted)


def test_hooks_measure_a_part_and_the_mean_over_it_is_without_bias(rows: list[int]) -> None:
    (batch, _), estimates = dense(), []
    for seed in range(SEEDS):
        net = Planted()
        with ep.Probe(net, DENSE, seed=seed) as probe:
            net(**batch)
        estimates.append(probe.compute(window=False)["equiv/train/forces/L_equiv"])
    assert max(rows) <= 4 * FEW, "four rotations of the part at once"
    equiv, _ = brute_force(Planted(), batch, torch.zeros(()))
    sample = torch.tensor(estimates, dtype=torch.float64)
    assert abs(float(sample.mean()) - equiv) < 4 * float(sample.std()) / SEEDS**0.5


def test_graphs_are_cut_with_all_that_numbers_their_nodes() -> None:
    """Each structure gets what it has alone, whatever lies before it."""
    index = torch.repeat_interleave(torch.arange(20), 1 + torch.arange(20) % 4)
    edges = torch.stack([torch.arange(len(index) - 1), torch.arange(1, len(index))])
    edges = edges[:, index[edges[0]] == index[edges[1]]]
    batch = {
        "pos": torch.randn(len(index), 3),
        "batch": index,
        "edge_index": edges,
        "length": torch.rand(edges.shape[1]),
        "cell": torch.randn(20, 3, 3),
        "ptr": torch.cat([torch.zeros(1, dtype=torch.long), index.bincount().cumsum(0)]),
        "num_graphs": 20,
    }
    chosen = chosen_structures(20, 0, 0)
    assert len(chosen) == FEW
    cut = cut_graphs(batch, chosen, GraphNames.usual(batch), index)
    assert cut["num_graphs"] == FEW
    for new, old in enumerate(chosen.tolist()):
        mine, was = cut["batch"] == new, index == old
        assert torch.equal(cut["pos"][mine], batch["pos"][was])
        assert torch.equal(cut["cell"][new], batch["cell"][old])
        assert torch.equal(cut["pos"][cut["ptr"][new] : cut["ptr"][new + 1]], batch["pos"][was])
    ends = cut["pos"][cut["edge_index"]]
    kept = torch.isin(index[edges[0]], chosen)
    assert torch.equal(ends, batch["pos"][edges[:, kept]])
    assert torch.equal(cut["length"], batch["length"][kept])
    with pytest.raises(CannotCut):
        cut_graphs({**batch, "angle_index": torch.zeros(3, 7).long()}, chosen, GraphNames.usual(batch), index)
    with pytest.raises(CannotCut):
        chosen_structures(FEW - 1, 0, 0)
    assert len(chosen_structures(2 * FEW - 1, 0, 0)) == FEW // 2


def test_a_network_whose_structures_depend_on_each_other_is_not_cut() -> None:
    class Coupled(Planted):
        def forward(self, pos: Tensor, batch: Tensor | None = None) -> dict[str, Tensor]:
            found = super().forward(pos, batch)
            return {"forces": found["forces"] + pos.mean(0)}

    (batch, _), net = dense(), Coupled()
    live = LiveOrbit(net, DENSE)
    call = live.keep((), batch)
    live.resolve(call, net(**batch))
    assert live.part(call, net(**batch), 0, 0) is None
