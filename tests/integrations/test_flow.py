"""The flow study: its networks, data and training loop, and what it measures against a computation of its own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import equiv_probe as ep

from .studies import module_of, modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

    from torch import Tensor, nn

FOLDER = Path(__file__).parents[2] / "integrations" / "flow"
NAMES = ("transformer", "egnn", "flow", "structures", "train", "evaluate", "make_data")
TINY = {"width": 16, "layers": 1, "heads": 2, "egnn_width": 8, "egnn_layers": 2, "batch": 16, "warmup": 5}


@pytest.fixture(scope="module")
def study() -> Iterator[SimpleNamespace]:
    """The study's modules, in the order of their imports; gone from `sys.modules` afterwards."""
    with modules_of((FOLDER, NAMES)) as found:
        yield found


def network(study: SimpleNamespace, model: str) -> nn.Module:
    return study.train.Config(**TINY).network(model).double().eval()


def batch(study: SimpleNamespace, seed: int = 0, count: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    x, z, mask = study.structures.load("ligands")[1].random(count)
    return x.double(), z, mask


def haar(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix())


# --- networks


@pytest.mark.parametrize("improper", [False, True])
def test_egnn_is_equivariant_to_rounding_and_the_transformer_is_not(study: SimpleNamespace, improper: bool) -> None:
    x, z, mask = batch(study)
    t = torch.linspace(0, 1, len(x), dtype=x.dtype)
    g = haar(1)[0] * (-1 if improper else 1)
    off = {}
    for model in ("egnn", "transformer"):
        net = network(study, model)
        with torch.no_grad():
            output = net(x, t, z, mask)
            off[model] = float((net(x @ g.mT, t, z, mask) - output @ g.mT).abs().max() / output.abs().max())
    assert off["egnn"] < 1e-12  # float64 through two layers
    assert off["transformer"] > 0.1


@pytest.mark.parametrize("model", ["egnn", "transformer"])
def test_empty_slots_change_nothing(study: SimpleNamespace, model: str) -> None:
    net = network(study, model)
    x, z, mask = batch(study)
    t = torch.full((len(x),), 0.3, dtype=x.dtype)
    assert not mask.all()
    junk = x.masked_fill(~mask[..., None], torch.nan), torch.where(mask, z, 17)
    wider = [torch.nn.functional.pad(value, pad) for value, pad in ((x, (0, 0, 0, 5)), (z, (0, 5)), (mask, (0, 5)))]
    with torch.no_grad():
        output = net(x, t, z, mask)
        alone = net(x[:1, : int(mask[0].sum())], t[:1], z[:1, : int(mask[0].sum())], mask[:1, : int(mask[0].sum())])
        others = [net(junk[0], t, junk[1], mask), net(wider[0], t, *wider[1:])[:, : x.shape[1]]]
    assert (output[~mask] == 0).all()
    assert output.sum(1).abs().max() < 1e-12 * output.abs().sum(1).max()
    for other in others:
        torch.testing.assert_close(other, output, rtol=1e-10, atol=1e-12)  # sums in another order
    torch.testing.assert_close(alone[0], output[0, : alone.shape[1]], rtol=1e-10, atol=1e-12)


# --- data


def test_shipped_ligands_are_sane(study: SimpleNamespace) -> None:
    stored = np.load(study.structures.SHIPPED)
    count, sizes = len(stored["smiles"]), stored["n_atoms"].astype(int)
    conformers = len(sizes) // count
    cuts = np.cumsum(sizes)[:-1]
    xyz, z = np.split(stored["xyz"] / 1000, cuts), np.split(stored["z"], cuts)
    held = stored["held_out"].reshape(count, conformers)
    assert (held == held[:, :1]).all()  # the split is by molecule
    assert len(set(stored["smiles"].tolist())) == count
    lengths = []
    for k, smiles in enumerate(stored["smiles"].tolist()):
        rows = slice(k * conformers, (k + 1) * conformers)
        molecule = study.make_data.Molecule(smiles, z[rows][0], np.stack(xyz[rows]))
        assert [a.GetAtomicNum() for a in study.make_data.Chem.MolFromSmiles(smiles).GetAtoms()] == list(z[rows][0])
        lengths.append(study.make_data.bond_lengths(molecule).ravel())
    bonds = np.concatenate(lengths)
    # From N≡N and C≡N, 1.1 Å, to C–S and S–S, 1.8 to 2.1 Å, between heavy atoms.
    assert 1.05 < bonds.min() < 1.3 < np.median(bonds) < 1.5 < bonds.max() < 2.2
    assert max(np.abs(x.mean(0)).max() for x in xyz) < 1e-3  # centred, to the digits stored


def test_generator_makes_molecules_with_sane_bonds(study: SimpleNamespace) -> None:
    made = study.make_data.embed("CC(=O)Nc1ccc(O)cc1CCN", 2, seed=1)
    assert made.conformers.shape == (2, len(made.z), 3) == (2, 14, 3)
    assert 1.1 < study.make_data.bond_lengths(made).min() < study.make_data.bond_lengths(made).max() < 1.65
    assert np.abs(made.conformers.mean(1)).max() < 1e-12
    assert study.make_data.embed("CC(=O)Nc1ccc(O)cc1CCN", 2, seed=1).conformers.tolist() == made.conformers.tolist()


def test_structures_as_tensors(study: SimpleNamespace) -> None:
    fit, held = study.structures.load("ligands")
    assert (len(fit), len(held)) == (2500, 500)
    counted = float(fit.x.square().sum() / (3 * fit.sizes.sum()))
    assert abs(counted - 1) < 1e-4  # one unit is the rms coordinate
    x, z, mask = held.take(torch.tensor([3, 5]))
    assert x.shape[1] == int(held.sizes[[3, 5]].max()) == int(mask.sum(1).max())
    assert ((z > 0) == mask).all()


# --- the flow


@pytest.mark.parametrize("predict", ["velocity", "noise", "data"])
def test_exact_answers_lead_along_the_straight_path(study: SimpleNamespace, predict: str) -> None:
    x1, z, mask = batch(study)
    noise = torch.randn_like(x1)
    x0 = study.transformer.centred(noise, mask)
    exact = study.flow.target(x0, x1, predict)
    for t in (0.02, 0.5, 0.98):
        found = study.flow.velocity(exact, torch.lerp(x0, x1, t), t, predict)
        torch.testing.assert_close(found, x1 - x0, rtol=0, atol=1e-12)
    end = study.flow.sampler(lambda x, t, z, mask: exact, z, mask, scale=2.0, predict=predict)(noise)
    # The noise at t = 0 says nothing of the data: the path that starts there leads to their mean.
    torch.testing.assert_close(end, torch.zeros_like(x1) if predict == "noise" else 2.0 * x1, rtol=0, atol=1e-11)


def test_loss_is_a_mean_over_atoms(study: SimpleNamespace) -> None:
    x1, z, mask = batch(study)
    torch.manual_seed(1)
    found = study.flow.loss(lambda x, t, z, mask: torch.where(mask[..., None], 0.0, torch.nan), x1, z, mask)
    torch.manual_seed(1)
    x0, _ = study.flow.draw(x1, mask)
    off = [((x1 - x0)[b, : int(m.sum())]) for b, m in enumerate(mask)]
    torch.testing.assert_close(found, torch.cat(off).square().mean().float())


# --- training, and what it measures


def run(study: SimpleNamespace, out: Path, model: str = "transformer", *, augment: bool = False, **changes: Any) -> Any:
    config = study.train.Config(**{**TINY, "steps": 30, "every": 10, "evaluations": 3, "held_out": 64, **changes})
    return study.train.Run(config, model, augment=augment, out=out)


@pytest.mark.slow
def test_logged_share_is_that_of_a_direct_computation(study: SimpleNamespace, tmp_path: Path) -> None:
    """Against the orbit's variance in float64, with another source of rotations, at the same noise and times."""
    trained = run(study, tmp_path / "run", batch=32).train()
    row = trained.rows[-1]
    assert (row["step"], row["stage"]) == (30, "val")
    net = copy.deepcopy(trained.net).double().eval()
    groups, each = 24, 4  # the log's estimate is of four rotations of each structure
    torch.manual_seed(study.train.EVALUATION_SEED)
    own, total, equiv = [], [], []
    for index in torch.arange(64).split(32):
        x1, z, mask = trained.held.take(index)
        x0, t = (value.double() for value in study.flow.draw(x1, mask))
        x1, count = x1.double(), 3 * mask.sum()
        xt = torch.lerp(x0, x1, t[:, None, None])
        losses, spread = [], []
        with torch.no_grad():
            own.append((net(xt, t, z, mask) - (x1 - x0)).square().sum() / count)
            for k in range(groups):
                orbit = []
                for g in haar(each * len(xt), seed=k).reshape(each, -1, 3, 3):
                    orbit.append(torch.einsum("bji,bnj->bni", g, net(torch.einsum("bij,bnj->bni", g, xt), t, z, mask)))
                h = torch.stack(orbit)
                losses.append((h - (x1 - x0)).square().sum() / count / each)
                spread.append(h.var(0, unbiased=True).sum() / count)
        total.append(torch.stack(losses))
        equiv.append(torch.stack(spread))
    loss, total, equiv = torch.stack(own).mean(), torch.stack(total).mean(0), torch.stack(equiv).mean(0)
    assert abs(row["loss"] - float(loss)) < 1e-5  # the network's own precision
    for name, found in (("L_total", total), ("L_equiv", equiv)):
        # What the log's four rotations scatter by is what ours of four do; five of it, and of our mean.
        error = 5 * float(found.std()) * (1 + 1 / groups) ** 0.5
        assert abs(row[name] - float(found.mean())) < error
        assert error < 0.2 * row[name]  # so that the comparison says something
    assert abs(row["share"] - row["L_equiv"] / row["L_total"]) < 1e-12
    assert row["L_equiv"] > 1e-3 * row["L_total"]  # with the identity in the place of rotations it would be zero


@pytest.mark.slow
def test_egnn_is_at_the_floor(study: SimpleNamespace, tmp_path: Path) -> None:
    rows = [row for row in run(study, tmp_path / "run", "egnn", steps=10).train().rows if row["stage"] == "val"]
    assert len(rows) > 1
    assert all(abs(row["share"]) < 1e-6 for row in rows)  # single precision; the transformer's is 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("augment", [False, True])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
    study: SimpleNamespace, tmp_path: Path, augment: bool
) -> None:
    changes = {"steps": 24, "every": 5, "augment": augment}
    whole = run(study, tmp_path / "whole", **changes).train()
    run(study, tmp_path / "parts", **changes).train(until=13)
    parts = run(study, tmp_path / "parts", **changes)
    assert parts.step == 13
    parts.train()
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, parts.net.state_dict()[name]), name
    wanted = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.rows]
    # Where it was stopped a line more is logged.
    found = [{k: v for k, v in row.items() if k != "seconds"} for row in parts.rows if row["step"] != 13]
    assert found == wanted
    log = (tmp_path / "parts" / "log.csv").read_text().splitlines()
    assert len(log) == 1 + len(parts.rows)


