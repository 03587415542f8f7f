"""What the studies log, against direct averages over rotations, and runs that go on where they stopped."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import equiv_probe as ep

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from torch import Tensor

DOUBLE = torch.float64


def tiny(vx: SimpleNamespace, folder: Path) -> Any:
    """Pose scoring in a few steps."""
    return vx.pockets.Docking(
        steps=4, batch=2, every=1, log=2, evaluate=4, folder=str(folder), size=8, resolution=2.0, widths=(4, 4), held=4
    )


@pytest.mark.slow
def test_pose_run_resumes_and_measures(vx: SimpleNamespace, shared_data: Path, tmp_path: Path) -> None:
    """A run that was stopped ends with the weights and the log of one that was not; its shares are direct averages."""
    task, run = vx.pockets.train(tiny(vx, tmp_path / "whole"), "cube")
    vx.pockets.train(tiny(vx, tmp_path / "parts"), "cube", until=2)
    again, resumed = vx.pockets.train(tiny(vx, tmp_path / "parts"), "cube")
    assert run.step == resumed.step == 4
    for a, b in zip(task.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    keys = [key for key in run.rows[-1] if key != "seconds"]
    assert [[row.get(k) for k in keys] for row in run.rows] == [[row.get(k) for k in keys] for row in resumed.rows]
    assert {"train/share", "held/share"} <= set(keys)

    poses, network = task.held["seen"], copy.deepcopy(task.network).double()
    scores = []
    with torch.no_grad():
        for rotation in ep.RotationPlan("cube").rotations()[0]:
            rotated = {**poses.inputs, "pos": poses.pos.double() @ rotation.T}
            scores.append(network(**{**rotated, "radius": poses.radius.double()}))
    orbit = torch.stack(scores).double()
    total = (orbit - poses.rmsd).square().mean()
    equiv = (orbit - orbit.mean(0)).square().mean()
    found = task.held_out(poses, ep.RotationPlan("cube"))  # the same poses in float32
    assert found.total.value == pytest.approx(float(total), rel=1e-5)
    assert found.equiv.value == pytest.approx(float(equiv), rel=1e-3)
    assert found.share.value == pytest.approx(float(equiv / total), rel=1e-3)
    with pytest.raises(SystemExit, match="another configuration"):
        vx.pockets.train(replace(tiny(vx, tmp_path / "whole"), batch=3), "cube")


def rotated_grid(grid: Tensor, rotation: Tensor) -> Tensor:
    """`F'(p) = F(g⁻¹ p)` for a rotation of the cube, by looking up where each voxel's value comes from."""
    size = grid.shape[-1]
    place = torch.cartesian_prod(*[torch.arange(size, dtype=DOUBLE) - (size - 1) / 2] * 3)
    x, y, z = (place @ rotation + (size - 1) / 2).round().long().unbind(-1)
    return grid[..., x, y, z].reshape(grid.shape)


def small(vx: SimpleNamespace, folder: Path) -> Any:
    """Denoising in a few steps."""
    return vx.denoise.Denoising(
        steps=4, batch=2, every=1, log=2, evaluate=4, folder=str(folder), size=12, resolution=1.0, radius=1.5,
        reach=4.0, widths=(4, 4), held=4, watched=4, rotated=4,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "control"])
def test_logged_share_is_that_of_the_24_rotations(
    vx: SimpleNamespace, shared_data: Path, tmp_path: Path, kind: str
) -> None:
    """The last line of the log against a direct computation in float64; at round-off for kernels of the cube."""
    task, run = vx.denoise.train(small(vx, tmp_path), kind)
    clean = task.density(task.molecules[:4])
    noisy = task.noisy(clean, vx.training.generator_for(task.device, 0, 0, 1))
    network = copy.deepcopy(task.network).double()
    with torch.no_grad():
        orbit = torch.stack(
            [
                rotated_grid(network(rotated_grid(noisy.double(), g)), g.T)
                for g in ep.RotationPlan("cube").rotations()[0]
            ]
        )
    total, equiv = (orbit - clean).square().mean(), (orbit - orbit.mean(0)).square().mean()
    logged = run.rows[-1]
    assert logged["step"] == 4
    assert logged["held/L_total"] == pytest.approx(float(total), rel=1e-4)  # the log's network is in float32
    if kind == "control":
        assert float(equiv / total) < 1e-20
        assert abs(logged["held/share"]) < 1e-10
    else:
        assert logged["held/share"] == pytest.approx(float(equiv / total), rel=1e-3)
        assert logged["held/share"] > 0.01
        averaged = (orbit.mean(0) - clean).square().mean()  # not what is logged, if averaging were left out
        assert logged["held/L_mean"] == pytest.approx(float(averaged), rel=1e-3)
        assert logged["train/share"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["so3", "cube"])
