r"""Rotations to average over: Haar sampling, designs, and the plan that rotates a design at random.

Rotations are ``(..., 3, 3)`` float64 tensors acting on column vectors, ``x' = g x``; row-stored coordinates rotate as
``pos @ g.mT``.

A *design* ``{d_i, w_i}`` of degree ``t`` averages every Wigner function up to degree ``t`` exactly:
``Σ_i w_i D^l(d_i) = 0`` for ``1 ≤ l ≤ t``. The finite rotation groups nearly reach the least possible size
``C(t+3, 3)``; quadrature (Lebedev on the sphere × equal steps in the angle) goes to any degree for which SciPy has a
Lebedev rule. Sources: Lebedev & Laikov, Doklady Mathematics 59 (1999) 477; Gräf & Potts, Numer. Funct. Anal. Optim. 30
(2009) 665 (quadrature on SO(3) as a product of the sphere and the circle).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

GROUP_DEGREES: Final = {"klein": 1, "tetrahedral": 2, "octahedral": 3, "icosahedral": 5}
GROUP_ORDERS: Final = {"klein": 4, "tetrahedral": 12, "octahedral": 24, "icosahedral": 60}
FIXED: Final = {"cube": "octahedral", "box": "klein"}
"""Designs that are not rotated, and their groups."""


def haar(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw Haar-distributed rotations as normalised Gaussian quaternions.

    Args:
        count: how many.
        generator: source of every draw; None draws from a fresh, randomly seeded one. The global random state is
            neither read nor moved.

    Returns:
        ``(count, 3, 3)`` float64.

    Source: Marsaglia, Ann. Math. Statist. 43 (1972) 645; Shoemake, Graphics Gems III (1992) 124.

    >>> haar(2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 3])
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64, device=generator.device)
    return from_quaternions(quaternions)


def from_quaternions(quaternions: Tensor) -> Tensor:
    """Rotate quaternions ``(..., 4)`` (w, x, y, z; any non-zero length) into rotations ``(..., 3, 3)``."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def angles(rotations: Tensor) -> Tensor:
    """Angle of each rotation in radians, ``(..., 3, 3) -> (...)``, accurate near 0 and near π."""
    trace = rotations.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = rotations - rotations.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1).norm(dim=-1)
    return torch.atan2(sine, trace - 1)


@lru_cache(maxsize=1)
def generators() -> Tensor:
    """The skew generators ``J_a`` of rotation about x, y, z, ``(3, 3, 3)`` float64: ``exp(θ J_a)`` rotates by θ."""
    basis = torch.zeros(3, 3, 3, dtype=torch.float64)
    for a, (b, c) in enumerate(((1, 2), (2, 0), (0, 1))):
        basis[a, c, b], basis[a, b, c] = 1.0, -1.0
    return basis


def _about(axis: Iterable[float], angle: float) -> Tensor:
    direction = torch.tensor(list(axis), dtype=torch.float64)
    half = angle / 2
    return from_quaternions(
        torch.cat([direction.new_tensor([math.cos(half)]), math.sin(half) * direction / direction.norm()])
    )


def _generated_by(*seeds: Tensor) -> Tensor:
    """Close a set of rotations under multiplication; the identity comes first."""
    elements = [torch.eye(3, dtype=torch.float64)]
    frontier = list(elements)
    while frontier:
        products = [seed @ element for element in frontier for seed in seeds]
        frontier = []
        for product in products:
            if not any(torch.allclose(product, known, atol=1e-9) for known in elements):
                elements.append(product)
                frontier.append(product)
    return torch.stack(elements)


@lru_cache(maxsize=len(GROUP_ORDERS))
def group(name: str) -> Tensor:
    """Elements of a finite rotation group, ``(order, 3, 3)`` float64, the identity first.

    Args:
        name: ``"klein"`` (4, degree 1), ``"tetrahedral"`` (12, degree 2), ``"octahedral"`` (24, degree 3) or
            ``"icosahedral"`` (60, degree 5).

    >>> [len(group(name)) for name in GROUP_ORDERS]
    [4, 12, 24, 60]
    """
    half_turn, third_turn = _about((0, 0, 1), math.pi), _about((1, 1, 1), 2 * math.pi / 3)
    golden = (1 + math.sqrt(5)) / 2
    seeds = {
        "klein": (half_turn, _about((1, 0, 0), math.pi)),
        "tetrahedral": (half_turn, third_turn),
        "octahedral": (_about((0, 0, 1), math.pi / 2), third_turn),
        "icosahedral": (_about((0, 1, golden), 2 * math.pi / 5), third_turn),
    }
    if name not in seeds:
        raise EquivProbeError(f"group {name!r}", f"one of {', '.join(seeds)}")
    elements = _generated_by(*seeds[name])
    # The three groups of the cube are signed permutations: exact integers, so that grids rotate without interpolation.
    return elements if name == "icosahedral" else elements.round() + 0.0


