"""The scaling study: its physics against another integration, its networks, its bookkeeping, and resumption."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation

from equiv_probe.scaling.table import write_csv
from equiv_probe.testing import assert_equivariant

from .studies import modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

    from torch import Tensor

FOLDER = Path(__file__).parents[2] / "integrations" / "scaling"
NAMES = ("bodies", "networks", "setting", "train", "figures", "fits", "study")
TINY = {"width": 8, "layers": 1, "structures": 64, "batch": 8, "held_out": 16, "warmup": 5, "steps": 70}


@pytest.fixture(scope="module")
def study() -> Iterator[SimpleNamespace]:
    """The study's modules, in the order of their imports; gone from `sys.modules` afterwards."""
    with modules_of((FOLDER, NAMES)) as found:
        found.bodies.BLOCK = 128
        yield found


@pytest.fixture(scope="module")
def data(study: SimpleNamespace) -> tuple[Any, Any]:
    whole = study.bodies.block(0)
    return whole.take(slice(64)), whole.take(slice(64, 80))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: runs are compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def haar(seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(rng=np.random.default_rng(seed)).as_matrix())


# --- bodies


def euler(x: np.ndarray, v: np.ndarray, mass: np.ndarray, softening: float, duration: float) -> np.ndarray:
    """Final corners by Euler's equations in each body's own axes, by a method of eighth order.

    x, v: ``(bodies, corners, 3)``; mass: of a corner, ``(bodies,)``.
    """
    bodies, corners = x.shape[:2]
    centre, drift = x.mean(1), v.mean(1)
    shape = x - centre[:, None]
    inertia = np.stack(
        [m * sum((r @ r) * np.eye(3) - np.outer(r, r) for r in s) for m, s in zip(mass, shape, strict=True)]
    )
    spin = [
        np.linalg.solve(i, m * np.cross(s, u).sum(0))
        for i, m, s, u in zip(inertia, mass, shape, v - drift[:, None], strict=True)
    ]

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        state = flat.reshape(bodies, 18)
        place, speed, rotated, omega = state[:, :3], state[:, 3:6], state[:, 6:15].reshape(-1, 3, 3), state[:, 15:]
        at = place[:, None] + np.einsum("bij,bkj->bki", rotated, shape)
        out = np.empty_like(state)
        for b in range(bodies):
            pull = np.zeros((corners, 3))
            for other in set(range(bodies)) - {b}:
                apart = at[other][None] - at[b][:, None]
                pull += (
                    mass[b] * mass[other] * (apart / ((apart**2).sum(-1, keepdims=True) + softening**2) ** 1.5).sum(1)
                )
            torque = rotated[b].T @ np.cross(at[b] - place[b], pull).sum(0)
            a, w = omega[b], np.cross
            spun = np.linalg.solve(inertia[b], w(inertia[b] @ a, a) + torque)
            hat = np.array([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]])
            out[b] = [*speed[b], *(pull.sum(0) / (corners * mass[b])), *(rotated[b] @ hat).ravel(), *spun]
        return out.ravel()

    start = np.concatenate(
        [np.concatenate([c, d, np.eye(3).ravel(), w]) for c, d, w in zip(centre, drift, spin, strict=True)]
    )
    end = solve_ivp(slope, (0, duration), start, method="DOP853", rtol=1e-10, atol=1e-11).y[:, -1].reshape(bodies, 18)
    return end[:, None, :3] + np.einsum("bij,bkj->bki", end[:, 6:15].reshape(-1, 3, 3), shape)


def test_labels_are_those_of_eulers_equations(study: SimpleNamespace) -> None:
    bodies, made = study.bodies, study.bodies.block(0)
    for k in range(3):
        x, v = (value[k].unflatten(0, (3, 3)).numpy() for value in (made.position, made.velocity))
        expected = euler(x, v, made.mass[k, ::3].numpy(), bodies.SOFTENING, bodies.DURATION)
        found = made.position[k] + bodies.SCALE * made.target[k]
        # A fourth-order method with 60 steps: 5e-8 in the median of structures, by the same with more steps.
        assert np.abs(found.numpy() - expected.reshape(9, 3)).max() < 2e-6