def test_denoiser_resumes(vx: SimpleNamespace, shared_data: Path, tmp_path: Path, kind: str) -> None:
    """Weights, both losses and shares of a run that was stopped, to the last bit; the log is on disk."""
    task, run = vx.denoise.train(small(vx, tmp_path / "whole"), kind)
    vx.denoise.train(small(vx, tmp_path / "parts"), kind, until=2)
    again, resumed = vx.denoise.train(small(vx, tmp_path / "parts"), kind)
    for a, b in zip(task.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [{**row, "seconds": 0} for row in run.rows] == [{**row, "seconds": 0} for row in resumed.rows]
    lines = (resumed.folder / "log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(resumed.rows)
    assert float(dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))["held/share"]) == pytest.approx(
        run.rows[-1]["held/share"], rel=1e-5
    )


def test_losses_and_gradients_by_step_are_those_of_the_24_rotations(
    vx: SimpleNamespace, shared_data: Path, tmp_path: Path
) -> None:
    """Losses against rotated grids by look-up, gradients against those of the same two numbers, in float64."""
    task = vx.denoise.Task(replace(small(vx, tmp_path), held=16), "none")
    found = vx.by_step.measure(task)
    clean = task.density(task.molecules[:16])
    noisy = task.noisy(clean, vx.training.generator_for(task.device, 0, 0, 4)).double()
    network = copy.deepcopy(task.network).double()
    orbit = torch.stack(
        [rotated_grid(network(rotated_grid(noisy, g)), g.T) for g in ep.RotationPlan("cube").rotations()[0]]
    )
    mean, equiv = (orbit.mean(0) - clean).square().mean(), (orbit - orbit.mean(0)).square().mean()
    assert found["share"] == pytest.approx(float((equiv / (mean + equiv)).detach()), rel=1e-4)
    assert found["L_zero"] == pytest.approx(float(clean.square().mean()), rel=1e-5)
    slopes = []
    for name, loss in (("mean", mean), ("equiv", equiv)):
        gradient = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        slopes.append(torch.cat([one.reshape(-1) for one in gradient]))
        assert found[f"L_{name}"] == pytest.approx(float(loss.detach()), rel=1e-4)  # the network there is in float32
        assert found[f"gradient_{name}"] == pytest.approx(float(slopes[-1].norm()), rel=1e-3)
        # Of 16 molecules the noise lengthens a gradient, and products of different blocks leave that out.
        assert 0.5 * found[f"gradient_{name}"] < found[f"unbiased_{name}"] < 1.001 * found[f"gradient_{name}"]
    assert found["cosine"] == pytest.approx(float(torch.cosine_similarity(*slopes, dim=0)), abs=1e-3)
    assert found["share"] > 0.01


def test_the_best_filter_is_found_and_is_equivariant(vx: SimpleNamespace) -> None:
    """Where the clean grid is such a filter of the noisy one nothing is left over; what a filter cannot do is."""
    torch.manual_seed(0)
    noisy = torch.randn(4, 2, 6, 6, 6, dtype=DOUBLE)
    kernel = torch.zeros(2, 2, 3, 3, 3, dtype=DOUBLE)
    kernel[0, 1, 1, 1, 1], kernel[1, 0] = 0.5, 0.1  # from the other channel: a multiple, and a mean over a cube
    clean = torch.nn.functional.conv3d(noisy, kernel, padding=1) + 0.3
    assert vx.by_step.filtered(clean, noisy) < 1e-24
    lopsided = torch.roll(noisy, 1, -1)  # one step along x: half of it along each of the six ways would be equivariant
    assert 0.5 < vx.by_step.filtered(lopsided, noisy) < 1
    turned = [torch.rot90(grid, 1, (-1, -3)) for grid in (lopsided, noisy)]
    assert vx.by_step.filtered(*turned) == pytest.approx(vx.by_step.filtered(lopsided, noisy), rel=1e-9)