@lru_cache(maxsize=32)
def quadrature(degree: int) -> tuple[Tensor, Tensor]:
    """Lebedev × uniform quadrature on SO(3).

    A rotation is a direction for the z axis, taken from SciPy's Lebedev rule, after a rotation about z by one of
    ``degree + 1`` equal steps.

    Args:
        degree: the degree to integrate exactly; the next Lebedev rule that SciPy has is taken, leaving out the three
            (13, 25, 27) with negative weights, with which Jensen's inequality, and so ``L_equiv ≥ 0``, would not hold.

    Returns:
        rotations ``(n, 3, 3)`` and weights ``(n,)`` that sum to one, float64. n is 24, 84, 208 for degree 3, 5, 7.
    """
    from scipy.integrate import lebedev_rule

    rule = next((d for d in range(degree, 132) if _has_lebedev(d)), None)
    if degree < 1 or rule is None:
        raise EquivProbeError(f"quadrature of degree {degree}", "a degree from 1 to 131")
    points, weights = lebedev_rule(rule)
    x, y, z = points
    polar, azimuth = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    spin = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    tilt = torch.from_numpy(_about_z(azimuth) @ _about_y(polar))
    rotate = torch.from_numpy(_about_z(spin))
    rotations = torch.einsum("pij,sjk->psik", tilt, rotate).reshape(-1, 3, 3)
    measure = torch.from_numpy(weights / weights.sum()).repeat_interleave(degree + 1) / (degree + 1)
    return rotations, measure


def _has_lebedev(degree: int) -> bool:
    from scipy.integrate import lebedev_rule

    try:
        _, weights = lebedev_rule(degree)
    except NotImplementedError:
        return False
    return bool((weights > 0).all())


def _about_z(angle: np.ndarray) -> np.ndarray:
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([np.stack([c, -s, o], -1), np.stack([s, c, o], -1), np.stack([o, o, i], -1)], -2)


def _about_y(angle: np.ndarray) -> np.ndarray:
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([np.stack([c, o, s], -1), np.stack([o, i, o], -1), np.stack([-s, o, c], -1)], -2)


