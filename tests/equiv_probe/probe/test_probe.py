"""The probe's numbers on live modules: closed forms, error bars, layouts, stacking, schedules, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.probe.account import Account
from equiv_probe.probe.schedule import Schedule
from equiv_probe.testing import CentralForces, LinearField, PlantedModel, QuadraticEnergy

from ..live_models import BOTH, FORCES, MUTATING, Energy, Mutating, Planted, Unseen, mutating_batch

EXACT = ep.RotationPlan("icosahedral", replicates=2)


def batch(count: int = 6, atoms: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def known(model: PlantedModel, x: Tensor, name: str) -> float:
    return sum(model.equiv(one)[name] for one in x) / len(x)


def test_full_mode_is_exact_where_the_plan_is(matrix: Tensor) -> None:
    planted = QuadraticEnergy(matrix)
    model, x = Planted(planted).eval(), batch()
    with ep.Probe(model, BOTH, EXACT, full=1) as probe:
        model(x)
    for name in ("energy", "forces"):
        found = probe.compute()[f"equiv/val/{name}/L_equiv"]
        assert abs(found / known(planted, x, name) - 1) < 1e-10, name


@pytest.mark.slow
@pytest.mark.parametrize("average", [True, False], ids=["", "negative-control"])
def test_light_mode_is_unbiased_and_its_error_bar_covers(average: bool, matrix: Tensor, monkeypatch: Any) -> None:
    """Two rotations at a time: the mean over many is the closed form, and z-scores over seeds are standard normal."""
    if not average:  # the same rotation twice: there is no orbit to average over
        same = lambda plan, generator, count: torch.eye(3, dtype=torch.float64).expand(2, 1, count, 3, 3)  # noqa: E731
        monkeypatch.setattr("equiv_probe.rotations.drawing.draw", same)
    planted = LinearField(matrix)
    model, x = Planted(planted).train(), batch(32)
    exact, scores = known(planted, x, "forces"), []
    for seed in range(60):
        # One measurement of each batch: structures differ, so its error bar is over structures and rotations.
        with ep.Probe(model, FORCES, every=1, seed=seed) as probe:
            model(x)
        sums = probe.running["train", "forces"].everything
        scores.append((sums.equiv.value - exact) / max(sums.equiv.stderr, 1e-12))
    mean = torch.tensor(scores).mean()
    if average:
        # The error bar counts the scatter between structures, which is the same in every repetition: scores are
        # narrower than standard normal, and centred.
        assert abs(mean) < 4 / 60**0.5 + 0.2
        assert torch.tensor(scores).std() < 1.3
    else:
        assert mean < -10


def test_an_equivariant_model_reads_rounding(matrix: Tensor) -> None:
    model, x = Planted(CentralForces()), batch()
    with ep.Probe(model, BOTH, every=1) as probe:
        model(x)
    assert probe.compute()["equiv/train/forces/L_equiv"] < 1e-28
    with ep.Probe(Planted(LinearField(matrix)), FORCES, every=1) as probe:
        probe.model(x)
    assert probe.compute()["equiv/train/forces/L_equiv"] > 1e-2


class Flat(nn.Module):
    """A linear field on a flat batch, about each structure's centroid."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, pos: Tensor, batch: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sums = torch.zeros(int(batch.max()) + 1, 3, dtype=pos.dtype).index_add(0, batch, pos)
        x = pos - (sums / torch.bincount(batch)[:, None])[batch]
        energy = torch.zeros(len(sums), dtype=pos.dtype).index_add(0, batch, (x * (x @ self.matrix.mT)).sum(-1))
        edges = (pos[edge_index[0]] - pos[edge_index[1]]) @ self.matrix.mT
        return energy, x @ self.matrix.mT, edges


def test_a_flat_batch_equals_its_structures_one_by_one(matrix: Tensor) -> None:
    """Centroids, rotations and weights follow the batch index, for graph, node and edge outputs alike."""
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector, "edges": ep.vector})
    sizes = [3, 6, 4]
    structures = [batch(1, n, seed=n)[0] + 10 * n for n in sizes]
    edges = [torch.tensor([[0, 1, 2], [1, 2, 0]]) for _ in sizes]
    starts = [0, 3, 9]
    model = Flat(matrix).eval()
    with ep.Probe(model, schema, EXACT, full=1) as probe:
        model(
            torch.cat(structures),
            torch.arange(3).repeat_interleave(torch.tensor(sizes)),
            torch.cat([e + s for e, s in zip(edges, starts, strict=True)], 1),
        )
    found = probe.compute()
    assert probe.schema.batch == "batch", "found by its name and shape"
    ones, field = QuadraticEnergy(matrix), LinearField(matrix)
    energy = sum(ones.equiv(x)["energy"] for x in structures) / 3
    forces = sum(field.equiv(x)["forces"] * len(x) for x in structures) / sum(sizes)
    assert abs(found["equiv/val/energy/L_equiv"] / energy - 1) < 1e-10
    assert abs(found["equiv/val/forces/L_equiv"] / forces - 1) < 1e-10
    # E_g ‖gᵀ A g d‖² − ‖tr(A)/3 d‖² over three components, for each edge vector d.
    size = sum(float((x[e[0]] - x[e[1]]).square().sum()) for x, e in zip(structures, edges, strict=True)) / 27
    per_length = field.equiv(structures[0])["forces"] / float((structures[0] - structures[0].mean(0)).square().mean())
    assert abs(found["equiv/val/edges/L_equiv"] / (per_length * size) - 1) < 1e-10
    assert probe.running["val", "energy"].everything.count == 3


