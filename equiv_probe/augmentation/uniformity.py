"""Whether rotations are Haar-distributed, and whether they are independent: tests on SO(3) and O(3).

Uniform they are by the Sobolev statistics of :mod:`equiv_probe.estimation.sobolev`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import stats

from equiv_probe.estimation.sobolev import characters, p_value, sobolev
from equiv_probe.rotations.haar import angles

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DEGREES = (1, 2, 3, 4)
"""Tested for uniformity: every recipe in use that is not Haar shows at degree 1 or 2, the cube's own group at 4."""
HAAR_ANGLE = math.degrees(math.pi / 2 + 2 / math.pi)
"""Mean angle of a Haar rotation, 126.5°: its density is ``(1 − cos θ)/π``."""
_PERMUTATIONS = 400


@dataclass(frozen=True)
class Test:
    """What a test found: the statistic of the strongest part, its p-value after Bonferroni, and which part it was."""

    __test__ = False  # not pytest's

    statistic: float
    p_value: float
    part: str


def uniformity(matrices: Tensor, *, improper: bool = False) -> Test:
    """Test independent draws ``(K, 3, 3)`` for being Haar on SO(3), or on O(3), where half are to be ``improper``.

    For SO(3) the sign of each is dropped.
    """
    signs = torch.linalg.det(matrices).sign()
    proper = matrices * signs[:, None, None]
    found = {f"l = {degree}": (degree, sobolev(proper, degree)) for degree in DEGREES}
    if improper:
        found |= {f"det, l = {degree}": (degree, sobolev(proper, degree, signs)) for degree in (0, *DEGREES)}
    return _strongest({name: (float(v), p_value(v, degree)) for name, (degree, v) in found.items()})


def serial(rotations: Tensor) -> Test:
    """Test whether each draw of ``(K, 3, 3)``, proper, knows of the one before it, whatever their distribution.

    The mean of ``χ_l(g_k⁻¹ g_{k+1})``, for l = 1 and 2, against its mean and variance over other orders of the same
    draws, as a z-value. A fixed rotation from draw to draw shows at one of the two degrees, whatever its angle.
    """
    return _permuted(rotations, rotations, lambda order: (order[:, :-1], order[:, 1:]))


def association(first: Tensor, second: Tensor) -> Test:
    """Test whether two structures' rotations, call by call, know of each other; as :func:`serial`, over pairings."""
    return _permuted(first, second, lambda order: (torch.arange(order.shape[1]).expand_as(order), order))


def _permuted(first: Tensor, second: Tensor, pairs: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Test:
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(len(first), generator=generator) for _ in range(_PERMUTATIONS)])
    orders = torch.cat([torch.arange(len(first))[None], orders])
    rows, columns = pairs(orders)
    parts = {}
    for degree in (1, 2):
        means = characters(first, second, degree)[rows, columns].mean(1)
        spread = float(means[1:].std())
        z = float(means[0] - means[1:].mean()) / spread if spread > 1e-9 else 0.0
        parts[f"l = {degree}"] = z, float(2 * stats.norm.sf(abs(z)))
    return _strongest(parts)


def _strongest(parts: dict[str, tuple[float, float]]) -> Test:
    name = min(parts, key=lambda part: parts[part][1])
    return Test(parts[name][0], min(1.0, len(parts) * parts[name][1]), name)


def moments(rotations: Tensor) -> str:
    """Mean angle, ``E[R]`` and ``E[R_ij²]`` in words, beside what Haar rotations have."""
    mean, square = rotations.mean(0), rotations.square().mean(0)
    return (
        f"mean angle {math.degrees(float(angles(rotations).mean())):.1f}° (Haar {HAAR_ANGLE:.1f}°), "
        f"largest |E[R_ij]| {float(mean.abs().max()):.2f} (0), "
        f"E[R_ij²] {float(square.min()):.2f} to {float(square.max()):.2f} (1/3)"
    )