def test_what_motion_conserves_is_conserved_and_bodies_are_rigid(study: SimpleNamespace) -> None:
    bodies = study.bodies
    state, mass = bodies.draw(256, 1)
    later = bodies.after(state, mass)
    torch.testing.assert_close(bodies.energy(later, mass), bodies.energy(state, mass), rtol=0, atol=1e-5)
    of_point = mass.repeat_interleave(3, 1)[..., None]
    for one in (state, later):
        assert (of_point * bodies.velocities(one, mass)).sum(1).abs().max() < 1e-12  # total momentum
    turning = [
        (of_point * torch.linalg.cross(bodies.points(one), bodies.velocities(one, mass))).sum(1)
        for one in (state, later)
    ]
    torch.testing.assert_close(*turning, rtol=0, atol=1e-6)
    sides = [torch.cdist(one.corners, one.corners) for one in (state, later)]
    torch.testing.assert_close(*sides, rtol=0, atol=1e-5)
    spins = [one.spin.norm(dim=-1) for one in (state, later)]
    assert (spins[0] - spins[1]).abs().median() > 0.01  # bodies do exert torques on one another


def test_labels_rotate_with_the_structure_and_no_direction_is_preferred(study: SimpleNamespace) -> None:
    bodies, g = study.bodies, haar()
    state, mass = bodies.draw(64, 2)
    rotated = bodies.State(*(value @ g.mT for value in vars(state).values()))
    moved = bodies.points(bodies.after(state, mass))
    torch.testing.assert_close(bodies.points(bodies.after(rotated, mass)), moved @ g.mT, rtol=0, atol=1e-10)
    many = bodies.draw(20000, 3)[0]
    for value in (many.centre, many.velocity, many.corners, many.spin):
        first = value.flatten(1, -2)[
            :, 0
        ]  # of one body, of one corner: the mean of all corners is zero by construction
        for number in (first, torch.stack([first[:, 0] * first[:, 1], first[:, 0] ** 2 - first[:, 2] ** 2], -1)):
            error = number.std(0) / len(number) ** 0.5
            assert (number.mean(0).abs() < 4.5 * error).all()
    # The control: LAPACK's signs prefer a direction, by far more than that.
    q = torch.linalg.qr(torch.randn(20000, 3, 2, dtype=torch.float64)).Q[..., 0]
    assert q.mean(0).abs().max() > 20 * q.std() / len(q) ** 0.5


@pytest.mark.slow
def test_smaller_sets_are_the_beginning_of_larger_ones(study: SimpleNamespace, tmp_path: Path) -> None:
    bodies = study.bodies
    small, large = bodies.generate(10, cache=tmp_path), bodies.generate(bodies.BLOCK + 3, cache=tmp_path)
    assert (len(small), len(large)) == (10, bodies.BLOCK + 3)
    assert torch.equal(small.target, large.target[:10])
    assert torch.equal(bodies.generate(12).position, large.position[:12])  # not kept, but made anew
    held = bodies.generate(10, bodies.HELD_OUT)
    assert not torch.isclose(held.position[:, None], large.position[None]).all(-1).any()
    # Targets are in units in which a network that says zero has a loss of about one.
    assert large.target.square().mean().item() == pytest.approx(1, abs=0.15)


# --- networks


RESPECTED = {"equivariant": {"SO(3)", "O(3)"}, "framed": {"SO(3)"}, "egnn": {"SO(3)", "O(3)"}, "transformer": set()}
"""By which groups a network is equivariant; four frames are proper, of a mirror image there would be eight."""


@pytest.mark.parametrize("model", RESPECTED)
@pytest.mark.parametrize("group", ["SO(3)", "O(3)"])
def test_networks_respect_the_group_that_they_say_and_the_transformer_none(
    study: SimpleNamespace, data: tuple[Any, Any], model: str, group: str
) -> None:
    net = study.setting.Setting(model=model, width=16, layers=2).network().double()
    held = data[1]
    given = {"position": held.position, "velocity": held.velocity, "mass": held.mass}

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"displacement": net(inputs["position"], inputs["velocity"], inputs["mass"])}

    how = {"group": group, "center": "origin", "diagnose": False}
    if group in RESPECTED[model]:
        assert_equivariant(predict, given, study.train.SCHEMA, **how)
    else:
        with pytest.raises(AssertionError):
            assert_equivariant(predict, given, study.train.SCHEMA, **how)