def test_padding_does_not_count(matrix: Tensor) -> None:
    class Padded(nn.Module):
        def forward(self, pos: Tensor, mask: Tensor) -> Tensor:
            centre = (pos * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
            return ((pos - centre) @ matrix.mT) * mask[..., None]

    short, long = batch(1, 3)[0], batch(1, 5, seed=1)[0]
    pos, mask = torch.zeros(2, 5, 3, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.bool)
    pos[0, :3], pos[1], mask[0, :3], mask[1] = short + 5, long, True, True
    model = Padded().eval()
    with ep.Probe(model, ep.Schema({"pos": ep.point}, {"forces": ep.vector}), EXACT, full=1) as probe:
        model(pos, mask)
    field = LinearField(matrix)
    expected = (3 * field.equiv(short)["forces"] + 5 * field.equiv(long)["forces"]) / 8
    assert abs(probe.compute()["equiv/val/forces/L_equiv"] / expected - 1) < 1e-10


def test_self_mutating_dicts_with_autograd_forces() -> None:
    torch.manual_seed(0)
    model = Mutating().eval()
    inputs = mutating_batch()
    with ep.Probe(model, MUTATING, EXACT, full=1) as probe, torch.enable_grad():
        model(inputs)
    planted = QuadraticEnergy(model.matrix.detach())
    pieces = torch.split(mutating_batch()["_positions"], [3, 5, 4])
    expected = sum(planted.equiv(x)["energy"] for x in pieces) / 3
    assert abs(probe.compute()["equiv/val/energy/L_equiv"] / expected - 1) < 1e-10
    expected = sum(planted.equiv(x)["forces"] * len(x) for x in pieces) / 12
    assert abs(probe.compute()["equiv/val/forces/L_equiv"] / expected - 1) < 1e-10


def test_copies_are_stacked_where_that_is_right_and_only_there() -> None:
    passes = Unseen()

    class Counting(nn.Module):
        def __init__(self, *, mixes: bool) -> None:
            super().__init__()
            self.mixes = mixes

        def forward(self, pos: Tensor) -> Tensor:
            passes.note(len(pos))
            x = pos - pos.mean(1, keepdim=True)
            return x * (x[..., :1].square().mean() if self.mixes else x[..., :1].square())

    # The user's own; controls: the same as is, moved, at a rotation, others displaced twice, one alone, chance.
    first = [4, 4, 4, 4, 4, 4, 1, 4]
    # Two alone and together, to compare; not where structures depend on each other. In the end two for the floor.
    for mixes, expected in ((False, [*first, 4, 4, 8, 24 * 4, 8]), (True, [*first, *(4,) * 26])):
        passes.noted.clear()
        model = Counting(mixes=mixes).eval()
        with ep.Probe(
            model, ep.Schema({"pos": ep.point}, {"0": ep.vector}), ep.RotationPlan("tetrahedral", 1 + 1), full=1
        ) as probe:
            model(batch(4))
        assert passes.noted == expected
        assert probe.compute()["equiv/val/0/L_equiv"] > 0


def test_running_out_of_memory_halves_the_pass() -> None:
    passes = Unseen()

    class Small(nn.Module):
        def forward(self, pos: Tensor) -> Tensor:
            passes.note(len(pos))
            if len(pos) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return pos * pos[..., :1]

    model = Small().eval()
    schema = ep.Schema({"pos": ep.point}, {"0": ep.vector})
    with ep.Probe(model, schema, EXACT, full=1, cost=None, stacked=True) as probe:
        model(batch(4))
    assert max(passes.noted[-10:]) <= 20
    assert sum(n for n in passes.noted[10:] if n <= 20) == 122 * 4, (
        "after the first ten, which are others; with the floor"
    )
    assert probe.compute()["equiv/val/0/L_equiv"] > 0


def test_autograd_forces_inside_no_grad_are_differentiated_again() -> None:
    torch.manual_seed(0)
    model = Energy().train()
    with ep.Probe(model, BOTH, every=1) as probe:
        output = model(batch(6, 4))
    assert output["forces"].requires_grad, "the user's own graph is there"
    assert probe.compute()["equiv/train/forces/L_equiv"] > 0


def test_window_and_checkpoint(matrix: Tensor) -> None:
    model, planted = Planted(LinearField(matrix)).eval(), LinearField(matrix)
    first, second = batch(3), 2 * batch(3, seed=1)
    probe = ep.Probe(model, FORCES, EXACT, full=1, cost=None, window=1)
    with probe:
        model(first)
        model(second)
    recent, ever = (probe.compute(window=w)["equiv/val/forces/L_equiv"] for w in (True, False))
    assert abs(recent / known(planted, second, "forces") - 1) < 1e-10
    assert abs(ever / known(planted, torch.cat([first, second]), "forces") - 1) < 1e-10
    resumed = ep.Probe(model, FORCES, EXACT, full=1, cost=None, window=1)
    resumed.load_state_dict(probe.state_dict())
    for one in (probe, resumed):
        with one:
            model(first)
    assert resumed.compute(window=False) == probe.compute(window=False)
    assert resumed.compute() == probe.compute()


def test_schedules() -> None:
    due = [Schedule(every=lambda step: step in {3, 5}).due() for _ in range(1)]
    assert due == [False]
    rule = Schedule(every=lambda step: step in {3, 5})
    assert [step for step in range(8) if rule.due()] == [3, 5]
    assert not any(Schedule(None).due() for _ in range(5))
    random = Schedule(every=10, at_random=True)
    chosen = [step for step in range(1000) if random.due()]
    assert len(chosen) == 100
    assert {step // 10 for step in chosen} == set(range(100)), "one in each run of ten"
    assert len({step % 10 for step in chosen}) == 10, "and not always the same"
    poor = Schedule(every=1, limited=True, account=Account(cost=0.01))
    assert poor.due()
    poor.spent(3600.0)
    assert not poor.due()


def test_warmup_and_never(matrix: Tensor) -> None:
    model, x = Planted(LinearField(matrix)).train(), batch(4)
    with ep.Probe(model, FORCES, every=2, warmup=3, full=None) as probe:
        for _ in range(8):
            model(x)
        model.eval()
        model(x)
    assert probe.running["train", "forces"].everything.count == 3 * 4
    assert set(probe.running) == {("train", "forces")}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_model_with_scripted_parts() -> None:
    torch.manual_seed(0)
    part = torch.jit.script(nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 3)).double())
    model = nn.Sequential(part).train()
    with ep.Probe(model, ep.Schema({"input": ep.point}, {"0": ep.vector}), every=1) as probe:
        model(batch())
    assert all(m.training for m in model.modules())
    assert probe.compute()["equiv/train/0/L_equiv"] > 0
    with pytest.raises(ep.EquivProbeError, match=r"wrap it, and use the wrapper"):
        ep.Probe(part).attach()


