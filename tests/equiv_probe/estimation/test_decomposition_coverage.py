"""A 95 % interval of ``decompose`` covers 95 %: measured through the public code, over networks and rotations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

pytestmark = pytest.mark.slow


def squares(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square()


def coverage(
    make_network, repeat, plan: ep.RotationPlan, *, vectors: bool, count: int, **kwargs
) -> tuple[float, float]:
    """How often the intervals of ``L_equiv`` and of the share hold the truth, over 6 smooth and 6 rough networks."""
    hits = torch.zeros(2)
    for seed in range(12):
        network = make_network(vectors, seed, gain=0.7 if seed % 2 else 1.5)
        target = network.target()
        total, mean = network.truth(target, squares)
        truths = ((total - mean), (total - mean) / total)
        for found in repeat(network, plan, count, seed).decompositions(target, **kwargs):
            intervals = (found.equiv_interval, found.share_interval)
            hits += torch.tensor([low <= t <= high for t, (low, high) in zip(truths, intervals, strict=True)])
    return tuple((hits / (12 * count)).tolist())


@pytest.mark.parametrize("vectors", [True, False], ids=["vectors", "scalar"])
def test_default_plan_covers_between_93_and_97_percent(make_network, repeat, *, vectors: bool) -> None:
    # 2400 repetitions: a standard error of 0.5 % on each coverage. True coverages, from 12 000: 94.1 to 94.3 %.
    for covered in coverage(make_network, repeat, ep.RotationPlan(), vectors=vectors, count=200):
        assert 0.93 <= covered <= 0.97, covered


# Stated for the other designs: the lower of the coverages of L_equiv and of the share, from 1800 repetitions each.
# Replicates that leave much of a scalar's orbit to chance (few Haar rotations) make a ratio of skewed sums, and the
# interval of its share too short; vectors average over their components and do not suffer.
STATED = {
    ("haar", 16): (0.95, 0.82),
    ("haar", 48): (0.95, 0.87),
    ("klein", 4): (0.94, 0.94),
    ("octahedral", 4): (0.94, 0.94),
    ("icosahedral", 4): (0.94, 0.93),
    ("tetrahedral", 8): (0.94, 0.93),
    ("lebedev-5", 4): (0.94, 0.94),
}


@pytest.mark.parametrize(("design", "replicates"), list(STATED))
def test_coverage_of_the_other_designs_is_as_stated(design: str, replicates: int, make_network, repeat) -> None:
    plan = ep.RotationPlan(design, replicates)
    for vectors, stated in zip((True, False), STATED[design, replicates], strict=True):
        covered = min(coverage(make_network, repeat, plan, vectors=vectors, count=40))
        print(f"{design}-{replicates} {'vectors' if vectors else 'scalar'}: {covered:.3f}, stated {stated}")
        # 480 repetitions have a standard error of 1 to 1.7 %, and the lower of two is 0.6 of one lower: 3σ.
        assert abs(covered - stated) < 3.5 * math.sqrt(stated * (1 - stated) / 480) + 0.005, (vectors, covered)


def test_negative_control_a_plan_that_does_not_rotate_covers_nothing(
    make_network, repeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untwisted(self: ep.RotationPlan, generator: object = None) -> Tensor:
        return self._design()[0].expand(self.R, self.n, 3, 3)

    monkeypatch.setattr(ep.RotationPlan, "rotations", untwisted)
    covered = coverage(make_network, repeat, ep.RotationPlan(), vectors=True, count=2)
    assert max(covered) == 0.0


def population(network, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
    """Random structures with targets, and the true ``L_equiv`` and share of the mean over all of them."""
    x = torch.randn(size, 4, 3, generator=generator, dtype=torch.float64)
    plan = ep.RotationPlan("lebedev-11", 1)  # the truth to 1e-4: hundredths of an interval
    orbits = network(torch.einsum("nij,baj->bnai", plan.rotations()[0], x))
    twirl = orbits @ plan.weights
    targets = twirl + 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
    total = (squares(orbits, targets[:, None]) @ plan.weights).mean()
    equiv = float(total - squares(twirl, targets).mean())
    return x, targets, equiv, equiv / float(total)


@pytest.mark.parametrize("shared", [False, True], ids=["own rotations", "shared rotations"])
def test_over_structures_the_interval_covers_the_population(make_network, repeat, *, shared: bool) -> None:
    """Thirty structures at random, each with its own rotations as an audit has it, or all with the same as a batch."""
    network, plan, generator = make_network(vectors=False, atoms=4), ep.RotationPlan(), torch.Generator().manual_seed(0)
    x, targets, *truths = population(network, 1000, generator)
    hits, repetitions, size = torch.zeros(2), 400, 30
    for _ in range(repetitions):
        chosen = torch.randint(1000, (size,), generator=generator)
        draws = [plan.rotations(generator)] * size if shared else [plan.rotations(generator) for _ in range(size)]
        h = network(torch.einsum("brnij,baj->rnbai", torch.stack(draws), x[chosen]))
        orbit = ep.Orbit.from_values({"y": h}, {"y": h[0, 0]}, network.schema, plan, draws[0])
        found = ep.decompose(orbit, targets[chosen], structures="leading")
        each = (found.sums.equiv, found.sums.share)
        intervals = [found.equiv_interval, found.share_interval] if shared else [(e.low, e.high) for e in each]
        hits += torch.tensor([low <= t <= high for t, (low, high) in zip(truths, intervals, strict=True)])
    # The delta method on 30 skewed structures falls a little short: 1500 repetitions gave, for L_equiv and the share,
    # 93.9 and 91.9 % with their own rotations, 94.8 and 93.1 % with shared ones. 400 have a standard error of 1.3 %.
    assert bool((hits / repetitions > 0.88).all()), hits / repetitions
    assert bool((hits / repetitions < 0.98).all()), hits / repetitions