def test_the_equivariant_transformer_is_as_large_as_the_transformer(study: SimpleNamespace) -> None:
    for width in (8, 16, 32, 64):
        sizes = [
            sum(p.numel() for p in study.setting.Setting(model=model, width=width).network().parameters())
            for model in ("transformer", "equivariant", "framed")
        ]
        assert abs(sizes[1] / sizes[0] - 1) < 0.1
        assert sizes[2] == sizes[0]


def test_attention_of_vectors_is_that_of_inner_products(study: SimpleNamespace, data: tuple[Any, Any]) -> None:
    """One head, written out for single tokens and channels."""
    torch.manual_seed(0)
    block = study.networks.EquivariantBlock(8, 1).double()
    numbers, vectors = torch.randn(1, 9, 8, dtype=torch.float64), torch.randn(1, 9, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        seen, aimed = block.before(numbers)[0], study.networks.normed(vectors)[0]
        q, k, v = block.project(seen).split(8, -1)
        qv, kv, vv = block.project_vectors(aimed).split(4, -1)
        for i in (0, 5):
            # Eight numbers and four vectors of three components each make an inner product of twenty terms.
            logits = torch.stack([(q[i] @ k[j] + (qv[i] * kv[j]).sum()) / 20**0.5 for j in range(9)])
            weights = torch.softmax(logits, 0)
            n = numbers[0, i] + block.collect(sum(weights[j] * v[j] for j in range(9)))
            w = vectors[0, i] + block.collect_vectors(sum(weights[j] * vv[j] for j in range(9)))
            a, b = block.pair(study.networks.normed(w)).split(4, -1)
            out = block.perceptron(torch.cat([block.between(n), (a * b).sum(0)]))
            found = block(numbers, vectors)
            torch.testing.assert_close(found[0][0, i], n + out[:8])
            torch.testing.assert_close(found[1][0, i], w + block.mix(a * out[8:]))


def test_frames_average_the_transformer_itself(study: SimpleNamespace, data: tuple[Any, Any]) -> None:
    held = data[1].take(slice(1))
    net = study.networks.Framed(8, 1).double()
    with torch.no_grad():
        axes = torch.linalg.eigh(held.position[0].mT @ held.position[0]).eigenvectors
        outputs = []
        for signs in itertools.product((1.0, -1.0), repeat=3):
            frame = axes * torch.tensor(signs, dtype=torch.float64)
            if torch.linalg.det(frame) > 0:
                outputs.append(net.inner(held.position @ frame, held.velocity @ frame, held.mass) @ frame.mT)
        assert len(outputs) == 4
        torch.testing.assert_close(net(held.position, held.velocity, held.mass), torch.stack(outputs).mean(0))
        assert (torch.stack(outputs).std(0) > 1e-3).any()  # the control: one frame alone is another network


def test_messages_are_those_of_the_formula(study: SimpleNamespace, data: tuple[Any, Any]) -> None:
    held = data[1].take(slice(2))
    torch.manual_seed(0)
    layer = study.networks.Exchange(4).double()
    h, x, v = torch.randn(2, 9, 4, dtype=torch.float64), held.position, held.velocity
    with torch.no_grad():
        features, moved, rotated = layer(h, x, v)
        for b, i in ((0, 0), (1, 7)):
            gathered, to_x, to_v = torch.zeros(4, dtype=x.dtype), x[b, i].clone(), v[b, i].clone()
            for j in range(9):
                dx, dv = x[b, i] - x[b, j], v[b, i] - v[b, j]
                seen = torch.stack([(dx @ dx).log1p(), (dv @ dv).log1p(), dx @ dv])
                m = layer.message(layer.receiver(h[b, i]) + layer.sender(h[b, j]) + layer.pair(seen))
                along = layer.move(m) / 8
                gathered += m
                to_x += along[0] * dx + along[1] * dv
                to_v += along[2] * dx + along[3] * dv
            to_x += layer.drift(h[b, i]) * v[b, i]
            torch.testing.assert_close(moved[b, i], to_x)
            torch.testing.assert_close(rotated[b, i], to_v)
            torch.testing.assert_close(features[b, i], h[b, i] + layer.update(torch.cat([h[b, i], gathered / 3])))


def test_operations_are_counted_as_by_hand(study: SimpleNamespace, data: tuple[Any, Any], tmp_path: Path) -> None:
    width, layers, points = 32, 2, 9
    run = study.train.Run(study.setting.Setting(width=width, layers=layers, batch=8), tmp_path, data)
    linear = 2 * points * (10 * width + layers * 12 * width**2 + 3 * width)
    attention = layers * 2 * 2 * points**2 * width
    unneeded = 2 * points * 10 * width  # the gradient with respect to the network's own inputs
    assert run.flops_per_step == 8 * (3 * (linear + attention) - unneeded)


# --- training


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what no two runs have in common; with NaN equal to itself."""
    return [{key: repr(value) for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("changes", [{"model": "transformer", "augment": True}, {"model": "egnn"}])
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
    study: SimpleNamespace, data: tuple[Any, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    setting = study.setting.Setting(**TINY, **changes)
    whole = study.train.Run(setting, tmp_path / "whole", data).train()
    study.train.Run(setting, tmp_path / "parts", data).train(until=50)  # past the checkpoint of step 32
    later = study.train.Run(setting, tmp_path / "parts", data)
    assert later.step == 32
    assert same(later.train().rows) == same(whole.rows)
    assert [row["step"] for row in whole.rows] == [0, 32, 64, 70]
    for a, b in zip(whole.net.parameters(), later.net.parameters(), strict=True):
        assert torch.equal(a, b)
    # The control: another seed, other numbers.
    other = study.train.Run(replace(setting, seed=1), tmp_path / "other", data).train()
    assert same(other.rows)[-1]["L_total"] != same(whole.rows)[-1]["L_total"]
    # A run that is given more steps is the longer run.
    longer = study.train.Run(replace(setting, steps=128), tmp_path / "whole", data).train()
    fresh = study.train.Run(replace(setting, steps=128), tmp_path / "fresh", data).train()
    assert [r for r in same(longer.rows) if r["step"] != "70"] == same(fresh.rows)
    with pytest.raises(ValueError, match="another setting"):
        study.train.Run(replace(setting, rate=1e-2), tmp_path / "whole", data)


def test_the_decomposed_loss_of_a_planted_network(
    study: SimpleNamespace, data: tuple[Any, Any], tmp_path: Path
) -> None:
    """``f(x) = A x`` is ``g⁻¹ A g`` rotated back, of second degree in g: tetrahedral replicates average it exactly."""
    torch.manual_seed(0)
    a = torch.eye(3) + 0.3 * torch.randn(3, 3)

    class Planted(torch.nn.Module):
        def forward(self, position: Tensor, velocity: Tensor, mass: Tensor) -> Tensor:
            return position @ a.mT

    run = study.train.Run(study.setting.Setting(**TINY), tmp_path, data)
    run.average = Planted()
    run.flops_per_step = 0
    run._evaluate()
    row, x, y = run.rows[-1], run.held.position, run.held.target
    twirled = (a.trace() / 3 * x - y).square().mean().item()
    assert row["L_mean"] == pytest.approx(twirled, rel=1e-5)  # single precision
    # The mean of ‖(g⁻¹ A g − tr A/3) x‖² over rotations is that of ‖B x‖² over directions of x: ‖B‖² ‖x‖² / 3.
    b = a - a.trace() / 3 * torch.eye(3)
    expected = b.square().sum().item() / 3 * x.square().sum(-1).mean().item() / 3
    assert row["L_equiv"] == pytest.approx(expected, rel=0.2)  # two replicates, 16 structures: see its error bar
    assert abs(row["L_equiv"] - expected) < 4 * row["L_equiv_stderr"]
    assert row["own"] == pytest.approx((x @ a.mT - y).square().mean().item(), rel=1e-5)
    assert row["L_total"] > 1.01 * twirled  # the control: without averaging it is another number
    assert row["share"] == pytest.approx(row["L_equiv"] / row["L_total"], rel=1e-6)


def test_weights_are_averaged_by_a_power_of_the_step(
    study: SimpleNamespace, data: tuple[Any, Any], tmp_path: Path
) -> None:
    run = study.train.Run(study.setting.Setting(**TINY), tmp_path, data)
    seen = []
    for _ in range(20):
        run._train_step()
        seen.append(torch.nn.utils.parameters_to_vector(run.net.parameters()).detach().double())
    t = torch.arange(21, dtype=torch.float64) ** (1 + study.train.AVERAGED)
    expected = ((t[1:] - t[:-1]) / t[-1]) @ torch.stack(seen)
    found = torch.nn.utils.parameters_to_vector(run.average.parameters()).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # single precision
    assert (found - seen[-1]).abs().max() > 1e-3


# --- the study


def config() -> dict[str, Any]:
    common = {"layers": 1, "widths": [4, 8], "rate": 1e-3}
    framed = {"model": "framed", **common}
    return {
        **{key: TINY[key] for key in ("batch", "held_out", "warmup")},
        "models": [{"model": "transformer", "augment": True, **common}, framed],
        "seeds": [0, 1],
        "middle": 1,
        "stages": [
            {"sizes": [0, 1], "structures": [64, 16], "steps": 32, "seeds": [0], "models": ["transformer, augmented"]},
            {"sizes": [1], "structures": [64], "steps": 64},
        ],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_study_that_was_stopped_ends_with_the_same_table(
    study: SimpleNamespace, data: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.study, "load", lambda structures, held_out: data)
    settings = study.study.plan(config())
    # Two sizes by two training sets; then one size longer, with two seeds and of another model too.
    assert len(settings) == 4 + 2 * 2
    assert len({one.folder for one in settings}) == 4 + 1 + 2
    assert {one.rate for one in settings if one.width == 8} == {1e-3 * 2}
    study.study.train_all(config(), tmp_path / "whole", "cpu")

    class Stopped(Exception):
        pass

    class Limited(study.train.Run):
        def save(self) -> None:
            if len(list((tmp_path / "parts").glob("*/rows.json"))) == 3:
                raise Stopped
            super().save()

    with monkeypatch.context() as patch:
        patch.setattr(study.study, "Run", Limited)
        with pytest.raises(Stopped):
            study.study.train_all(config(), tmp_path / "parts", "cpu")
    before = study.study.collected(settings, tmp_path / "parts")
    study.study.train_all(config(), tmp_path / "parts", "cpu")
    rows = [study.study.collected(settings, tmp_path / name) for name in ("whole", "parts")]
    assert same(rows[0]) == same(rows[1])
    assert len(before) < len(rows[0]) == 3 * 2 + 4 * 3
    again = study.study.collected(settings, tmp_path / "parts")
    assert again == rows[1]  # seconds too: what is done is not done again
    # Folders are gone, the table is there: nothing is done again either, but for a run that is to be longer.
    write_csv(tmp_path / "rows.csv", rows[1])
    study.study.train_all(config(), tmp_path / "empty", "cpu", tmp_path / "rows.csv")
    assert not (tmp_path / "empty").exists()
    kept = study.study.collected(settings, tmp_path / "empty", tmp_path / "rows.csv")
    assert [row["step"] for row in kept] == [row["step"] for row in again]
    assert [row["L_total"] for row in kept] == pytest.approx([row["L_total"] for row in again], rel=1e-5)  # six digits
    longer = config() | {"stages": [{"sizes": [1], "structures": [64], "steps": 65, "models": ["transformer, framed"]}]}
    study.study.train_all(longer, tmp_path / "empty", "cpu", tmp_path / "rows.csv")
    assert len(list((tmp_path / "empty").iterdir())) == 2  # seeds


def planted(exponents: dict[str, float]) -> list[dict[str, Any]]:
    """Rows of runs whose loss is a law of parameters, structures and steps."""
    rows = []
    for model, exponent in exponents.items():
        for width, d, step in itertools.product((8, 16, 32, 64), (256, 1024, 4096, 16384), (0, 32, 128, 512, 1024)):
            loss = 4 * width**-exponent + 30 * (d**-exponent - 16384**-exponent) + 40 * (step or 0.1) ** -exponent
            row = {
                "model": model,
                "width": width,
                "parameters": 10 * width**2,
                "structures": d,
                "seed": 0,
                "step": step,
            }
            row |= {"seconds": step * width * 1e-3, "flops": 1e3 * step * width**2, "L_total": loss}
            rows.append({**row, "L_total_stderr": 0.02 * loss, "share": 0.1, "share_stderr": 0.01})
    return rows


def study_law(exponent: float) -> tuple[float, float]:
    """What the planted loss comes to without end of data, at a width of 32, and its exponent."""
    return 4 * 32**-exponent + 40 * 1024**-exponent - 30 * 16384**-exponent, exponent


@pytest.mark.slow
def test_fits_find_planted_laws(study: SimpleNamespace, tmp_path: Path) -> None:
    from equiv_probe import scaling

    rows = planted({"slow": 0.6, "fast": 0.7})
    write_csv(tmp_path / "runs.csv", rows)
    runs = scaling.read_table(tmp_path / "runs.csv")
    best = study.fits.stopped(runs, 1024)
    assert len(best) == 2 * 16
    assert (best.numbers("step") == 1024).all()
    width = {"slow": 32.0, "fast": 32.0}
    lowest = study.fits.frontier(runs.where(model="slow", step=lambda s: s > 0))
    assert (np.diff(lowest.numbers("C")) > 0).all()
    assert (np.diff(lowest.numbers("L_total")) < 0).all()
    found = study.fits.findings_of(runs, 1024, width, resamples=100)
    for model, exponent in (("slow", 0.6), ("fast", 0.7)):
        law, length = found.sizes[model], found.lengths[model]
        # Parameters are the width's square; the loss of the steps is a floor of the law in sizes and data.
        assert law["alpha"].value == pytest.approx(exponent / 2, rel=1e-2)
        assert law["beta"].value == pytest.approx(exponent, rel=1e-2)
        assert law["E"].value == pytest.approx(40 * 1024**-exponent - 30 * 16384**-exponent, rel=1e-2)
        assert length["beta"].value == pytest.approx(exponent, rel=1e-2)
        # Operations grow as N times steps, and N^-a/2 against steps^-a: two thirds of compute's power to N.
        assert found.allocations[model].n_exponent.value == pytest.approx(2 / 3, rel=1e-2)
    assert found.gaps["slow", "fast", "step"].ratio[-1] == pytest.approx(
        (4 * 32**-0.7 + 40 * 1024**-0.7) / (4 * 32**-0.6 + 40 * 1024**-0.6),
        rel=1e-5,  # six digits in the table
    )
    laws = {model: study_law(exponent) for model, exponent in (("slow", 0.6), ("fast", 0.7))}
    efficiency = found.data["slow", "fast"]
    for loss, factor in zip(efficiency.losses, efficiency.factor, strict=True):
        needed = {model: ((loss - floor) / 30) ** (-1 / exponent) for model, (floor, exponent) in laws.items()}
        assert factor.value == pytest.approx(needed["slow"] / needed["fast"], rel=0.02)
        assert factor.value > 1
    assert found.left == []
    laws = {(row["law"], row["model"], row["parameter"]): row["value"] for row in study.study.parameters_of(found)}
    assert len(laws) == 2 * (5 + 5 + 3 + 2)  # within these runs no larger size overtakes: no exponent of that
    assert all(np.isnan(own.exponent.value) for own in found.overtaking.values())
    assert laws["L(N, D)", "fast", "beta"] == found.sizes["fast"]["beta"].value
    factors = study.study.factors_of(found)
    assert {row["of"] for row in factors} == {"structures", "step", "seconds", "C", "seconds, any size", "C, any size"}
    for row in factors:
        # A model that is below the other everywhere needs less of everything.
        assert row["value"] == pytest.approx(row["needed"] / row["needs"])
        assert row["value"] < 1


def crossing_runs(exponents: list[float]) -> list[dict[str, Any]]:
    """Straight lines in logarithms; sizes N and M cross where ``C = √(N M)^(1/exponent)``, of every seed's exponent."""
    rows = []
    parameters, slopes = 10.0 * np.array([8, 16, 32, 64]) ** 2, np.array([0.3, 0.4, 0.5, 0.6])
    for seed, exponent in enumerate(exponents):
        crossings = np.log(parameters[1:] * parameters[:-1]) / 2 / exponent
        heights = np.cumsum([0.0, *(np.diff(slopes) * crossings)])
        for n, slope, height in zip(parameters, slopes, heights, strict=True):
            for c in np.geomspace(1e2, 1e12, 11):
                row = {"model": "m", "width": (n / 10) ** 0.5, "parameters": n, "structures": 64, "seed": seed}
                rows.append({**row, "step": c / n, "flops": c, "L_total": np.exp(height) * c**-slope})
    return rows


def test_overtaking_finds_planted_crossings(study: SimpleNamespace) -> None:
    from equiv_probe import scaling

    exponents, rows = [0.5, 0.6, 0.7], crossing_runs([0.5, 0.6, 0.7])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = study.fits.overtaking(scaling.table_of(columns))
    # 400 places along ten decades, each 6 % from the next.
    np.testing.assert_allclose(found.operations, [found.sizes ** (1 / e) for e in exponents], rtol=0.06)
    np.testing.assert_allclose(found.exponents, exponents, rtol=0.02)
    half = 4.3027 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom
    assert found.exponent.value == pytest.approx(0.6, rel=0.02)
    assert found.exponent.high - found.exponent.low == pytest.approx(2 * half, rel=0.1)
    # The control: sizes that never overtake within their runs have no place, rather than one at an end.
    short = study.fits.overtaking(scaling.table_of(columns).where(C=lambda c: c < 1e3))
    assert np.isnan(short.operations).all()
    assert np.isnan(short.exponent.value)


def test_penalties_of_few_data_are_those_planted(study: SimpleNamespace) -> None:
    from equiv_probe import scaling

    models = {"equivariant transformer": 1.0, "transformer": 3.0}
    rows = [
        {"model": model, "width": 8, "structures": d, "seed": seed, "step": step}
        # A loss that rises again: the lowest so far counts. Weights of a seed are common to all sizes of the data.
        | {"L_total": factor * (1 + 64 / d) * 1.3**seed * (step**-0.5 if step <= 64 else 1.0)}
        for model, factor in models.items()
        for d, seed, step in itertools.product((64, 1024), (0, 1, 2), (16, 64, 256))
        if not (model == "transformer" and d == 1024 and step == 256)
    ]
    runs = scaling.table_of({name: [row[name] for row in rows] for name in rows[0]})
    found = study.fits.epochs(runs, 32, dict.fromkeys(models, 8), (64, 256))
    cells = {(row["model"], row["structures"], row["step"]): row for row in found}
    assert len(found) == 2 * 2 * 2 - 1  # not of a run that was shorter
    few = cells["transformer", 64, 64]
    assert few["epochs"] == 32
    assert few["penalty"] == pytest.approx(2 / (1 + 1 / 16))
    assert few["over"] == pytest.approx(3)
    # What seeds have in common leaves ratios, and their intervals; of losses it makes the interval.
    assert few["over_high"] == pytest.approx(few["over_low"]) == pytest.approx(3)
    assert few["loss"] == pytest.approx(3 * 2 * 1.3 / 8)
    spread = 4.3027 * np.log(1.3) / 3**0.5
    assert few["loss_high"] == pytest.approx(few["loss"] * np.exp(spread), rel=1e-4)
    assert cells["equivariant transformer", 64, 256]["loss"] == cells["equivariant transformer", 64, 64]["loss"]
    assert np.isnan(cells["transformer", 64, 256]["penalty"])  # nothing as long to compare with