def test_noise_averages_out_of_the_covariance(vx: SimpleNamespace) -> None:
    """A field that stays in the grid's frame, under noise: over the cube its variance over rotations, and no noise."""
    torch.manual_seed(0)
    count, size, noise = 256, 6, 0.5
    field = torch.randn(1, 1, size, size, size, dtype=DOUBLE)
    clean = torch.zeros(count, 1, size, size, size, dtype=DOUBLE)
    output = lambda: field + noise * torch.randn_like(clean)  # noqa: E731
    pos, plan, grid = torch.randn(count, 3, 3, dtype=DOUBLE), ep.RotationPlan("cube"), vx.source.GRIDS["cube"]
    found = vx.source.covariance(lambda _: {"first": output(), "second": output()}, pos, clean, plan, grid)
    orbit = torch.stack([rotated_grid(field, g) for g in plan.rotations()[0]])
    ball = torch.cartesian_prod(*[torch.arange(size) - (size - 1) / 2] * 3).norm(dim=-1).reshape(size, size, size) <= 3
    expected = float((orbit - orbit.mean(0)).square()[..., ball].mean())
    assert found.equiv.value == pytest.approx(expected, abs=4 * found.equiv.stderr)
    assert found.equiv.stderr < 0.02 * expected

    def same(_: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(("first", "second"), output())

    biased = vx.source.covariance(
        same, pos, clean, plan, grid
    )  # one noise for both: the noise counts as broken symmetry
    assert biased.equiv.value == pytest.approx(expected + noise**2 * 23 / 24, rel=0.02)


@pytest.mark.slow
def test_any_rotation_at_the_source(vx: SimpleNamespace) -> None:
    """A field of angular degree 1 in the grid's frame averages to nothing: it is all variance; a round one has none."""
    size = 16
    places = vx.voxeliser.Voxeliser(1, size, 1.0).coordinates()
    round_one = torch.exp(-places.square().sum(-1) / (2 * 2.0**2))
    clean = torch.zeros(1, 1, size, size, size, dtype=DOUBLE)
    plan = ep.RotationPlan("tetrahedral", replicates=4)
    ball = places.norm(dim=-1) <= size / 2
    for field, expected in ((places[..., 2] * round_one, 1.0), (round_one, 0.0)):

        def outputs(_, field=field):
            return dict.fromkeys(("first", "second"), field[None, None])

        found = vx.source.covariance(outputs, torch.randn(1, 3, 3, dtype=DOUBLE), clean, plan, vx.source.GRIDS["so3"])
        square = float(field[ball].square().mean())
        # Cubic interpolation of a Gaussian of two voxels' width: better than a percent of its amplitude.
        assert found.equiv.value == pytest.approx(expected * square, abs=0.01 * square)
        assert found.total.value == pytest.approx(square, rel=0.01)


class NoReading(TorchDispatchMode):
    """Raises when an operator would wait for a device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        index = args[1] if name in {"index", "index_put_"} else ()
        masks = any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in index)
        if masks or name in {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "equal"}:
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("study", ["denoise", "pockets"])
def test_steps_do_not_wait_for_the_device(vx: SimpleNamespace, shared_data: Path, tmp_path: Path, study: str) -> None:
    """Batches, noise, poses, densities, losses and their gradients, in every kind of run."""
    module, config = (vx.denoise, small(vx, tmp_path)) if study == "denoise" else (vx.pockets, tiny(vx, tmp_path))
    for kind in module.RUNS:
        task = module.Task(config, kind)
        with NoReading():
            task.loss_of(0)().backward()
        assert all(p.grad is not None for p in task.network.parameters())


def test_command_line_changes_single_entries(vx: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and tuples are read as such, words stay words, and a slip of the pen is refused."""
    monkeypatch.setattr(
        "sys.argv", ["denoise.py", "--config", "gpu", "--set", "widths=(4, 8)", "rate=1e-2", "folder=here"]
    )
    config, args = vx.training.configured(vx.denoise.PRESETS, None)
    assert config == replace(vx.denoise.PRESETS["gpu"], widths=(4, 8), rate=0.01, folder="here")
    assert args.runs is None
    monkeypatch.setattr("sys.argv", ["denoise.py", "--set", "step=3"])
    with pytest.raises(SystemExit):
        vx.training.configured(vx.denoise.PRESETS, None)
