"""The study of force fields in training: networks, labels, and what it measures against computations of its own."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase.io import read, write
from scipy.spatial.transform import Rotation

from equiv_probe.scaling.table import write_csv

from .studies import module_of, modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

    from torch import Tensor, nn

STUDY = Path(__file__).parents[2] / "integrations" / "force_field_training"
NAMES = {
    STUDY.parent / "force_field": ("transformer", "labelled", "evaluate", "train"),
    STUDY: (
        "force_field",
        "labelled_sets",
        "networks",
        "measuring",
        "settings",
        "training",
        "figures",
        "study",
        "landscape",
        "efficiency",
    ),
}
TINY = {"width": 16, "layers": 1, "batch": 8, "warmup": 3, "steps": 12, "evaluations": 3, "held_out": 6, "rate": 1e-2}


@pytest.fixture(scope="module")
def study() -> Iterator[SimpleNamespace]:
    """The study's modules, in the order of their imports; on the 60 shipped molecules, of which 12 are held out."""
    before = list(sys.path)
    with modules_of(*NAMES.items()) as loaded:
        data = loaded.labelled.load(loaded.evaluate.HELD_OUT)
        rows = torch.arange(60)
        parts = tuple(loaded.labelled_sets.take(data, rows[chosen]) for chosen in (rows % 5 != 0, rows % 5 == 0))
        loaded.labelled_sets.read = lambda name: parts
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # runs are compared bit by bit
        yield loaded
        torch.set_num_threads(threads)
    sys.path[:] = before


def haar(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix())


def net_of(study: SimpleNamespace, model: str) -> nn.Module:
    torch.manual_seed(0)
    return study.networks.network(model, 16, 2, 1.3, 2.5).double().eval()


def molecules(study: SimpleNamespace) -> tuple[Tensor, Tensor]:
    held = study.labelled_sets.sets("gfn2", held_out=5).held
    return held.positions.double(), held.species


# --- networks


def test_painn_is_equivariant_to_rounding_and_the_transformer_is_not(study: SimpleNamespace) -> None:
    positions, species = molecules(study)
    rotate, off = haar(1)[0], {}
    for model in ("painn", "transformer"):
        net = net_of(study, model)
        energy, forces = (value.detach() for value in net(positions, species))
        other, rotated = (value.detach() for value in net(positions @ rotate.T, species))
        off[model] = max(
            float((rotated - forces @ rotate.T).abs().max() / forces.abs().max()),
            float((other - energy).abs().max() / energy.abs().max()),
        )
    assert off["painn"] < 1e-11  # float64 through two interactions
    assert off["transformer"] > 0.01


def test_forces_of_painn_are_the_gradient_of_its_energy(study: SimpleNamespace) -> None:
    net = net_of(study, "painn")
    positions, species = molecules(study)
    _, forces = net(positions, species)
    step = 1e-5 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1)).double()
    up, down = (net(positions + sign * step, species)[0] for sign in (1, -1))
    expected = (forces * step).sum((1, 2))
    # Central differences: the error is of third order in 1e-5 Å.
    torch.testing.assert_close((down - up) / 2, expected, rtol=1e-5, atol=1e-10)
    assert (forces[species == 0] == 0).all()


