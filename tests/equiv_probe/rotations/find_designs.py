r"""Finds the designs of ``equiv_probe/rotations/designs.json``: positive quadratures on SO(3) with few rotations.

    python tests/equiv_probe/rotations/find_designs.py 9 --most 300 --groups I×C1 --smallest 1 -o designs.json

A rotation is a pair of unit quaternions ``±p``, a Wigner function of degree l an even polynomial of degree 2l on S³.
Pairs ``(a, b)`` of rotations act by ``p ↦ a p b̄``; a rule that a finite group of such pairs leaves as it is need only
average the *invariant* polynomials (Sobolev), which are few. For each group, orbit types (fixed subspaces of R⁴) are
combined at random until there are as many unknowns as conditions, and Levenberg-Marquardt looks for a zero from random
starts. Invariants come from the reproducing kernel ``U_{2l}(⟨p, z⟩)``, averaged over the group;
how many there are, from Molien's series ``(1 − t²) / det(1 − tA)``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = NDArray[np.float64]
GOLDEN = (1 + math.sqrt(5)) / 2


def about(axis: tuple[float, ...], order: float) -> Array:
    """Quaternion of the rotation by 2π / order about an axis."""
    direction = np.array(axis) / np.linalg.norm(axis)
    return np.array([math.cos(math.pi / order), *(math.sin(math.pi / order) * direction)])


ONE = np.array([1.0, 0, 0, 0])
Z2, X2, C3 = about((0, 0, 1), 2), about((1, 0, 0), 2), about((1, 1, 1), 3)
ROTATIONS: dict[str, list[Array]] = {
    "C1": [],
    **{f"C{n}": [about((0, 0, 1), n)] for n in (2, 3, 4, 5, 6, 7)},
    "D2": [Z2, X2],
    **{f"D{n}": [about((0, 0, 1), n), X2] for n in (3, 4, 5, 6, 7)},
    "T": [Z2, C3],
    "O": [about((0, 0, 1), 4), C3],
    "I": [about((0, 1, GOLDEN), 5), C3],
}
INVERSE = "inverse"


def product(p: Array, q: Array) -> Array:
    """Quaternion product."""
    w = p[..., :1] * q[..., :1] - (p[..., 1:] * q[..., 1:]).sum(-1, keepdims=True)
    return np.concatenate([w, p[..., :1] * q[..., 1:] + q[..., :1] * p[..., 1:] + np.cross(p[..., 1:], q[..., 1:])], -1)


def conjugate(p: Array) -> Array:
    return p * np.array([1.0, -1, -1, -1])


def matrix(a: Array, b: Array, inverse: bool = False) -> Array:
    """4 × 4 matrix of ``p ↦ a p b̄``, or of ``p ↦ a p̄ b̄``."""
    basis = np.eye(4)
    return product(product(a[None], conjugate(basis) if inverse else basis), conjugate(b)[None]).T


def groups() -> dict[str, list[Array]]:
    """Generators, as 4 × 4 matrices, by name: products, diagonal groups, and products over a common quotient."""
    found = {
        f"{left}×{right}": [*(matrix(g, ONE) for g in lefts), *(matrix(ONE, g) for g in rights)]
        for (left, lefts), (right, rights) in itertools.combinations_with_replacement(reversed(ROTATIONS.items()), 2)
    }
    v, t = ROTATIONS["D2"], ROTATIONS["T"]
    coupled = {f"{name} diagonal": [matrix(g, g) for g in seeds] for name, seeds in ROTATIONS.items() if seeds}
    # The outer automorphism of the icosahedral group: 5-fold rotations by 72° go with rotations by 144°.
    fives, threes = ROTATIONS["I"]
    twisted = (about((0, 1, 1 - GOLDEN), 2.5), threes)
    coupled["I twisted"] = [matrix(fives, twisted[0]), matrix(threes, twisted[1])]
    coupled["T over D2"] = [*(m for g in v for m in (matrix(g, ONE), matrix(ONE, g))), matrix(C3, C3)]
    coupled["O over D2"] = [*coupled["T over D2"], matrix(ROTATIONS["O"][0], ROTATIONS["O"][0])]
    coupled["O over T"] = [
        *(m for g in t for m in (matrix(g, ONE), matrix(ONE, g))),
        matrix(ROTATIONS["O"][0], ROTATIONS["O"][0]),
    ]
    for n in (2, 3, 4, 5, 6):
        spin, flip = ROTATIONS[f"D{n}"]
        coupled[f"D{n} over C{n}"] = [matrix(spin, ONE), matrix(ONE, spin), matrix(flip, flip)]
    for name in [name for name in found if len(set(name.split("×"))) == 1]:
        coupled[name] = found[name]
    for name, seeds in list(coupled.items()):
        coupled[f"{name}, {INVERSE}"] = [*seeds, matrix(ONE, ONE, inverse=True)]
    return {**found, **coupled}


def closure(seeds: list[Array], most: int) -> Array:
    """All elements, with −1, ``(order, 4, 4)``."""
    known: dict[tuple[float, ...], Array] = {}
    frontier = [np.eye(4), -np.eye(4)]
    while frontier:
        fresh = []
        for element in frontier:
            key = tuple((np.round(element, 6) + 0.0).ravel())
            if key not in known:
                known[key] = element
                fresh.append(element)
        if len(known) > most:
            raise ValueError("not a finite group")
        frontier = [seed @ element for element in fresh for seed in seeds]
    return np.stack(list(known.values()))


@dataclass(eq=False)
class Stratum:
    """Points with one kind of stabiliser: the unit vectors of a subspace ``(4, d)``; rotations in an orbit."""

    basis: Array
    size: int

    @property
    def free(self) -> int:
        return self.basis.shape[1] - 1


def key(basis: Array) -> tuple[float, ...]:
    """Names a subspace."""
    return tuple((np.round(basis @ basis.T, 5) + 0.0).ravel())


def null(of: Array) -> Array:
    """Orthonormal basis of the kernel of a matrix ``(n, 4)``."""
    _, values, rows = np.linalg.svd(of)
    return rows[np.concatenate([values, np.zeros(4)])[:4] < 1e-7].T


@dataclass(eq=False)
class Group:
    """A finite group of pairs of rotations, and its invariants to a degree."""

    name: str
    seeds: list[Array]
    degree: int
    largest: int
    elements: Array = field(init=False)

    def __post_init__(self) -> None:
        self.elements = closure(self.seeds, self.largest)
        firsts = np.array([m.ravel()[np.abs(m.ravel()) > 0.1][0] for m in self.elements])
        self._up_to_sign = self.elements[firsts > 0]  # which even polynomials do not see

    @cached_property
    def counts(self) -> list[int]:
        """How many invariants each degree l = 1 … has (Molien)."""
        series = np.zeros(2 * self.degree + 1)
        polys = np.round([np.poly(element).real for element in self.elements], 9)  # t⁴ det(1/t − A) = det(1 − tA)
        for poly, times in zip(*np.unique(polys, axis=0, return_counts=True), strict=True):
            inverse = np.zeros(2 * self.degree + 1)
            for k in range(len(inverse)):
                inverse[k] = (k == 0) - sum(poly[i] * inverse[k - i] for i in range(1, min(4, k) + 1))
            series += times * (inverse - np.concatenate([[0, 0], inverse[:-2]]))
        return [round(value) for value in series[2::2] / len(self.elements)]

    @cached_property
    def drift(self) -> int:
        """Dimension of the rotations from either side that commute with the group: they move no orbit apart."""
        so4 = [
            (np.eye(4)[:, [i]] @ np.eye(4)[[j]]) - (np.eye(4)[:, [j]] @ np.eye(4)[[i]])
            for i, j in itertools.combinations(range(4), 2)
        ]
        rows = [np.stack([(g @ s - s @ g).ravel() for s in so4], 1) for g in self.seeds]
        return 6 - (np.linalg.matrix_rank(np.concatenate(rows), tol=1e-8) if rows else 0)

    @cached_property
    def strata(self) -> list[Stratum]:
        spaces: dict[tuple[float, ...], Array] = {}
        for element in self.elements:
            basis = null(element - np.eye(4))
            if 0 < basis.shape[1] < 4:
                spaces.setdefault(key(basis), basis)
        while True:
            fresh = {}
            for first, second in itertools.combinations(list(spaces.values())[:400], 2):
                basis = null(np.concatenate([np.eye(4) - first @ first.T, np.eye(4) - second @ second.T]))
                if basis.shape[1] and key(basis) not in spaces:
                    fresh[key(basis)] = basis
            if not fresh:
                break
            spaces.update(fresh)
        found, seen = [Stratum(np.eye(4), len(self.elements) // 2)], set()
        for name, basis in spaces.items():
            if name not in seen:
                seen |= {key(element @ basis) for element in self.elements}
                point = basis @ np.random.default_rng(0).standard_normal(basis.shape[1])
                orbit = np.unique(np.round(self.elements @ (point / np.linalg.norm(point)), 5) + 0.0, axis=0)
                found.append(Stratum(basis, len(orbit) // 2))
        return sorted(found, key=lambda s: (s.size, s.free))

    @cached_property
    def invariants(self) -> list[tuple[int, Array, Array]]:
        """For each degree l, points z and coefficients that make an orthonormal basis of the invariants."""
        rng = np.random.default_rng(0)
        found = []
        for degree, count in enumerate(self.counts, 1):
            if count:
                z = rng.standard_normal((2 * count + 2, 4))
                z /= np.linalg.norm(z, axis=1, keepdims=True)
                moved = np.einsum("gij,zj->gzi", self._up_to_sign, z)
                gram = sum(kernel(2 * degree, z @ one.T)[0] for one in moved) / len(moved)
                values, vectors = np.linalg.eigh(gram)
                found.append((degree, z, vectors[:, -count:] / np.sqrt(values[-count:])))
        return found

    def features(self, points: Array) -> tuple[Array, Array]:
        """Invariants ``(M, C)`` at points ``(M, 4)``, and their derivatives ``(M, C, 4)``."""
        # The group may as well act on the points: ⟨p, γ z⟩ = ⟨γᵀ p, z⟩.
        columns, slopes = [], []
        for degree, z, coefficients in self.invariants:
            value = np.zeros((len(points), len(z)))
            slope = np.zeros((len(points), len(z), 4))
            numbers = len(self._up_to_sign) * len(points) * len(z)
            for part in np.array_split(self._up_to_sign, max(1, numbers // 2_000_000)):
                moved = np.einsum("gij,zj->gzi", part, z)
                inner = np.einsum("mi,gzi->mgz", points, moved)
                k, dk = kernel(2 * degree, inner)
                value += k.sum(1)
                slope += np.einsum("mgz,gzi->mzi", dk, moved)
            columns.append(value @ coefficients / len(self._up_to_sign))
            slopes.append(np.einsum("mzi,zc->mci", slope, coefficients) / len(self._up_to_sign))
        return np.concatenate(columns, 1), np.concatenate(slopes, 1)


def kernel(degree: int, cosine: Array) -> tuple[Array, Array]:
    """Chebyshev's ``U_n``, and its derivative ``2 C^{(2)}_{n−1}``."""
    u, before = np.ones_like(cosine), np.zeros_like(cosine)
    slope, slope_before = np.zeros_like(cosine), np.zeros_like(cosine)
    for _ in range(degree):
        slope, slope_before = 2 * u + 2 * cosine * slope - slope_before, slope
        u, before = 2 * cosine * u - before, u
    return u, slope


