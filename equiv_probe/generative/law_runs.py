"""The runs that a test of equivariance in distribution needs: independent ones, some of them of rotated noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.initial_noise import stream
from equiv_probe.generative.law import Block, energy_test, features, runs_needed, two_rotations
from equiv_probe.representations.grids import Grid
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.end_points import EndPoints
    from equiv_probe.generative.law import Law
    from equiv_probe.generative.paths import Paths
    from equiv_probe.generative.runs import SamplerRuns


def laws_of(runs: SamplerRuns, paths: Paths, measured: list[EndPoints]) -> dict[str, Law]:
    """Tests in distribution: if asked for, or if paths do not tell because the sampler draws rotations."""
    asked = runs.options.law
    if asked is None:
        unclear = any(one.verdict in {"broken", "above round-off"} for one in measured) or paths.not_as_likely
        asked = bool(runs.noises[0].rotations) and runs.options.frames != "fixed" and unclear
    if not asked:
        return {}
    return compare_laws(runs, None if asked is True else int(asked), improper=paths.plan.improper)


def compare_laws(runs: SamplerRuns, asked: int | None, *, improper: bool) -> dict[str, Law]:
    """Run a sampler on independent noise and on independent noise that is rotated, and compare the end points.

    Noise that was given is taken in random orientations; ``asked`` is a number of samples of each kind.

    Raises:
        EquivProbeError: no pair of end points is finite.
    """
    start, seed = runs.start, runs.options.seed
    count = runs.structures.count
    by_run = count > 1 and shares_draws(runs)
    generator = torch.Generator().manual_seed(stream(seed, 3))
    grid = runs.rep if isinstance(runs.rep, Grid) else None
    is_cube = grid is None or (grid.has_equal_spacing and len(set(runs.noise.shape[-3:])) == 1)
    g = two_rotations(generator, grid=grid, is_cube=is_cube)
    g = g * torch.tensor([1.0, -1.0 if improper else 1.0])[:, None, None]
    groups: list[Tensor] = []
    found: dict[str, list[list[list[Block]]]] = {name: [] for name in runs.schema.outputs}
    way, runs.way = runs.way, "same"  # what is drawn keeps its own law
    try:
        for k in range(runs_needed(count, asked, by_run=by_run)):
            group = torch.arange(count) * (not runs.shared) + k  # every second sample, or run, by the other rotation
            groups.append(group % 2)
            pair = []
            for kind in range(2):
                own = stream(seed, 4, k, kind)
                given = isinstance(start.given, torch.Tensor)
                noise = _oriented(runs, runs.noise, generator) if given else start.draw(own)
                pair.append(runs.run(own, g[groups[-1]] if kind else None, noise=noise))
            for name, rep in runs.schema.outputs.items():
                found[name].append([features(values[name][-1], rep, runs.structures) for values in pair])
    finally:
        runs.way = way
    rotated_by = torch.cat(groups)
    return {name: _test(pairs, rotated_by, by_run=by_run, seed=seed, name=name) for name, pairs in found.items()}


def shares_draws(runs: SamplerRuns) -> bool:
    """Whether samples of one run may have a draw in common, so that they are not independent."""
    noise = runs.noises[0]
    return runs.foreign_drawn or any(not noise.frame.has_own(draw.shape) for draw, _ in noise.draws)


def _oriented(runs: SamplerRuns, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise that was given, each sample in a random orientation."""
    plan = RotationPlan("cube", subset=1) if runs.rep.is_whole else RotationPlan("haar", 1)
    return runs.rotated(noise, plan.draws(runs.structures.count, generator)[:, 0, 0])


def _test(pairs: list[list[list[Block]]], groups: Tensor, *, by_run: bool, seed: int, name: str) -> Law:
    """Test one output, without samples that are not finite; ``pairs`` by run, kind and block."""
    runs = torch.arange(len(pairs)).repeat_interleave(len(pairs[0][0][0].values))
    plain, rotated = (
        [_joined(blocks) for blocks in zip(*(pair[kind] for pair in pairs), strict=True)] for kind in (0, 1)
    )
    good = torch.stack([one.values.isfinite().all(1) for one in (*plain, *rotated)]).all(0)
    if not bool(good.any()):
        raise EquivProbeError(f"{name} that are not finite, in every sample", "finite numbers", "check the sampler")
    kept = torch.unique(runs[good], return_inverse=True)[1]
    plain, rotated = ([Block(one.values[good], one.size) for one in kind] for kind in (plain, rotated))
    return energy_test(plain, rotated, kept, groups[good], by_run=by_run, seed=stream(seed, 5))


def _joined(blocks: tuple[Block, ...]) -> Block:
    """One block of features of all runs."""
    sizes = [one.size for one in blocks if math.isfinite(one.size)]
    return Block(torch.cat([one.values for one in blocks]), max(sizes, default=0.0))
