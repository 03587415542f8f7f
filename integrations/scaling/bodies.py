"""Rigid bodies under one another's gravity: exact labels, made by integrating their motion in double precision.

A body is a rigid triangle of three equal point masses; every point attracts the points of the other bodies by Newton's
law, softened at short range. The task is that of Brehmer et al. (arXiv:2410.23179), smaller: where every point is after
a time `DURATION`, from where it is and how fast it moves. The distribution of initial states does not change under
rotation, and the centre of mass rests at the origin. Units: gravity's constant, the mean body's mass and the bodies'
distance are of order one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

BODIES, CORNERS = 3, 3
POINTS = BODIES * CORNERS
DURATION, STEPS = 1.5, 60
SOFTENING = 0.4
SCALE = 0.93
"""Displacements are divided by this, about the root mean square of a component: saying zero is a loss of one."""
BLOCK = 1024
"""Structures are drawn in blocks, each from its own seed: a smaller data set is the beginning of a larger one."""
HELD_OUT = 2**31
"""First block of held-out structures; of a seed, PyTorch's generator on the CPU takes no more than 32 bits."""


@dataclass(frozen=True)
class Structures:
    """Initial states and labels, one row a structure.

    Attributes:
        position: ``(B, P, 3)``.
        velocity: ``(B, P, 3)``.
        mass: of every point, ``(B, P)``.
        target: displacement after `DURATION`, in units of `SCALE`, ``(B, P, 3)``.
    """

    position: Tensor
    velocity: Tensor
    mass: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.mass)

    def take(self, index: Tensor | slice) -> Structures:
        """Some of them."""
        return Structures(*(value[index] for value in vars(self).values()))

    def to(self, device: str, dtype: torch.dtype = torch.float32) -> Structures:
        """Elsewhere, in another precision."""
        return Structures(*(value.to(device, dtype) for value in vars(self).values()))


@dataclass(frozen=True)
class State:
    """Of every body, leading axes ``(B, bodies)``: centre and its velocity, corners and angular momentum about it."""

    centre: Tensor
    velocity: Tensor
    corners: Tensor
    spin: Tensor

    def moved(self, slope: State, by: float) -> State:
        """A step along a slope."""
        return State(*(a + by * b for a, b in zip(vars(self).values(), vars(slope).values(), strict=True)))


def angular_velocity(state: State, mass: Tensor) -> Tensor:
    """``I⁻¹ L`` of every body, ``(B, bodies, 3)``; `mass` of a corner, ``(B, bodies)``."""
    r = state.corners
    eye = torch.eye(3, dtype=r.dtype, device=r.device)
    inertia = r.square().sum((-1, -2))[..., None, None] * eye - r.mT @ r
    return torch.linalg.solve(inertia * mass[..., None, None], state.spin)


def points(state: State) -> Tensor:
    """Where all corners are, ``(B, P, 3)``."""
    return (state.centre[:, :, None] + state.corners).flatten(1, 2)


def velocities(state: State, mass: Tensor) -> Tensor:
    """How all corners move, ``(B, P, 3)``."""
    spinning = torch.linalg.cross(angular_velocity(state, mass)[:, :, None].expand_as(state.corners), state.corners)
    return (state.velocity[:, :, None] + spinning).flatten(1, 2)


def forces(x: Tensor, mass: Tensor) -> Tensor:
    """Gravity between points of different bodies, ``(B, P, 3)``."""
    of_point = mass.repeat_interleave(CORNERS, 1)
    body = torch.arange(POINTS, device=x.device) // CORNERS
    squared = (x[:, :, None] - x[:, None]).square().sum(-1) + SOFTENING**2
    pull = of_point[:, :, None] * of_point[:, None] * squared**-1.5 * (body[:, None] != body)
    return pull @ x - pull.sum(-1, keepdim=True) * x


