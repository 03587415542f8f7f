r"""The plan of a measurement: a design, rotated at random from both sides.

``g_{ri} = q_r d_i p_r`` with a design ``{d_i, w_i}`` and independent Haar rotations ``q_r`` and ``p_r``. Each
``g_{ri}`` is Haar, the replicates r are independent, and the exactness is the design's:
``Σ_i w_i D^l(q d_i p) = D^l(q) (Σ_i w_i D^l(d_i)) D^l(p) = 0`` up to its degree.

Without ``p`` a structure with a symmetry ``s`` of the design's own (``d_j = d_i s``, a cubic crystal along the axes)
would be shown in the same orientation again and again, ``q d_j x = q d_i x``: of 48 rotations 4 would be left, and the
replicates would say too little. With it, ``d_j p x`` and ``d_i p x`` are the same orientation only if
``p⁻¹ d_i⁻¹ d_j p`` is a symmetry of x. That is a rotation about an axis that p makes random, by an angle other than 0:
with probability one it is in no finite group, and not in the symmetry group of a linear molecule either.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError, did_you_mean
from equiv_probe.rotations.designs import (
    GROUP_DEGREES,
    GROUP_ORDERS,
    group,
    lebedev_degree,
    of_degree,
    product,
    quadrature,
    spread,
    spread_degrees,
)
from equiv_probe.rotations.haar import from_quaternions, haar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FIXED: Final = {"cube": "octahedral", "box": "klein", **{f"box-{axis}": f"dihedral-{axis}" for axis in "xyz"}}
"""Designs that are not rotated, and their groups: of a cube, of any box, and of a box with a square face."""


@dataclass(frozen=True)
class RotationPlan:
    """A design, rotated by independent Haar rotations from both sides: ``g_{ri} = q_r d_i p_r``.

    Args:
        design: ``"haar"`` (one rotation), ``"klein"``, ``"tetrahedral"``, ``"octahedral"``, ``"icosahedral"``,
            ``"design-<degree>"``, the rule of a degree up to 14 with the fewest rotations, ``"spread-18"``, ``-30``,
            ``-36`` or ``-42``, between the groups, ``"lebedev-<degree>"``, which goes on to 131, or ``"cube"``: the 24
            rotations of the cube as they are, not rotated, whose average over that subgroup is exact and has no
            sampling error.
            ``"product-<directions>x<angles>"`` is Lebedev's rule of so many directions × equal steps in the angle.
            ``"box"`` is the identity and the rotations by 180° about x, y and z, which any box of voxels allows, and
            ``"box-z"`` (or x, y) the eight rotations of a box whose sides across z are equal.
        replicates: R, how many independent Haar rotations rotate the design. None takes the design's default: four for
            a group or a quadrature, 16 for ``"haar"``, one for ``"cube"`` and boxes.
        improper: average over O(3): every rotation comes with its product with the inversion, and n doubles.
        seed: of the generator that :meth:`rotations` makes when it is given none.
        subset: of ``"cube"`` and boxes: draw so many of the rotations, without replacement; each is then a
            replicate of its own, and R is their number.
        orientation: a quaternion (w, x, y, z; any length) of the rotation that takes the place of every ``q_r``: how
            the design lies in the frame of the model. Each rotation is still Haar by ``p_r``, and the replicates are
            independent.

    Raises:
        EquivProbeError: unknown design, fewer than one replicate, a ``"cube"`` with more than one, a subset that the
            group does not have, or an orientation of what is not rotated from both sides.

    >>> plan = RotationPlan("icosahedral", replicates=2)
    >>> plan.rotations().shape, plan.degree, plan.size
    (torch.Size([2, 60, 3, 3]), 5, 120)
    """

    design: str = "tetrahedral"
    replicates: int | None = None
    improper: bool = False
    seed: int = 0
    subset: int | None = None
    orientation: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.design not in {"haar", *FIXED, *GROUP_ORDERS} and self._rule is None:
            own = [f"spread-{count}" for count in spread_degrees()]
            products = "product-<directions>x<angles>"
            names = ["haar", *GROUP_ORDERS, "design-<degree>", *own, "lebedev-<degree>", products, *FIXED]
            expected = f"one of {', '.join(names)}{did_you_mean(self.design, names)}"
            raise EquivProbeError(f"design {self.design!r}", expected, 'RotationPlan("tetrahedral")')
        if self.replicates is None:
            usual = 1 if self.design in FIXED else {"haar": 16}.get(self.design, 4)
            object.__setattr__(self, "replicates", self.subset or usual)
        if not isinstance(self.replicates, int) or self.replicates < 1:
            raise EquivProbeError(
                f"replicates={self.replicates!r}", "a whole number, at least 1 (error bars need 4)", "replicates=4"
            )
        if self.seed < 0:
            raise EquivProbeError(f"seed={self.seed}", "a seed of 0 or more", "seed=0")
        if self.subset is not None and not (self.design in FIXED and 1 <= self.subset <= len(self._design()[1])):
            raise EquivProbeError(
                f"subset={self.subset} of {self.design!r}",
                "from 1 to all rotations of the cube (24) or of the box (4 or 8), twice as many with improper ones",
                'RotationPlan("cube", subset=4)',
            )
        if self.design in FIXED and self.replicates != (self.subset or 1):
            group_or_klein = self._group if self._group in GROUP_ORDERS else "klein"
            raise EquivProbeError(
                f'"{self.design}" with replicates={self.replicates}',
                "replicates=1: its rotations are not rotated at random",
                f'RotationPlan("cube", subset=…), or RotationPlan("{group_or_klein}", replicates=…) for the randomly '
                "rotated group",
            )
        if self.orientation is not None:
            self._check_orientation(self.orientation)
        self._design()  # an impossible degree is an error here, not at first use

    def _check_orientation(self, quaternion: tuple[float, ...]) -> None:
        length = math.hypot(*quaternion) if len(quaternion) == 4 else 0.0
        if not self.is_rotated or self.design == "haar" or not 0 < length < math.inf:
            raise EquivProbeError(
                f'orientation={quaternion!r} of "{self.design}"',
                "four numbers, not all zero, and a design of several rotations that is rotated at random",
                'RotationPlan("octahedral", orientation=(1.0, 0.0, 0.0, 0.0))',
            )
        object.__setattr__(self, "orientation", tuple(float(part) for part in quaternion))  # JSON has lists

    def _design(self) -> tuple[Tensor, Tensor]:
        """The design before it is rotated: rotations ``(n, 3, 3)`` and weights ``(n,)``."""
        elements, weights = _elements(self.design, improper=self.improper)
        return elements.clone(), weights.clone()

    @property
    def _group(self) -> str:
        return FIXED.get(self.design, self.design)

    @property
    def _rule(self) -> re.Match[str] | None:
        return _rule(self.design)

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
        if self._rule is not None:
            kind, number = self._rule[1], int(self._rule[2])
            if kind == "product":
                return min(lebedev_degree(number), int(self._rule[3]) - 1)
            return spread_degrees()[number] if kind == "spread" else number
        return GROUP_DEGREES.get(self._group, 1)  # the dihedral groups average vectors to zero, and not 3z² − r²

    @property
    def is_random(self) -> bool:
        """Whether chance has a part in it; False for ``"cube"`` and ``"box"``, averaged exactly over their subgroup."""
        return self.is_rotated or self.subset is not None

    @property
    def is_rotated(self) -> bool:
        """Whether the design is rotated at random, so that every rotation is Haar; not ``"cube"`` and ``"box"``."""
        return self.design not in FIXED

    def generator(self, *key: int) -> torch.Generator:
        """A generator for one unit, named by whole numbers, independent of every other unit's (a SeedSequence)."""
        state = np.random.SeedSequence([self.seed, *key]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))

    def rotations(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw the plan's rotations, ``(R, n, 3, 3)`` float64.

        Args:
            generator: source of the Haar rotations. None makes one from ``seed``: the same rotations at every call.
        """
        return self._design()[0][None] if not self.is_random else self.draws(1, generator)[0]

    def draws(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the plan's rotations several times, ``(count, R, n, 3, 3)`` float64, where the generator is."""
        generator = generator if generator is not None else self.generator()
        elements = self._design()[0].to(generator.device, non_blocking=True)
        if self.subset is not None:
            keys = torch.rand(count, len(elements), generator=generator, dtype=torch.float64, device=generator.device)
            return elements[keys.argsort(1)[:, : self.subset]][:, :, None]
        if not self.is_random:
            return elements.expand(count, 1, *elements.shape)
        # Replicate by replicate, so that a longer plan begins with the replicates of a shorter one.
        sides = 1 if self.design == "haar" else 2  # a single rotation is Haar already
        drawn = haar(self.R * sides * count, generator).reshape(self.R, sides, count, 3, 3)
        if self.orientation is not None:
            drawn[:, 0] = from_quaternions(torch.tensor(self.orientation, dtype=torch.float64)).to(drawn)
        rotated = torch.einsum("ruij,njk->urnik", drawn[:, 0], elements)
        return rotated if sides == 1 else torch.einsum("urnik,rukl->urnil", rotated, drawn[:, 1])

    def __str__(self) -> str:
        kind = " (with improper rotations)" if self.improper else ""
        which = "its rotations by 180°" if self.design == "box" else f"with rotations by 90° about {self.design[-1]}"
        what = "the cube" if self.design == "cube" else f"the box, {which}"
        if self.subset is not None:
            return f"{self.subset} of the {self.population} rotations of {what}{kind}, seed {self.seed}"
        if not self.is_random:
            return f"{self.design}: the {self.n} rotations of {what}{kind}, exact on that subgroup"
        oriented = ", oriented" if self.orientation else ""
        size = f"{self.R} × {self.design} = {self.size} rotations{kind}"
        return f"{size}, degree {self.degree}{oriented}, seed {self.seed}"


def _rule(design: str) -> re.Match[str] | None:
    """Kind and numbers of a design that is named for its degree, or for how many rotations it has."""
    return re.fullmatch(r"(design|lebedev|spread)-(\d+)", design) or re.fullmatch(r"(product)-(\d+)x(\d+)", design)


@lru_cache(maxsize=32)
def _elements(design: str, *, improper: bool) -> tuple[Tensor, Tensor]:
    """Rotations ``(n, 3, 3)`` and weights ``(n,)`` of a design: every structure of an audit asks for them anew."""
    rule = _rule(design)
    if rule is not None:
        made: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
            "design": of_degree,
            "lebedev": quadrature,
            "spread": spread,
            "product": product,
        }
        elements, weights = made[rule[1]](*map(int, rule.groups()[1:]))
    else:
        elements = torch.eye(3, dtype=torch.float64)[None] if design == "haar" else group(FIXED.get(design, design))
        weights = torch.full((len(elements),), 1 / len(elements), dtype=torch.float64)
    if improper:
        elements, weights = torch.cat([elements, -elements]), torch.cat([weights, weights]) / 2
    return elements, weights
