"""The denoiser under any rotation: atoms rotate at the source, outputs rotate back by interpolation, noise averages
out.

White noise on a grid cannot be rotated by an angle other than the cube's: interpolated, it is no longer white. Rotated
atoms get fresh noise instead, and what is measured is the denoiser `f̄(x) = E_ε f(x + σ ε)`, averaged over the noise.
With two independent noises for every rotation, h and h', each about the clean density y,

    E_g Var over rotations of f̄  =  E_g ⟨h_g − y, h'_g − y⟩ − ⟨m_r − y, m'_s − y⟩,   r ≠ s,

without bias: the noises of the two factors are independent, and so are the rotations of different replicates r and s.
It is a part of the `L_equiv` of the single noisy grid, by Jensen's inequality, and both can be had for the cube's
rotations, which shows how large a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

import equiv_probe as ep
from equiv_probe.estimation.estimates import Sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from molecules import Molecules
    from torch import Tensor

    from equiv_probe.representations.grids import Grid

PLANS = {"cube": ep.RotationPlan("cube"), "so3": ep.RotationPlan("tetrahedral", replicates=2)}
GRIDS = {"cube": ep.grid(ball=True), "so3": ep.grid(interpolation="cubic")}


@dataclass(frozen=True)
class AtSource:
    """`L_equiv` and `L_total` of the noise-averaged denoiser within the ball that the box holds, over molecules.

    Attributes:
        cube: over the 24 rotations of the cube, where nothing is interpolated.
        so3: over 24 rotations, two designs rotated at random.
        floor: what the latter reads for the clean density itself, which an ideal denoiser would return: interpolation
            alone.
    """

    cube: Sums
    so3: Sums
    floor: Sums


def at_source(
    predict: Callable[[Tensor], Tensor],
    density: Callable[[Molecules], Tensor],
    noisy: Callable[[Tensor], Tensor],
    molecules: Molecules,
    batch: int = 4,
) -> AtSource:
    """Measure a denoiser of grids.

    Args:
        predict: noisy grids `(B, C, D, H, W)` to clean ones.
        density: molecules to grids, about the origin.
        noisy: adds noise, other noise at every call.
        molecules: to measure on.
        batch: how many at a time.
    """
    parts: dict[str, list[Sums]] = {"cube": [], "so3": [], "floor": []}
    for start in range(0, len(molecules), batch):
        some = molecules[start : start + batch]
        clean = density(some)

        def outputs(rotated: Tensor, some: Molecules = some) -> dict[str, Tensor]:
            grid = density(some.at(rotated))
            return {name: predict(noisy(grid)) for name in ("first", "second")}

        for name, plan in PLANS.items():
            parts[name].append(covariance(outputs, some.pos, clean, plan, GRIDS[name]))
        schema = ep.Schema(inputs={"pos": ep.point}, outputs={"0": GRIDS["so3"]})
        ideal = ep.twirl(
            lambda rotated, some=some: density(some.at(rotated)),
            some.pos,
            schema,
            PLANS["so3"],
            center="origin",
            floor=0,
        )
        parts["floor"].append(ep.decompose(ideal, clean, "mse", structures="leading").sums)
    return AtSource(**{name: sum(found[1:], found[0]) for name, found in parts.items()})


def covariance(
    outputs: Callable[[Tensor], dict[str, Tensor]],
    pos: Tensor,
    clean: Tensor,
    plan: ep.RotationPlan,
    grid: Grid,
) -> Sums:
    """The variance over rotations of what two outputs have in common, and their squared error, over structures.

    Args:
        outputs: positions `(B, N, 3)` to grids `"first"` and `"second"`.
        pos: unrotated.
        clean: what the outputs should be, `(B, C, D, H, W)`.
        plan: of the cube's rotations, or of R ≥ 2 replicates.
        grid: how the outputs rotate; what counts is in its ball.
    """
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"first": grid, "second": grid})
    orbit = ep.twirl(outputs, pos, schema, plan, center="origin", floor=0, keep=True)
    assert orbit.values is not None
    away = {name: values - grid.within(clean).double() for name, values in orbit.values.items()}  # (R, n, B, C, …)
    weights = plan.weights.to(clean.device)

    def over_rotations(products: Tensor) -> Tensor:
        return torch.einsum("n,rnb->b", weights, products) / plan.R

    inside = grid.counted(clean)
    assert inside is not None
    count = clean.shape[1] * inside.sum()
    dot = lambda a, b: (a * b).flatten(-4).sum(-1) / count  # noqa: E731
    means = {name: torch.einsum("n,rnbcxyz->rbcxyz", weights, values) for name, values in away.items()}
    alike = over_rotations(dot(away["first"], away["second"]))
    if plan.is_random:
        total = {name: values.sum(0) for name, values in means.items()}
        crossed = dot(total["first"], total["second"]) - dot(means["first"], means["second"]).sum(0)
        apart = crossed / (plan.R * (plan.R - 1))
    else:
        apart = dot(means["first"][0], means["second"][0])
    error = (
        over_rotations(dot(away["first"], away["first"])) + over_rotations(dot(away["second"], away["second"]))
    ) / 2
    return Sums.of(alike - apart, error, torch.ones_like(error))