@pytest.mark.slow
def test_augmentation_alone_makes_the_difference(study: SimpleNamespace, tmp_path: Path) -> None:
    plain, rotated = (run(study, tmp_path / str(k), steps=3, augment=bool(k)).train() for k in range(2))
    assert plain.rows[0]["L_equiv"] == rotated.rows[0]["L_equiv"]  # the same network to begin with
    names = dict(plain.net.named_parameters())
    assert any(not torch.equal(names[name], value) for name, value in rotated.net.named_parameters())


@pytest.mark.slow
def test_twirling_takes_the_equivariance_loss_away(study: SimpleNamespace, tmp_path: Path) -> None:
    """The loss of the averaged network is below the loss under rotation by L_equiv."""
    trained = run(study, tmp_path / "run").train()
    probe = ep.Probe(trained.net.eval(), study.flow.schema("velocity"), center="origin")
    plan = ep.RotationPlan("icosahedral", replicates=2)
    torch.manual_seed(5)
    data = trained.held.random(16)

    def loss(net: nn.Module) -> Tensor:
        torch.manual_seed(6)
        return study.flow.loss(net, *data)

    with torch.no_grad():
        replay = probe.replay(lambda: loss(trained.net), plan)
        twirled = ep.Twirled(trained.net, study.flow.schema("velocity"), plan, center="origin")
        after = float(loss(twirled))
    # The average of 120 rotations keeps 1/120 of the variance, and far less where they are icosahedral.
    assert abs(after - (replay.total - replay.equiv)) < replay.equiv / 20
    assert replay.equiv > 20 * replay.equiv_stderr