def test_errors_teach(matrix: Tensor) -> None:
    model, x = Planted(LinearField(matrix)), batch()
    with pytest.raises(ep.EquivProbeError, match="at least two"):
        ep.Probe(model, FORCES, ep.RotationPlan("klein", 1))
    with pytest.raises(ep.EquivProbeError, match="1 or more"), ep.Probe(model, FORCES, every=0):
        model(x)
    wrong = ep.Schema({"xyz": ep.point}, {"forces": ep.vector})
    with pytest.raises(ep.EquivProbeError, match=r"found inputs \['pos'\]"), ep.Probe(model, wrong, every=1):
        model(x)
    wrong = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    with pytest.raises(ep.EquivProbeError, match=r"found outputs \['forces'\]"), ep.Probe(model, wrong, every=1):
        model(x)
    probe = ep.Probe(model, FORCES)
    with pytest.raises(ep.EquivProbeError, match="did not call the probed module"):
        probe.replay(lambda: torch.zeros(()))
    with pytest.raises(ep.EquivProbeError, match=r"did not call .* its methods, such as network._forward"):
        probe.replay(lambda: model.forward(x)["forces"].square().mean())
    with pytest.raises(ep.EquivProbeError, match="without a number"):
        probe.replay(lambda: model(x)["forces"].shape and None)


@pytest.mark.slow
def test_a_single_measurement_has_the_error_bar_of_its_replicates() -> None:
    """Over seeds, the standard error of one batch's share is what its values scatter by; two batches use batches."""
    torch.manual_seed(0)
    model, x, y = Energy(inside=True).eval(), batch(4, 4), batch(4, 4, seed=1)
    shares, errors = [], []
    for seed in range(40):
        probe = ep.Probe(model, BOTH, ep.RotationPlan("haar", 12), full=1, cost=None, seed=seed)
        probe.step(lambda: (model(x)["forces"] - y).square().mean())
        found = probe.compute()
        shares.append(found["equiv/val/loss/share"])
        errors.append(found["equiv/val/loss/share_stderr"])
    scatter, claimed = torch.tensor(shares).std(), torch.tensor(errors).square().mean().sqrt()
    assert 0.7 < float(scatter / claimed) < 1.4, "40 seeds and 12 replicates know it to a fifth"
    probe.step(lambda: (model(2 * x)["forces"] - y).square().mean())
    sums = probe.running["val", "loss"].everything
    assert probe.compute()["equiv/val/loss/share_stderr"] == sums.share.stderr
    assert sums.count == 2


def test_few_validation_batches_are_not_left_with_one_measurement() -> None:
    for calls, expected in ((100, 10), (20, 4), (8, 4), (3, 3), (1, 1)):
        schedule = Schedule(10, at_random=True)
        for _ in range(5):
            schedule.begin_epoch(calls)
            assert sum(schedule.due() for _ in range(calls)) == expected