def solve(
    group: Group, chosen: list[Stratum], rng: np.random.Generator, *, equal: bool, steps: int = 150
) -> tuple[float, Array, Array]:
    """One start of Levenberg-Marquardt: the largest residual, representatives and weights of one rotation each."""
    sizes = np.array([s.size for s in chosen], float)
    x = [rng.standard_normal(s.free + 1) for s in chosen]
    x = [one / np.linalg.norm(one) for one in x]
    logs = np.zeros(len(chosen)) if equal else 0.2 * rng.standard_normal(len(chosen))
    bases = [s.basis for s in chosen]

    def evaluate(x: list[Array], logs: Array) -> tuple[Array, Array]:
        points = np.stack([b @ one for b, one in zip(bases, x, strict=True)])
        shares = sizes * np.exp(logs)
        shares /= shares.sum()
        return points, shares

    damping = 1e-2
    points, shares = evaluate(x, logs)
    values, slopes = group.features(points)
    residual = shares @ values
    best = float(residual @ residual)
    for step in range(steps):
        columns = []
        tangents = []
        for j, b in enumerate(bases):
            tangent = np.linalg.svd(x[j][None])[2][1:].T  # (d, d − 1)
            tangents.append(tangent)
            columns.append(shares[j] * slopes[j] @ (b @ tangent))
        if not equal:
            columns.append(((values - residual) * shares[:, None]).T)
        jacobian = np.concatenate(columns, 1)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        for _ in range(8):
            damped = normal + damping * max(best, 1e-300) ** 0.5 * np.eye(len(normal))
            move = -np.linalg.lstsq(damped, gradient)[0]
            at, new = 0, []
            for one, tangent in zip(x, tangents, strict=True):
                d = tangent.shape[1]
                moved = one + tangent @ move[at : at + d]
                new.append(moved / np.linalg.norm(moved))
                at += d
            new_logs = logs if equal else np.clip(logs + np.clip(move[at:], -1, 1), -4, 4)
            p, w = evaluate(new, new_logs)
            v, s = group.features(p)
            r = w @ v
            now = float(r @ r)
            if now < best:
                damping = max(damping / 4, 1e-10)
                break
            damping = min(damping * 6, 1e8)
        else:
            break
        gain = now / best
        x, logs, points, shares, values, slopes, residual, best = new, new_logs, p, w, v, s, r, now
        if best < 1e-30 or (step > 25 and best > 1e-3) or (step > 50 and gain > 0.99):
            break
    return float(np.abs(residual).max()), points, shares / sizes