@pytest.mark.parametrize("name", ["small", "ligands", "adk", "gpu"])
def test_configurations_are_readable(study: SimpleNamespace, name: str) -> None:
    config = study.train.Config.read(name)
    steps = sorted(config.evaluated())
    assert steps[0] == 0
    assert steps[-1] == config.steps
    assert config.width % config.heads == 0
    assert config.rate_at(config.steps) < 1e-12 < config.rate_at(config.warmup) <= config.rate


def test_a_misspelt_field_is_refused(study: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("batches: 3\n")
    with pytest.raises(ValueError, match="batches"):
        study.train.Config.read(str(path))


# --- evaluation


@pytest.mark.slow
def test_bins_of_time_add_up_to_the_loss(study: SimpleNamespace, tmp_path: Path) -> None:
    trained = run(study, tmp_path / "run", steps=5).train()
    probe = study.evaluate.decomposed(trained, rounds=1, plan=ep.RotationPlan("haar", replicates=2))
    bins = probe.over_time("val", "loss").bins
    assert [one.low for one in bins] == pytest.approx([k / 10 for k in range(10)])
    count = sum(one.structures for one in bins)
    assert count == len(trained.held) == 500
    whole = probe.compute(window=False)
    for key, name in (("L_total", "total"), ("L_equiv", "equiv")):
        found = sum(one.structures * getattr(one, name) for one in bins) / count
        # A batch's loss is one number for 32 structures, or for the 20 of the last batch: the mean weighs them alike.
        assert found == pytest.approx(whole[f"equiv/val/loss/{key}"], rel=0.02)
    assert all(one.share > 0 for one in bins)


@pytest.mark.slow
def test_sampler_of_the_egnn_is_at_the_floor_and_that_of_the_transformer_is_not(
    study: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.evaluate, "STEPS", 4)
    found = {}
    for model in ("egnn", "transformer"):
        trained = run(study, tmp_path / model, model, steps=5).train()
        nets = study.evaluate.variants(trained)
        found[model] = study.evaluate.sampled(trained, nets["as it is"][0], 4)
    assert found["egnn"]["deviation"] < 10 * found["egnn"]["floor"] < 1e-4  # Å
    plain = found["transformer"]["deviation"]
    assert plain > 0.05
    assert found["transformer"]["scale"] > 1
    twirled = study.evaluate.sampled(trained, nets["twirled, 12"][0], 4)
    assert twirled["deviation"] < plain / 2
    # Random frames that rotate with the noise are compared with themselves; kept as they are, they show.
    frames = {
        kind: study.evaluate.sampled(trained, net, 4, kind)["deviation"]
        for name, (net, kind) in nets.items()
        if name.startswith("random frame")
    }
    assert frames["along"] < 1e-4 < frames["fixed"]


# --- by time


def by_time_of(study: SimpleNamespace) -> SimpleNamespace:
    """The script of the long runs, which finds the study's modules in `sys.modules`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER.parent / "learning_rotation")
        return module_of(FOLDER / "by_time.py")


def double(held: Any) -> Any:
    """The same structures in float64."""
    return dataclasses.replace(held, x=held.x.double())


def direct(study: SimpleNamespace, trained: Any, t: float, rotations: Tensor) -> Tensor:
    """`L_mean` and `L_equiv` of four blocks at one time, by plain averages over rotations ``(n, B, 3, 3)``, float64."""
    found, size = [], rotations.shape[1]
    for k in range(4):
        x1, z, mask = trained.held.take(torch.arange(k * size, (k + 1) * size))
        torch.manual_seed(study.train.EVALUATION_SEED + k)
        x0, _ = study.flow.draw(x1, mask)
        xt, at = torch.lerp(x0, x1, t), x1.new_full((size,), t)
        orbit = torch.stack([trained.net(xt @ g.mT, at, z, mask) @ g for g in rotations])
        count = 3 * mask.sum()
        equiv = (orbit - orbit.mean(0)).square().sum() / count / (len(rotations) - 1)
        total = (orbit - (x1 - x0)).square().sum() / count / len(rotations)
        found.append(torch.stack([total - equiv, equiv]))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("t", [0.0, 0.8])
def test_losses_at_a_time_are_those_of_brute_force(study: SimpleNamespace, tmp_path: Path, t: float) -> None:
    """Against plain averages over random rotations of the same structures with the same noise."""
    by_time, trained = by_time_of(study), run(study, tmp_path / "run")
    trained.net.double().eval()
    size, groups, trained.held = 4, 24, double(trained.held)
    found = by_time.losses_and_gradients(by_time.fixed_loss(trained, t, size), by_time.BLOCKS)
    with torch.no_grad():
        rotations = haar(8 * groups * size).reshape(groups, 8, size, 3, 3)
        drawn = [direct(study, trained, t, some) for some in rotations]
    wanted = torch.stack(drawn)
    for k, name in enumerate(("L_mean", "L_equiv")):
        # Ours are 24 rotations of a design, theirs 8 random ones in every group, and so at most as precise.
        error = 5 * float(wanted[:, k].std()) * (1 / 3 + 1 / groups) ** 0.5
        assert abs(found[name] - float(wanted[:, k].mean())) < error, name
        assert error < 0.3 * float(wanted[:, 1].mean())  # without averaging, L_mean would be wrong by all of L_equiv
    assert found["share"] == pytest.approx(found["L_equiv"] / (found["L_mean"] + found["L_equiv"]), rel=1e-12)


def test_no_multiple_of_the_input_is_a_better_guess(study: SimpleNamespace, tmp_path: Path) -> None:
    """A search over multiples, as networks in the fixed loss; its broken symmetry is at round-off."""
    by_time, trained = by_time_of(study), run(study, tmp_path / "run")
    losses = []
    for a in torch.linspace(-1.5, 1.5, 61):
        trained.net = torch.nn.Module()
        trained.net.register_parameter("a", torch.nn.Parameter(a.clone()))
        trained.net.forward = lambda x, t, z, mask: trained.net.a * x
        with torch.no_grad():
            losses.append([float(value) for value in by_time.fixed_loss(trained, 0.4, 3)()])
    total, _, equiv = zip(*losses, strict=True)
    best = by_time.guess(trained, 0.4, 3)
    assert best <= min(total) * (1 + 1e-6) < best * 1.002  # a parabola, 0.025 from its bottom at most
    assert max(map(abs, equiv)) < 1e-5  # single precision


def test_gradients_of_fixed_losses_are_those_of_finite_differences(study: SimpleNamespace, tmp_path: Path) -> None:
    """Along its own gradient a loss rises by the gradient's norm; along that of the other, by the cosine of it."""
    by_time, trained = by_time_of(study), run(study, tmp_path / "run")
    trained.net.double().eval()
    trained.held = double(trained.held)
    loss, count = by_time.fixed_loss(trained, 0.6, 3), by_time.BLOCKS
    found = by_time.losses_and_gradients(loss, count)

    def values() -> Tensor:
        with torch.no_grad():
            return torch.stack([torch.stack(block()[1:]) for block in loss.blocks(count, "structures")]).mean(0)

    ascent = []
    for k in range(2):
        blocks = [block()[1 + k] for block in loss.blocks(count, "structures")]
        ascent.append(torch.autograd.grad(torch.stack(blocks).mean(), loss.parameters.values(), allow_unused=True))
    start = [value.detach().clone() for value in loss.parameters.values()]
    for k, name in enumerate(("mean", "equiv")):
        norm, ends = found[f"gradient_{name}"], []
        for sign in (1, -1):
            for value, origin, slope in zip(loss.parameters.values(), start, ascent[k], strict=True):
                value.data = origin if slope is None else origin + sign * 1e-4 * slope / norm
            ends.append(values())
        slopes = (ends[0] - ends[1]) / 2e-4
        for value, origin in zip(loss.parameters.values(), start, strict=True):
            value.data = origin
        # The loss is a cubic about the middle: a step of 1e-4 is wrong by 1e-8 of its bend.
        assert float(slopes[k]) == pytest.approx(norm, rel=1e-4)
        other = found[f"gradient_{('equiv', 'mean')[k]}"] * found["cosine"]
        assert float(slopes[1 - k]) == pytest.approx(other, rel=1e-3, abs=1e-4 * norm)
    unbiased = ep.analysis.gradients(loss, blocks="structures", n_blocks=count)
    assert found["unbiased_mean"] == pytest.approx(unbiased.norm_mean.value, rel=1e-6, nan_ok=True)
    assert found["unbiased_equiv"] == pytest.approx(unbiased.norm_equiv.value, rel=1e-6)
