"""The runs that a test of equivariance in distribution needs: independent ones, some of them of rotated noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.initial_noise import stream
from equiv_probe.generative.law import energy_test, features, runs_needed
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.initial_noise import InitialNoise
    from equiv_probe.generative.law import Law
    from equiv_probe.generative.runs import SamplerRuns


def compare_laws(
    runs: SamplerRuns, start: InitialNoise, first: Tensor, rotations: Tensor, seed: int, asked: int | None
) -> dict[str, Law]:
    """Run a sampler on independent noise and on independent noise that is rotated, and compare the end points.

    Args:
        runs: of the sampler, after its first.
        start: where initial noise comes from.
        first: that of the audit; noise that is given is taken in random orientations.
        rotations: ``(K, U, 3, 3)``; each sample of rotated noise takes one of its own, at random.
        seed: of all noise.
        asked: samples of each kind, if a number was asked for.

    Returns:
        What was found for each output.

    Raises:
        EquivProbeError: no pair of end points is finite.
    """
    count = runs.structures.count
    by_run = count > 1 and shares_draws(runs)
    generator = torch.Generator().manual_seed(stream(seed, 3))
    found: dict[str, list[list[list[Tensor]]]] = {name: [] for name in runs.schema.outputs}
    way, runs.way = runs.way, "same"  # what is drawn keeps its own law
    try:
        for k in range(runs_needed(count, asked, by_run=by_run)):
            pair = []
            for kind in range(2):
                own = stream(seed, 4, k, kind)
                noise = (
                    start.draw(own) if not isinstance(start.given, torch.Tensor) else _oriented(runs, first, generator)
                )
                if kind:
                    pick = torch.randint(0, len(rotations), (count,), generator=generator)
                    pick = pick[:1].expand(count) if runs.shared else pick
                    pair.append(runs.run(own, rotations[pick, torch.arange(count)], noise=noise))
                else:
                    pair.append(runs.run(own, noise=noise))
            for name, rep in runs.schema.outputs.items():
                found[name].append([features(values[name][-1], rep, runs.structures) for values in pair])
    finally:
        runs.way = way
    return {name: _test(pairs, by_run=by_run, seed=seed, name=name) for name, pairs in found.items()}


def shares_draws(runs: SamplerRuns) -> bool:
    """Whether samples of one run may have a draw in common, so that they are not independent."""
    noise = runs.noises[0]
    return runs.foreign_drawn or any(not noise.frame.has_own(draw.shape) for draw, _ in noise.draws)


def _oriented(runs: SamplerRuns, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Noise that was given, each sample in a random orientation."""
    plan = RotationPlan("cube", subset=1) if runs.rep.is_whole else RotationPlan("haar", 1)
    return runs.rotated(noise, plan.draws(runs.structures.count, generator)[:, 0, 0])


def _test(pairs: list[list[list[Tensor]]], *, by_run: bool, seed: int, name: str) -> Law:
    plain, rotated = (
        [torch.cat(blocks) for blocks in zip(*(pair[kind] for pair in pairs), strict=True)] for kind in (0, 1)
    )
    runs = torch.arange(len(pairs)).repeat_interleave(len(pairs[0][0][0]))
    good = torch.stack([one.isfinite().all(1) for one in (*plain, *rotated)]).all(0)
    if not bool(good.any()):
        raise EquivProbeError(f"{name} that are not finite, in every sample", "finite numbers", "check the sampler")
    kept = runs[good].unique(return_inverse=True)[1]
    return energy_test([a[good] for a in plain], [b[good] for b in rotated], kept, by_run=by_run, seed=stream(seed, 5))