def choice(group: Group, unknowns: int, sizes: range, rng: np.random.Generator, *, equal: bool) -> list[Stratum]:
    """A random choice of orbits with so many unknowns at least and a number of rotations in a range, or none."""
    for _ in range(200):
        liking = rng.dirichlet(np.full(len(group.strata), 0.5))
        chosen: list[Stratum] = []
        have, size = 0 if equal else -1, 0
        while have < unknowns and size < sizes.stop:
            stratum = group.strata[rng.choice(len(liking), p=liking)]
            if stratum.free == 0 and stratum in chosen:  # an isolated orbit is taken once
                if not any(liking[k] > 0 and s.free for k, s in enumerate(group.strata)):
                    break
                liking = np.where([s is stratum for s in group.strata], 0, liking)
                if liking.sum() < 1e-9:
                    break
                liking /= liking.sum()
                continue
            chosen.append(stratum)
            have, size = have + stratum.free + (not equal), size + stratum.size
        if have >= unknowns and size in sizes:
            return chosen
    return []


def search(options: argparse.Namespace) -> None:
    """Print rules as they are found, each smaller than the one before, until the time is over."""
    rng = np.random.default_rng(options.seed)
    limit, end = options.most, time.process_time() + options.seconds
    usable = list(usable_groups(options))
    while time.process_time() < end:
        unknowns, group = usable[rng.integers(len(usable))]
        sizes = range(math.comb(options.degree + 3, 3), limit + 1)
        chosen = choice(group, unknowns, sizes, rng, equal=options.equal)
        for _ in range(3 if chosen else 0):
            worst, points, weights = solve(group, chosen, rng, equal=options.equal)
            if worst < 1e-13 and weights.min() > 0.2 * weights.max():
                limit = sum(s.size for s in chosen) - 1
                print(f"{limit + 1} with {group.name}, orbits {[s.size for s in chosen]}, {worst:.1e}", flush=True)
                if options.output:
                    store(options.output, group, points, weights)
                break