def energy(state: State, mass: Tensor) -> Tensor:
    """Kinetic and potential, ``(B,)``; conserved."""
    of_point, x = mass.repeat_interleave(CORNERS, 1), points(state)
    body = torch.arange(POINTS, device=x.device) // CORNERS
    distance = ((x[:, :, None] - x[:, None]).square().sum(-1) + SOFTENING**2).sqrt()
    pairs = of_point[:, :, None] * of_point[:, None] / distance * (body[:, None] != body)
    return (of_point[..., None] * velocities(state, mass).square()).sum((1, 2)) / 2 - pairs.sum((1, 2)) / 2


def slope(state: State, mass: Tensor) -> State:
    """Newton's and Euler's equations."""
    pull = forces(points(state), mass).unflatten(1, (BODIES, CORNERS))
    omega = angular_velocity(state, mass)[:, :, None].expand_as(state.corners)
    return State(
        state.velocity,
        pull.sum(2) / (CORNERS * mass[..., None]),
        torch.linalg.cross(omega, state.corners),
        torch.linalg.cross(state.corners, pull).sum(2),
    )


def after(state: State, mass: Tensor, duration: float = DURATION, steps: int = STEPS) -> State:
    """The state later on, by the classical Runge–Kutta method of fourth order."""
    h = duration / steps
    for _ in range(steps):
        first = slope(state, mass)
        second = slope(state.moved(first, h / 2), mass)
        third = slope(state.moved(second, h / 2), mass)
        fourth = slope(state.moved(third, h), mass)
        for part, weight in ((first, 1), (second, 2), (third, 2), (fourth, 1)):
            state = state.moved(part, weight * h / 6)
    return state


def draw(count: int, seed: int) -> tuple[State, Tensor]:
    """Initial states and masses of a corner, ``(B, bodies)``: Gaussian in everything that has a direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, BODIES, *shape, dtype=torch.float64, generator=generator)

    mass = torch.exp(0.4 * normal()) / CORNERS
    total = mass.sum(1)[:, None, None]
    centre, velocity = 1.6 * normal(3), 0.5 * normal(3)
    # A Haar frame, and in its plane a stretched equilateral triangle: a line could spin about itself without bound.
    q, r = torch.linalg.qr(normal(3, 2))
    # LAPACK's choice of signs depends on the frame; with positive diagonals of r the directions do not.
    frame = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, :, None] * torch.exp(0.25 * normal(1, 2))
    angle = torch.arange(CORNERS, dtype=torch.float64) * 2 * torch.pi / CORNERS
    corners = torch.stack([angle.cos(), angle.sin()], -1) @ frame.mT
    centre, velocity = (v - (mass[..., None] * v).sum(1, keepdim=True) / total for v in (centre, velocity))
    omega = 0.6 * normal(1, 3).expand_as(corners)
    spin = mass[..., None] * torch.linalg.cross(corners, torch.linalg.cross(omega, corners)).sum(2)
    return State(centre, velocity, corners, spin), mass


def block(seed: int) -> Structures:
    """`BLOCK` structures, in double precision."""
    state, mass = draw(BLOCK, seed)
    x = points(state)
    return Structures(
        x, velocities(state, mass), mass.repeat_interleave(CORNERS, 1), (points(after(state, mass)) - x) / SCALE
    )


def generate(count: int, first: int = 0, cache: Path | None = None) -> Structures:
    """The first `count` structures.

    Args:
        count: how many.
        first: block to begin with: 0 for training, `HELD_OUT` for held-out structures.
        cache: folder where blocks are kept; None makes them anew.
    """
    blocks = []
    for k in range(first, first + -(-count // BLOCK)):
        path = None if cache is None else cache / f"block_{k}.pt"
        if path is not None and path.exists():
            blocks.append(Structures(**torch.load(path)))
            continue
        blocks.append(block(k))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(vars(blocks[-1]), path)
    joined = [torch.cat(parts)[:count] for parts in zip(*(vars(b).values() for b in blocks), strict=True)]
    return Structures(*joined)