def test_padding_and_company_change_nothing(study: SimpleNamespace) -> None:
    net = net_of(study, "painn")
    positions, species = molecules(study)
    together = net(positions, species)
    junk = positions.masked_fill((species == 0)[..., None], 0.7)
    size = int((species[0] > 0).sum())
    alone = net(positions[:1, :size], species[:1, :size])
    assert size < species.shape[1]
    for one, other in zip(together, net(junk, species), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(alone[0], together[0][:1], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(alone[1][0], together[1][0, :size], rtol=1e-11, atol=1e-12)


# --- labels


def test_smaller_parts_are_contained_in_larger_ones_and_held_out_structures_are_the_same(
    study: SimpleNamespace,
) -> None:
    whole, part = (study.labelled_sets.sets("gfn2", fraction=fraction) for fraction in (1.0, 0.25))
    assert (len(whole.train.energies), len(part.train.energies)) == (48, 12)
    assert set(part.train.energies.tolist()) < set(whole.train.energies.tolist())
    assert whole.held.energies.tolist() == part.held.energies.tolist()
    assert not set(whole.held.energies.tolist()) & set(whole.train.energies.tolist())
    assert set(part.seen.energies.tolist()) <= set(part.train.energies.tolist())


def test_noise_puts_a_floor_of_its_variance_under_the_loss_and_leaves_the_equivariance_loss_alone(
    study: SimpleNamespace, tmp_path: Path
) -> None:
    found, sigma = {}, 0.0
    for noise in (0.0, 2.0):
        settings = study.training.Settings(**{**TINY, "held_out": 12}, noise=noise)
        run = study.training.Run(settings, tmp_path / str(noise))
        if not noise:
            net, sigma = run.net, 2.0 * study.labelled_sets.rms(run.sets.train)
        rows = study.measuring.decomposed(net, run.labels(run.sets.held), run.plan)
        found[noise] = next(row for row in rows if (row["output"], row["loss"]) == ("forces", "mse"))
        atoms = int((run.sets.held.species > 0).sum())
        assert (run.sets.held.forces[run.sets.held.species == 0] == 0).all()
    # L_equiv of squared error does not know the labels: equal to the rounding of float64 sums.
    assert found[2.0]["L_equiv"] == pytest.approx(found[0.0]["L_equiv"], rel=1e-6)
    # Var of a mean of 3N squares of noise, and of the cross term with errors of mean square L_total.
    error = math.sqrt((2 * sigma**4 + 4 * sigma**2 * found[0.0]["L_total"]) / (3 * atoms))
    assert abs(found[2.0]["L_total"] - found[0.0]["L_total"] - sigma**2) < 5 * error < sigma**2


def test_kept_tensors_are_those_of_the_file(
    study: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.labelled_sets, "KEPT", tmp_path / "runs")
    path, frames = tmp_path / "some.extxyz", read(study.evaluate.HELD_OUT, ":6")
    for some in (frames[:3], frames[3:]):  # the file, and the file when it has changed
        write(path, some)
        first, again = study.labelled_sets.kept(path), study.labelled_sets.kept(path)
        for one, other, fresh in zip(first, again, study.labelled.load(path), strict=True):
            assert torch.equal(one, fresh)
            assert torch.equal(other, fresh)
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["some.pt"]


@pytest.mark.skipif("EQUIV_PROBE_DATA" not in os.environ, reason="EQUIV_PROBE_DATA is not set")
@pytest.mark.parametrize(("name", "count", "atoms"), [("ethanol", 1000, 9), ("3bpa", 500, 27)])
def test_larger_sets(study: SimpleNamespace, name: str, count: int, atoms: int) -> None:
    module = module_of(STUDY / "labelled_sets.py", "unpatched")
    train, held = module.read(name)
    assert (len(train.energies), len(held.energies)) == (count - 100, 100)
    assert train.species.shape[1] == atoms
    assert len({*train.energies.tolist(), *held.energies.tolist()}) == count  # every frame once
    assert 0.5 < module.rms(train) < 3  # eV/Å


# --- what is measured


@pytest.mark.slow
def test_share_of_the_shipped_force_field_is_that_of_its_own_estimate(study: SimpleNamespace) -> None:
    """Against independent Haar rotations and the sample variance, which know nothing of the instrument."""
    calc = study.transformer.calculator()
    data = study.labelled.load(study.evaluate.HELD_OUT)
    data = study.labelled_sets.take(data, torch.arange(0, 60, 3))  # one geometry of each molecule
    sizes = (data.species > 0).sum(1)
    batch = study.measuring.Batch(data.positions, data.species, torch.zeros(20), data.forces)
    plan = study.measuring.ep.RotationPlan("tetrahedral", replicates=4, seed=3)
    rows = study.measuring.decomposed(calc.network, batch, plan)
    row = next(row for row in rows if (row["output"], row["loss"]) == ("forces", "mse"))
    total, equiv = study.evaluate.force_decomposition(calc.network, data, rotations=48, seed=5)
    # 48 rotations of 283 atoms on either side: they scatter by a few percent.
    assert row["L_total"] == pytest.approx(total, rel=0.1)
    assert row["L_equiv"] == pytest.approx(equiv, rel=0.1)
    assert row["share"] > 0.1
    own = study.evaluate.errors(calc.network, torch.zeros(7, dtype=torch.float64), data).force_rmse ** 2
    assert row["L_data"] == pytest.approx(own, rel=1e-5)
    energy = next(row for row in rows if (row["output"], row["loss"]) == ("energy", "mse"))
    with torch.no_grad():
        per_atom = calc.network(data.positions, data.species)[0] / sizes
    assert energy["L_data"] == pytest.approx(float(per_atom.square().mean()), rel=1e-5)


@pytest.mark.parametrize(("loss", "exponent"), [("mse", 2), ("mae-norm", 1)])
def test_losses_of_forces_known_in_closed_form(study: SimpleNamespace, loss: str, exponent: int) -> None:
    """Forces `A x` against `x tr(A)/3`: L_total is E‖(A − tr(A)/3) x‖², all of it broken symmetry."""
    stretch = torch.diag(torch.tensor([2.0, 0.5, 0.5], dtype=torch.float64))

    class Stretched(torch.nn.Module):
        def forward(self, positions: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
            return positions.sum((1, 2)) * 0, positions @ stretch

    positions, species = molecules(study)
    real = (species > 0)[..., None]
    positions = (positions - (positions * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)) * real
    batch = study.measuring.Batch(positions, species, torch.zeros(len(species)).double(), positions)
    rows = study.measuring.decomposed(Stretched(), batch, study.measuring.ep.RotationPlan("tetrahedral", 2))
    row = next(row for row in rows if (row["output"], row["loss"]) == ("forces", loss))
    norms = positions[species > 0].norm(dim=-1)
    if exponent == 2:  # Haar average of ‖(A − 1) u‖² is ‖A − 1‖²_F / 3 = 0.5; per component. Degree 2 is exact here.
        assert row["L_total"] == pytest.approx(0.5 * float(norms.square().mean()) / 3, rel=1e-9)
        assert row["L_mean"] == pytest.approx(0, abs=1e-9)
        assert row["share"] == pytest.approx(1, abs=1e-9)
    else:  # ‖(A − 1) u‖ = √(¼ + ¾ z²), averaged over z = cos θ
        z = (np.arange(10000) + 0.5) / 10000
        mean = np.sqrt(0.25 + 0.75 * z**2).mean()
        assert row["L_total"] == pytest.approx(mean * float(norms.mean()), rel=0.05)  # 24 rotations, no polynomial
    frame = (positions @ stretch - positions)[species > 0]
    expected = frame.square().mean() if exponent == 2 else frame.norm(dim=-1).mean()
    assert row["L_data"] == pytest.approx(float(expected), rel=1e-9)


def test_without_rotations_there_is_nothing_to_see(study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: rotations replaced by the identity."""
    plan = study.measuring.ep.RotationPlan("tetrahedral", 2)
    ones = torch.eye(3, dtype=torch.float64).expand(2, 12, 3, 3).clone()
    monkeypatch.setattr(type(plan), "rotations", lambda self, generator=None: ones)
    held = study.labelled_sets.sets("gfn2", held_out=5).held
    batch = study.measuring.Batch(held.positions, held.species, held.energies.float(), held.forces)
    torch.manual_seed(0)
    for row in study.measuring.decomposed(study.networks.network("transformer", 16, 1, 1.0, 1.0), batch, plan):
        assert abs(row["L_equiv"]) < 1e-6 * row["L_total"]


# --- training


def run(study: SimpleNamespace, out: Path, **changes: Any) -> Any:
    return study.training.Run(study.training.Settings(**{**TINY, **changes}), out)


def test_labels_rotate_with_the_molecules(study: SimpleNamespace, tmp_path: Path) -> None:
    """Forces planted equal to the positions stay equal to them, and distances stay."""
    batches = []
    for augment in (True, False):
        one = run(study, tmp_path / str(augment), augment=augment)
        one.sets = one.sets._replace(train=one.sets.train._replace(forces=one.sets.train.positions))
        batches.append(one.batch())
    rotated, straight = batches
    assert torch.equal(rotated.forces, rotated.positions)
    assert float((rotated.positions - straight.positions).square().mean()) > 0.5
    lengths = [batch.positions.norm(dim=-1) for batch in batches]
    torch.testing.assert_close(*lengths, rtol=0, atol=1e-4)


def test_loss_is_in_units_of_the_labels(study: SimpleNamespace, tmp_path: Path) -> None:
    """A network that says nothing has a force loss of one, and an energy loss that is written down here."""

    class Silent(torch.nn.Module):
        def forward(self, positions: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
            return positions.sum((1, 2)) * 0, positions * 0

    for loss, power in (("mse", 2), ("mae-norm", 1)):
        one = run(study, tmp_path / loss, loss=loss)
        batch = one.labels(one.sets.train)
        one.net = Silent()
        energies = (one.interaction / one.sizes).abs().pow(power).mean() / one.energy_scale**power
        norms = batch.forces.norm(dim=-1)[batch.species > 0]
        forces = 1.0 if power == 2 else float(norms.mean()) / one.force_scale
        assert float(one.loss(batch)) == pytest.approx(forces + 10 * float(energies), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"augment": True}, {"optimiser": "muon"}, {"optimiser": "sgd", "augment": True}, {"model": "painn"}],
    ids=str,
)
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
    study: SimpleNamespace, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = run(study, tmp_path / "whole", **changes).train()
    run(study, tmp_path / "parts", **changes).train(until=11)  # between two measurements, in the second epoch
    parts = run(study, tmp_path / "parts", **changes)
    assert parts.step == 11
    parts.train()
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, parts.net.state_dict()[name]), name
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in one.rows] for one in (whole, parts)]
    assert rows[0] == rows[1]
    assert {row["step"] for row in rows[0]} == {0, 10, 11, 12}
    # Another seed gives other numbers, so that the comparison says something.
    other = run(study, tmp_path / "other", **changes, seed=1).train(until=0)
    assert other.rows[0]["L_total"] != rows[0][0]["L_total"]
    with pytest.raises(ValueError, match="other settings"):
        run(study, tmp_path / "parts", **changes, seed=1)


def test_kept_weights_are_those_that_were_measured(study: SimpleNamespace, tmp_path: Path) -> None:
    trained = run(study, tmp_path).train()
    first = run(study, tmp_path / "again")
    first.net.load_state_dict(torch.load(tmp_path / "step0.pt"))
    rows = study.measuring.decomposed(first.net, first.labels(first.sets.held), first.plan)
    for row, logged in zip(
        rows, [row for row in trained.rows if row["step"] == 0 and row["part"] == "held"], strict=True
    ):
        assert row == {key: logged[key] for key in row}


@pytest.mark.slow
def test_a_few_molecules_are_learned_by_heart_in_their_frame_or_in_all(study: SimpleNamespace, tmp_path: Path) -> None:
    for model in ("transformer", "painn"):
        rows = run(study, tmp_path / model, model=model, steps=150, batch=3, fraction=0.2).train().rows
        first, *_, last = [r for r in rows if (r["part"], r["output"], r["loss"]) == ("seen", "forces", "mse")]
        assert last["L_data"] < 0.9 * first["L_data"]
        # What was learned in one frame is wrong in others, unless the network is equivariant.
        assert (last["L_total"] > 1.5 * last["L_data"]) == (model == "transformer")
        if model == "painn":
            assert all(abs(row["share"]) < 1e-5 for row in rows)  # single precision; the transformer's is 1e-2


# --- the study


@pytest.mark.parametrize("name", ["small", "ethanol", "3bpa", "sweeps", "gpu"])
def test_configurations_are_readable(study: SimpleNamespace, name: str) -> None:
    for settings in study.training.Settings.read(name).values():
        steps = settings.measured()
        assert steps[0] == 0
        assert steps[-1] == settings.steps
        assert {100, 1000} <= set(steps)
        assert settings.width % 8 == 0
        assert 0 < settings.rate_at(settings.warmup) <= settings.rate


def test_a_misspelt_field_is_refused(study: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("runs: {one: {batches: 3}}\n")
    with pytest.raises(ValueError, match="batches"):
        study.training.Settings.read(str(path))


@pytest.mark.slow
def test_the_command_writes_what_was_measured(
    study: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"all: {TINY}\nruns:\n  plain: {{}}\n  rotated: {{augment: true}}\n".replace("'", ""))
    monkeypatch.setattr(study.study, "HERE", tmp_path)
    monkeypatch.setattr(study.study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["study.py", "--config", str(path), "--device", "cpu"])
    study.study.main()
    first = (tmp_path / "results" / "tiny_steps.csv").read_text()
    lines = [
        dict(zip(first.split("\n")[0].split(","), line.split(","), strict=True)) for line in first.splitlines()[1:]
    ]
    assert {line["run"] for line in lines} == {"plain", "rotated"}
    for line in lines:
        assert float(line["L_mean"]) == pytest.approx(float(line["L_total"]) - float(line["L_equiv"]), abs=2e-5)
    shown = capsys.readouterr().out
    last = [line for line in lines if (line["part"], line["output"], line["step"]) == ("held", "forces", "12")]
    assert len(last) == 4
    assert all(f"{100 * float(line['share']):.2g} ±" in shown for line in last)
    assert (tmp_path / "results" / "tiny_steps.png").stat().st_size > 10000
    study.study.main()  # what is finished is not done again
    assert (tmp_path / "results" / "tiny_steps.csv").read_text() == first


def test_settings_that_differ_are_told_apart(study: SimpleNamespace) -> None:
    usual = study.training.Settings()
    assert study.study.settings_of(usual) == {}
    assert study.study.settings_of(replace(usual, noise=0.3, steps=5)) == {"noise": 0.3, "steps": 5}


# --- the landscape


@pytest.mark.slow
def test_the_landscape_is_that_of_the_measured_losses(study: SimpleNamespace, tmp_path: Path) -> None:
    """The differentiable loss is the measured one, and its curvature that of finite differences of its gradient."""
    one = run(study, tmp_path, width=8, augment=True).train()
    batch = study.landscape.molecules(one, 2, 12)
    assert batch.species.shape[0] == 2
    assert batch.species.shape[1] <= 12
    plan = study.measuring.ep.RotationPlan("tetrahedral", replicates=2, seed=4)
    row = next(r for r in study.measuring.decomposed(one.net, batch, plan) if r["output"] == "forces")
    given = study.landscape.losses(one.net, batch, plan)
    total, mean, equiv = (float(value.detach()) for value in given[0]())
    # Single precision on either side, in another order.
    assert (total, equiv) == pytest.approx((row["L_total"], row["L_equiv"]), rel=1e-4)
    assert mean == pytest.approx(total - equiv, rel=1e-9)
    assert float(given[1]()[2].detach()) != equiv  # other rotations
    found = study.landscape.curvature(given, probes=2, steps=4)
    for name, which in (("mean", 1), ("equiv", 2)):
        weights = [p for p in one.net.parameters() if p.requires_grad]
        assert found[name]["parameters"] == sum(p.numel() for p in weights)
        # A random direction's curvature is below the largest eigenvalue, and above the smallest.
        torch.manual_seed(1)
        step = [torch.randn_like(p) for p in weights]
        length = sum(float(s.square().sum()) for s in step) ** 0.5
        slopes = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, s in zip(weights, step, strict=True):
                    p.add_(s, alpha=sign * 1e-2 / length)
            grads = torch.autograd.grad(given[0]()[which], weights, allow_unused=True)
            slopes.append(sum(float((g * s).sum()) for g, s in zip(grads, step, strict=True) if g is not None) / length)
            with torch.no_grad():
                for p, s in zip(weights, step, strict=True):
                    p.sub_(s, alpha=sign * 1e-2 / length)
        bend = (slopes[0] - slopes[1]) / 2e-2
        assert found[name]["smallest"]["value"] <= bend <= found[name]["largest"]["value"]
        assert found[name]["largest"]["value"] > 0
    # One structure's gradient against another's, averaged over all pairs: the length without the noise's own.
    whole = one.labels(one.sets.held)
    lengths = study.landscape.gradients(one.net, whole, 2)
    loss = study.landscape.loss_of(one.net, whole, plan)
    exact = torch.autograd.grad(loss()[2], weights, allow_unused=True)
    squared = sum(float(g.square().sum()) for g in exact if g is not None)
    assert lengths["units"] == len(whole.species)
    # Of six structures; the plain square is longer by their noise.
    assert abs(lengths["squared_equiv"] - squared) < 5 * lengths["squared_equiv_stderr"] + squared / 2
    line = study.landscape.line(given, seed=0)
    assert line


# --- loss per time of the device


def test_the_faster_of_two_planted_curves_is_found(
    study: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses t^-½ and 3 t^-0.8 of seconds t cross at 3^(1/0.3) s; steps of the second take twice as long."""
    rows = []
    for run, loss, cost in (("plain", lambda t: t**-0.5, 1.0), ("equal", lambda t: 3 * t**-0.8, 2.0)):
        for step in (0, *(round(2 ** (k / 2)) for k in range(4, 20))):
            found = loss(cost * step) if step else 9.0
            common = {
                "run": run,
                "step": step,
                "seconds": cost * step,
                "part": "held",
                "output": "forces",
                "loss": "mse",
            }
            rows += [{**common, "L_total": found, "L_total_stderr": 0.01 * found}]
            rows += [{**common, "loss": "mae-norm", "L_total": 5.0, "L_total_stderr": 0.1}]
    monkeypatch.setattr(study.efficiency, "RESULTS", tmp_path)
    write_csv(tmp_path / "mine_steps.csv", rows)
    for x, expected in (("seconds", 3 ** (1 / 0.3)), ("step", (3 * 2**-0.8) ** (1 / 0.3))):
        (crossing,) = study.efficiency.compared("mine", "plain", "equal", x).crossings
        assert crossing.after == "equal"
        assert crossing.x.value == pytest.approx(expected, rel=0.02)  # interpolated between steps
        assert crossing.x.low < expected < crossing.x.high