def recipe(rotations: Tensor, *, absolute: bool) -> str:
    """The recipe that proper rotations ``(K, 3, 3)`` seem to follow that are not Haar; empty where none is recognised.

    Those that are not ``absolute`` are known up to a rotation that they share on the right.
    """
    found = _one_axis(rotations) or _small(rotations, absolute=absolute) or _euler(rotations)
    if found or not absolute:
        return found
    return _same_signs(rotations) or _angle_uniform(rotations) or _constant_sign(rotations)


def _one_axis(rotations: Tensor) -> str:
    relative = rotations @ rotations[0].mT
    eye = torch.eye(3, dtype=rotations.dtype)
    values, vectors = torch.linalg.eigh((2 * eye - relative - relative.mT).mean(0))
    if float(values[0]) > 1e-6 or float(values[-1]) < 1e-9:
        return ""
    axis = vectors[:, 0]
    place = int(axis.abs().argmax())
    exact = float(axis[place].abs()) > 1 - 1e-6
    label = "xyz"[place] if exact else "(" + ", ".join(f"{float(a):.2f}" for a in axis) + ")"
    return f"rotates about one axis only: {label}"


def _small(rotations: Tensor, *, absolute: bool) -> str:
    pairs = rotations if absolute else rotations[:, None] @ rotations[None].mT
    largest = math.degrees(float(angles(pairs).max()))
    # Of K Haar rotations the largest angle is within some degrees of 180°.
    return f"angles too small: never more than {largest:.0f}°" if largest < 150 else ""


def _euler(rotations: Tensor) -> str:
    """For ``A(a) B(b) C(c)`` the first axis against the last is a sine or cosine of b: E[.²] = 1/2, E[.⁴] = 3/8."""
    if p_value(sobolev(rotations, 1), 1) < 1e-4:  # their mean is zero, as it should be
        return ""
    # Standard deviations of the squares are at most 0.36, of fourth powers 0.37; the caps keep Haar draws (1/3) out.
    width = 4 / len(rotations) ** 0.5
    near, fourth_near, others_near = min(0.36 * width, 0.08), 0.37 * width, min(0.2 * width, 0.08)
    for row in range(3):
        u = rotations[:, row]
        values, vectors = torch.linalg.eigh(torch.einsum("ki,kj->ij", u, u) / len(u))
        fourth = float((u @ vectors[:, -1]).pow(4).mean())
        others = float((values[:2] - 1 / 4).abs().max())
        if abs(float(values[-1]) - 1 / 2) < near and abs(fourth - 3 / 8) < fourth_near and others < others_near:
            return (
                "looks like three uniform Euler angles, or one about each coordinate axis in sequence: the middle "
                "angle must have density sin β (or cos β)"
            )
    return ""


def _skew(rotations: Tensor) -> Tensor:
    """``2 sin θ`` times the axis, ``(K, 3)``: what of a rotation is antisymmetric."""
    skew = rotations - rotations.mT
    return torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1)


def _same_signs(rotations: Tensor) -> str:
    """Quaternions from [0, 1]⁴ have w x, w y and w z of one sign: those are the parts of R − Rᵀ."""
    parts = _skew(rotations)
    if bool((parts >= 0).all()) or bool((parts <= 0).all()):
        return "the four components of the quaternion always have one sign: draw them from a Gaussian, not from [0, 1]"
    return ""


def _angle_uniform(rotations: Tensor) -> str:
    axes = torch.nn.functional.normalize(_skew(rotations), dim=-1)
    uniform = float(stats.kstest((angles(rotations) / math.pi).numpy(), "uniform").pvalue)
    isotropic = (torch.einsum("ki,kj->ij", axes, axes) / len(axes) - torch.eye(3) / 3).abs().max()
    if uniform > 1e-3 and float(isotropic) < 1.2 / len(axes) ** 0.5:
        return "the angle about a random axis looks uniform: its density must be (1 − cos θ)/π"
    return ""


def _constant_sign(rotations: Tensor) -> str:
    lows, highs = rotations.amin(0), rotations.amax(0)
    if len(rotations) >= 50 and bool(((lows >= 0) | (highs <= 0)).any()):
        return "an entry of R never changes its sign, as with the QR of a Gaussian matrix whose signs are not mended"
    return ""
