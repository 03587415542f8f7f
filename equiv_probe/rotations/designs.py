r"""Designs: finite sets of rotations that average every Wigner function up to a degree exactly.

A *design* ``{d_i, w_i}`` of degree ``t`` has ``Σ_i w_i D^l(d_i) = 0`` for ``1 ≤ l ≤ t``. The finite rotation groups
nearly reach the least possible size ``C(t+3, 3)``; quadrature (Lebedev on the sphere × equal steps in the angle) goes
to any degree for which SciPy has a Lebedev rule. Between them lie rules of our own with positive weights, orbits of
finite groups acting from both sides, stored in ``designs.json`` as ``find_designs.py`` beside the tests found them; and
between the groups, sets in ``spread.json`` that alias less than a product rule of as many (``find_spread.py``), if
they are rotated at random: as they lie best in the frame of a model, products of six directions are better.
Sources: Lebedev & Laikov, Doklady Mathematics 59 (1999) 477; Gräf & Potts, Numer. Funct. Anal. Optim. 30 (2009) 665
(quadrature on SO(3) as a product of the sphere and the circle); Sobolev, Sib. Mat. Zh. 3 (1962) 769 (invariant rules).
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.haar import from_quaternions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

GROUP_DEGREES: Final = {"klein": 1, "tetrahedral": 2, "octahedral": 3, "icosahedral": 5}
GROUP_ORDERS: Final = {"klein": 4, "tetrahedral": 12, "octahedral": 24, "icosahedral": 60}


def _about(axis: tuple[float, ...] | Tensor, angle: Tensor | float) -> Tensor:
    """Rotations by angles ``(...)`` in radians about an axis, ``(..., 3, 3)``."""
    direction = torch.nn.functional.normalize(torch.as_tensor(axis, dtype=torch.float64), dim=0)
    half = torch.as_tensor(angle, dtype=torch.float64)[..., None] / 2
    return from_quaternions(torch.cat([half.cos(), half.sin() * direction], -1))


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


@lru_cache(maxsize=8)
def group(name: str) -> Tensor:
    """Elements of a finite rotation group, ``(order, 3, 3)`` float64, the identity first.

    Args:
        name: ``"klein"`` (4, degree 1), ``"tetrahedral"`` (12, degree 2), ``"octahedral"`` (24, degree 3),
            ``"icosahedral"`` (60, degree 5), or ``"dihedral-x"``, ``-y`` or ``-z`` (8, degree 1): the rotations by 90°
            about that axis and the rotations by 180° about the others, those of a box with two equal sides.

    >>> [len(group(name)) for name in GROUP_ORDERS]
    [4, 12, 24, 60]
    """
    by_180, by_120 = _about((0, 0, 1), math.pi), _about((1, 1, 1), 2 * math.pi / 3)
    golden = (1 + math.sqrt(5)) / 2
    seeds = {
        "klein": (by_180, _about((1, 0, 0), math.pi)),
        "tetrahedral": (by_180, by_120),
        "octahedral": (_about((0, 0, 1), math.pi / 2), by_120),
        "icosahedral": (_about((0, 1, golden), 2 * math.pi / 5), by_120),
    }
    axes = torch.eye(3)
    for place, axis in enumerate("xyz"):
        seeds[f"dihedral-{axis}"] = (_about(axes[place], math.pi / 2), _about(axes[place - 2], math.pi))
    if name not in seeds:
        raise EquivProbeError(f"group {name!r}", f"one of {', '.join(seeds)}")
    elements = _generated_by(*seeds[name])
    # The groups of the cube are signed permutations: exact integers, so that grids rotate without interpolation.
    return elements if name == "icosahedral" else elements.round() + 0.0


@lru_cache(maxsize=1)
def _stored() -> dict[str, Any]:
    """By degree: generators of a group acting on quaternions, and a point and a weight of each of its orbits."""
    found: dict[str, Any] = json.loads(files("equiv_probe.rotations").joinpath("designs.json").read_text())
    return found


@lru_cache(maxsize=1)
def _spread() -> dict[str, Any]:
    """By number of rotations: the degree, and their quaternions."""
    found: dict[str, Any] = json.loads(files("equiv_probe.rotations").joinpath("spread.json").read_text())
    return found


def spread_degrees() -> dict[int, int]:
    """The degrees of the sets of :func:`spread`, by the number of rotations.

    >>> spread_degrees()
    {18: 2, 30: 3, 36: 3, 42: 3}
    """
    return {int(count): rule["degree"] for count, rule in _spread().items()}


def spread(count: int) -> tuple[Tensor, Tensor]:
    """So many rotations with equal weights, as evenly spread as can be: exact to a degree, and little is aliased above.

    Raises:
        EquivProbeError: a number for which there is none.
    """
    if str(count) not in _spread():
        known = ", ".join(_spread())
        raise EquivProbeError(f"{count} rotations spread evenly", f"one of {known}", 'RotationPlan("spread-18")')
    points = torch.tensor(_spread()[str(count)]["points"], dtype=torch.float64)
    return from_quaternions(points), torch.full((count,), 1 / count, dtype=torch.float64)


PRODUCTS: Final = {18: "product-6x3", 30: "product-6x5", 42: "product-6x7"}
"""Products that are better than others of their size where they lie well in the frame of the model, by size."""


def smallest_first(*, products: bool = False) -> Iterator[str]:
    """Names of the designs that an average is chosen from, the fewest rotations first; large ones take a while.

    Args:
        products: those too which are worth it only when they are oriented.
    """
    waiting = [(count, f"spread-{count}") for count in spread_degrees()]
    waiting = sorted([*waiting, *PRODUCTS.items()] if products else waiting)
    for degree in design_degrees():
        size = len(of_degree(degree)[1])
        while waiting and waiting[0][0] < size:
            yield waiting.pop(0)[1]
        yield f"design-{degree}"


def design_degrees() -> list[int]:
    """The degrees for which :func:`of_degree` has a rule."""
    return sorted({*GROUP_DEGREES.values(), *map(int, _stored())})


@lru_cache(maxsize=32)
def of_degree(degree: int) -> tuple[Tensor, Tensor]:
    """The rule of a degree with the fewest rotations: a group's where one has it, or an optimised one.

    Returns:
        rotations ``(n, 3, 3)`` and positive weights ``(n,)`` that sum to one, float64.

    Raises:
        EquivProbeError: a degree for which there is none.

    >>> [len(of_degree(degree)[1]) for degree in (1, 2, 3, 5, 7)]
    [4, 12, 24, 60, 168]
    """
    for name, reached in GROUP_DEGREES.items():
        if reached == degree:
            elements = group(name)
            return elements, torch.full((len(elements),), 1 / len(elements), dtype=torch.float64)
    if degree not in design_degrees():
        known = f"one of {', '.join(map(str, design_degrees()))}"
        raise EquivProbeError(f"design of degree {degree}", known, f'"lebedev-{degree}", which takes more rotations')
    rule = _stored()[str(degree)]
    seeds = torch.tensor(rule["generators"], dtype=torch.float64).reshape(-1, 4, 4)
    orbits = [_orbit(torch.tensor(point, dtype=torch.float64), seeds) for point in rule["points"]]
    weights = [torch.full((len(o),), w, dtype=torch.float64) for o, w in zip(orbits, rule["weights"], strict=True)]
    measure = torch.cat(weights)
    return from_quaternions(torch.cat(orbits)), measure / measure.sum()


def _orbit(point: Tensor, seeds: Tensor) -> Tensor:
    """The quaternions ``(n, 4)`` that matrices ``(S, 4, 4)`` make of one, of each rotation one of the two."""
    found = point[None]
    fresh = found
    while len(fresh):
        images = torch.einsum("sij,nj->nsi", seeds, fresh).reshape(-1, 4)
        fresh = images[:0]
        for image in images:
            if float((torch.cat([found, fresh]) @ image).abs().max()) < 1 - 1e-9:  # no known rotation, to 1e-4 rad
                fresh = torch.cat([fresh, image[None]])
        found = torch.cat([found, fresh])
    return found


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
    rule = next((d for d in range(degree, 132) if _lebedev(d) is not None), None)
    if degree < 1 or rule is None:
        raise EquivProbeError(f"quadrature of degree {degree}", "a degree from 1 to 131")
    return _times_angles(rule, degree + 1)


def lebedev_degree(directions: int) -> int:
    """The degree of Lebedev's rule with so many directions; the three with negative weights are left out.

    Raises:
        EquivProbeError: a number of directions that no rule has.

    >>> lebedev_degree(6), lebedev_degree(14)
    (3, 5)
    """
    known = {}
    for degree in range(3, 132):
        rule = _lebedev(degree)
        if rule is not None:
            known[len(rule[1])] = degree
    if directions not in known:
        raise EquivProbeError(f"a product of {directions} directions", f"one of {', '.join(map(str, known))}")
    return known[directions]


def product(directions: int, angles: int) -> tuple[Tensor, Tensor]:
    """Lebedev's rule of so many directions × equal steps in the angle, as :func:`quadrature`, for any two numbers.

    Exact to the smaller of the rule's degree and ``angles − 1``. Of what is above, six directions alias a single
    harmonic of degree 4 in the frame of the model, so that it matters most how they lie there.

    >>> len(product(6, 5)[1])
    30
    """
    if angles < 1:
        raise EquivProbeError(f"a product with {angles} angles", "1 or more", 'RotationPlan("product-6x5")')
    return _times_angles(lebedev_degree(directions), angles)


def _times_angles(degree: int, angles: int) -> tuple[Tensor, Tensor]:
    """The directions of Lebedev's rule of a degree × equal steps in the angle."""
    rule = _lebedev(degree)
    assert rule is not None
    (x, y, z), weights = rule
    about_y, about_z = (0, 1, 0), (0, 0, 1)
    tilts = _about(about_z, torch.atan2(y, x)) @ _about(about_y, z.clamp(-1, 1).arccos())
    spins = _about(about_z, 2 * torch.pi * torch.arange(angles, dtype=torch.float64) / angles)
    measure = (weights / weights.sum()).repeat_interleave(angles) / angles
    return (tilts[:, None] @ spins).reshape(-1, 3, 3), measure


@lru_cache(maxsize=131)
def _lebedev(degree: int) -> tuple[Tensor, Tensor] | None:
    """Directions ``(3, n)`` and weights ``(n,)`` of the rule of a degree; None where there is no positive one."""
    from scipy.integrate import lebedev_rule  # scipy.integrate takes a third of a second to import

    try:
        directions, weights = map(torch.from_numpy, lebedev_rule(degree))
    except NotImplementedError:
        return None
    return (directions, weights) if bool((weights > 0).all()) else None