@dataclass(frozen=True)
class RotationPlan:
    """A design, rotated by independent Haar rotations: ``g_{ri} = q_r d_i``.

    Args:
        design: ``"haar"`` (one rotation), ``"klein"``, ``"tetrahedral"``, ``"octahedral"``, ``"icosahedral"``,
            ``"lebedev-<degree>"``, or ``"cube"``: the 24 rotations of the cube as they are, not rotated, whose average
            over that subgroup is exact and has no sampling error.
        replicates: R, how many independent Haar rotations rotate the design. None takes the design's default: four for
            a group or a quadrature, 16 for ``"haar"``, one for ``"cube"`` and ``"box"``.
        improper: average over O(3): every rotation comes with its product with the inversion, and n doubles.
        seed: of the generator that :meth:`rotations` makes when it is given none.
        subset: of ``"cube"`` and ``"box"``: draw so many of the rotations, without replacement; each is then a
            replicate of its own, and R is their number.

    Raises:
        EquivProbeError: unknown design, fewer than one replicate, a ``"cube"`` with more than one, or a subset that the
            group does not have.

    >>> plan = RotationPlan("icosahedral", replicates=2)
    >>> plan.rotations().shape, plan.degree, plan.size
    (torch.Size([2, 60, 3, 3]), 5, 120)
    """

    design: str = "tetrahedral"
    replicates: int | None = None
    improper: bool = False
    seed: int = 0
    subset: int | None = None

    def __post_init__(self) -> None:
        if self.design not in {"haar", *FIXED, *GROUP_ORDERS} and not re.fullmatch(r"lebedev-\d+", self.design):
            names = ", ".join(["haar", *GROUP_ORDERS, "lebedev-<degree>", *FIXED])
            raise EquivProbeError(f"design {self.design!r}", f"one of {names}", 'RotationPlan("tetrahedral")')
        if self.replicates is None:
            object.__setattr__(self, "replicates", self.subset or {"haar": 16, "cube": 1, "box": 1}.get(self.design, 4))
        if not isinstance(self.replicates, int) or self.replicates < 1:
            raise EquivProbeError(f"replicates={self.replicates!r}", "a whole number, at least 1 (error bars need 4)")
        if self.seed < 0:
            raise EquivProbeError(f"seed={self.seed}", "a seed of 0 or more")
        if self.subset is not None and not (self.design in FIXED and 1 <= self.subset <= len(self._design()[1])):
            raise EquivProbeError(
                f"subset={self.subset} of {self.design!r}",
                "so many of the rotations of the cube (24, or 48 with improper ones) or of the box (4, or 8)",
                'RotationPlan("cube", subset=4)',
            )
        if self.design in FIXED and self.replicates != (self.subset or 1):
            raise EquivProbeError(
                f'"{self.design}" with replicates={self.replicates}',
                "one: its rotations are not rotated at random",
                f'RotationPlan("cube", subset=…), or RotationPlan("{self._group}", replicates=…) for the randomly '
                "rotated group",
            )
        self._design()  # an impossible quadrature degree is an error here, not at first use

    def _design(self) -> tuple[Tensor, Tensor]:
        """The design before it is rotated: rotations ``(n, 3, 3)`` and weights ``(n,)``."""
        if self.design.startswith("lebedev-"):
            elements, weights = quadrature(int(self.design.removeprefix("lebedev-")))
        else:
            elements = torch.eye(3, dtype=torch.float64)[None] if self.design == "haar" else group(self._group)
            weights = torch.full((len(elements),), 1 / len(elements), dtype=torch.float64)
        if self.improper:
            elements, weights = torch.cat([elements, -elements]), torch.cat([weights, weights]) / 2
        return elements, weights

    @property
    def _group(self) -> str:
        return FIXED.get(self.design, self.design)

    @property
    def R(self) -> int:  # noqa: N802 - the letter of the formulas
        """How many replicates, an int."""
        assert self.replicates is not None  # set in __post_init__
        return self.replicates

    @property
    def n(self) -> int:
        """How many rotations a replicate has: those of the design, or the one that was drawn of it."""
        return len(self.weights)

    @property
    def size(self) -> int:
        """K = R·n, the rotations in all."""
        return self.R * self.n

    @property
    def weights(self) -> Tensor:
        """Weights of the design, ``(n,)`` float64, that sum to one."""
        weights = self._design()[1]
        return weights if self.subset is None else torch.ones_like(weights[:1])

    @property
    def population(self) -> int | None:
        """How many rotations a subset is drawn from; None where the rotations are independent, or all are taken."""
        return None if self.subset is None else len(self._design()[1])

    @property
    def degree(self) -> int:
        """The degree up to which the design averages every Wigner function to zero; 0 for ``"haar"`` and subsets."""
        if self.design == "haar" or self.subset is not None:
            return 0
        return GROUP_DEGREES[self._group] if self._group in GROUP_DEGREES else int(self.design.split("-")[1])

    @property
    def is_random(self) -> bool:
        """Whether chance has a part in it; False for ``"cube"`` and ``"box"``, averaged exactly over their subgroup."""
        return self.is_rotated or self.subset is not None

    @property
    def is_rotated(self) -> bool:
        """Whether the design is rotated at random, so that every rotation is Haar; not ``"cube"`` and ``"box"``."""
        return self.design not in FIXED

    def generator(self, *key: int) -> torch.Generator:
        """A generator for one unit, independent of every other unit's: the seed and ``key`` through a SeedSequence.

        Args:
            key: whole numbers that name the unit, such as the index of a structure.
        """
        state = np.random.SeedSequence([self.seed, *key]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))

    def rotations(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw the plan's rotations, ``(R, n, 3, 3)`` float64.

        Args:
            generator: source of the Haar rotations. None makes one from ``seed``: the same rotations at every call.
        """
        return self._design()[0][None] if not self.is_random else self.draws(1, generator)[0]

    def draws(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the plan's rotations several times, ``(count, R, n, 3, 3)`` float64, where the generator is.

        Args:
            count: how often.
            generator: as for :meth:`rotations`.
        """
        generator = generator if generator is not None else self.generator()
        elements = self._design()[0].to(generator.device, non_blocking=True)
        if self.subset is not None:
            keys = torch.rand(count, len(elements), generator=generator, dtype=torch.float64, device=generator.device)
            return elements[keys.argsort(1)[:, : self.subset]][:, :, None]
        if not self.is_random:
            return elements.expand(count, 1, *elements.shape)
        turns = haar(count * self.R, generator).reshape(self.R, count, 3, 3).transpose(0, 1)
        return torch.einsum("urij,njk->urnik", turns, elements)

    def __str__(self) -> str:
        kind = " (with improper rotations)" if self.improper else ""
        what = "the cube" if self.design == "cube" else "the box, its half turns"
        if self.subset is not None:
            return f"{self.subset} of the {self.population} rotations of {what}{kind}, seed {self.seed}"
        if not self.is_random:
            return f"{self.design}: the {self.n} rotations of {what}{kind}, exact on that subgroup"
        return f"{self.R} × {self.design} = {self.size} rotations{kind}, degree {self.degree}, seed {self.seed}"