def usable_groups(options: argparse.Namespace) -> Iterator[tuple[int, Group]]:
    """The groups that were asked for, each with the unknowns that it takes."""
    for name, seeds in groups().items():
        if options.groups and name not in options.groups:
            continue
        try:
            group = Group(name, seeds, options.degree, 2 * options.largest)
        except ValueError:  # infinite, or too large
            continue
        conditions = sum(group.counts)
        if len(group.elements) // 2 >= options.smallest and conditions <= options.conditions:
            print(f"{name}: {conditions}, drift {group.drift}, {[(s.size, s.free) for s in group.strata]}", flush=True)
            yield conditions + group.drift - options.slack, group


def store(path: Path, group: Group, points: Array, weights: Array) -> None:
    """Put a rule in the place of its degree's in a file, as the package reads it."""
    rules: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    generators = [seed.ravel().tolist() for seed in group.seeds]
    rule = {"group": group.name, "generators": generators, "points": points.tolist(), "weights": weights.tolist()}
    path.write_text(json.dumps({**rules, str(group.degree): rule}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("degree", type=int)
    parser.add_argument("--most", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--equal", action="store_true")
    parser.add_argument("--slack", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="*")
    parser.add_argument("--conditions", type=int, default=60)
    parser.add_argument("--smallest", type=int, default=12)
    parser.add_argument("--largest", type=int, default=600)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    search(options)


if __name__ == "__main__":
    main()
