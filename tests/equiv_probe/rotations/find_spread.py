r"""Finds the rotations of ``equiv_probe/rotations/spread.json``: few, between two groups, spread as evenly as can be.

    python tests/equiv_probe/rotations/find_spread.py 18:2 30:3 36:3 42:3 -o spread.json

Of n rotations with equal weights that average all Wigner functions up to degree t exactly, those that alias least of
an orbit whose power falls by 0.3 from degree to degree: ``Σ_l 0.3^l Σ_{ij} χ_l(d_i⁻¹ d_j) / (2l + 1)``, with a large
weight on ``l ≤ t``, from random starts. Newton's method brings the best one to exactness: monomials of degree 2t of the
quaternions, which span all Wigner functions up to t, must have the means that they have over the sphere.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import torch
from torch import Tensor

DECAY, HIGHEST, EXACT = 0.3, 12, 1e3


def spread_energy(quaternions: Tensor, degree: int) -> Tensor:
    """What the rotations alias, with a large weight on what they must not; ``χ_l(θ) = U_{2l}(⟨p, q⟩)``."""
    cosine = quaternions @ quaternions.mT
    one, two, total = torch.ones_like(cosine), 2 * cosine, cosine.new_zeros(())
    for order in range(2, 2 * HIGHEST + 1):
        one, two = two, 2 * cosine * two - one
        if order % 2 == 0:
            weight = EXACT if order // 2 <= degree else DECAY ** (order // 2 - degree - 1)
            total = total + weight * two.mean() / (order + 1)
    return total


def descend(count: int, degree: int, seed: int) -> tuple[float, Tensor]:
    """The energy and the unit quaternions ``(count, 4)`` at the end of a descent from a random start."""
    start = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    free = start.requires_grad_()
    method = torch.optim.LBFGS([free], max_iter=800, history_size=30, line_search_fn="strong_wolfe")
    method.param_groups[0].update(tolerance_grad=1e-14, tolerance_change=1e-18)

    def closure() -> Tensor:
        method.zero_grad()
        energy = spread_energy(torch.nn.functional.normalize(free, dim=-1), degree)
        energy.backward()  # type: ignore[no-untyped-call]
        return energy

    method.step(closure)  # type: ignore[no-untyped-call]
    return float(closure().detach()), torch.nn.functional.normalize(free.detach(), dim=-1)


def exact(quaternions: Tensor, degree: int) -> Tensor:
    """The nearest quaternions, by Newton's method, whose monomials of degree 2t have the means of the sphere."""
    powers = [p for p in itertools.product(range(2 * degree + 1), repeat=4) if sum(p) == 2 * degree]
    over_sphere = torch.tensor([_mean(p) for p in powers], dtype=torch.float64)
    exponents = torch.tensor(powers, dtype=torch.float64)

    def off(flat: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(flat.reshape(-1, 4), dim=-1)
        return (unit[:, None] ** exponents).prod(-1).mean(0) - over_sphere

    flat = quaternions.flatten()
    for _ in range(20):
        step = torch.linalg.pinv(torch.autograd.functional.jacobian(off, flat), rtol=1e-9) @ off(flat)  # type: ignore[no-untyped-call]
        flat = flat - step
    return torch.nn.functional.normalize(flat.reshape(-1, 4), dim=-1)


def _mean(powers: tuple[int, ...]) -> float:
    """Mean of a monomial over the sphere in four dimensions (Folland, Amer. Math. Monthly 108 (2001) 446)."""
    if any(p % 2 for p in powers):
        return 0.0
    odd = math.prod(math.prod(range(1, p, 2)) for p in powers)
    return odd / math.prod(range(4, 4 + sum(powers), 2))


def main() -> None:
    """Find rules, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="+", help="<rotations>:<degree>")
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = {}
    for rule in options.rules:
        count, degree = map(int, rule.split(":"))
        energy, best = min((descend(count, degree, seed) for seed in range(options.tries)), key=lambda one: one[0])
        points = exact(best, degree)
        print(f"{rule}: {energy:.6g}, {float(spread_energy(points, degree)):.6g} when exact")
        found[str(count)] = {"degree": degree, "points": points.tolist()}
    options.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
