"""Losses as functions of weights: of a linear model in closed form, of a small network, of any symmetric matrices."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - dataclasses resolve their annotations
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

import equiv_probe as ep

Three = tuple[Tensor, Tensor, Tensor]


SCHEMA = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
EYE = torch.eye(3, dtype=torch.float64)


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Forces(nn.Module):
    """Forces ``W x``: twirled ``tr(W)/3 x``. All averages over it are of degree 2, exact for tetrahedral rotations."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.matrix = nn.Parameter(draw(3, 3, seed=seed))
        self.passes = 0

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        self.passes += 1
        return {"forces": pos @ self.matrix.T}


def equiv_of(matrix: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``L_equiv`` of forces ``W x`` and its gradient by W, which is linear in W."""
    size, trace = x.square().mean(), matrix.trace()
    return (matrix.square().sum() / 3 - trace.square() / 9) * size, (2 / 3 * matrix - 2 / 9 * trace * EYE) * size


def require_mean(rows: Tensor, expected: Tensor, within: float = 4.0) -> None:
    """Rows have this mean, within so many of its standard errors, which are its scatter's and rounding's."""
    mean, stderr = rows.mean(0), rows.std(0) / len(rows) ** 0.5
    assert ((mean - expected).abs() <= within * stderr + 1e-12).all(), (mean, expected, stderr)


@dataclass
class Quadratic:
    """``½ θᵀ A θ`` for L_mean and ``½ θᵀ B θ`` for L_equiv."""

    mean: Tensor
    equiv: Tensor
    seed: int = 0

    def __post_init__(self) -> None:
        self.weights = draw(len(self.mean), seed=self.seed).requires_grad_()
        self.parameters = {"weights": self.weights}

    def __call__(self) -> Three:
        mean, equiv = (self.weights @ m @ self.weights / 2 for m in (self.mean, self.equiv))
        return mean + equiv, mean, equiv


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix with given eigenvalues and random eigenvectors."""
    rotate = torch.linalg.qr(draw(len(values), len(values), seed=seed))[0]
    return rotate @ torch.diag(values) @ rotate.mT


@dataclass
class OrbitMse:
    """The jackknife's three losses of squared error, of a model of positions to vectors, as a function of its weights.

    ``x`` and ``y`` are ``(B, N, 3)``; a mean over all of them. With ``averaged=False`` the average over the orbit is
    replaced by the identity: what tests must notice.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    plan: ep.RotationPlan
    seed: int = 0
    averaged: bool = True
    parts: int = 1
    rotations: Tensor = field(init=False)

    def __post_init__(self) -> None:
        dtype = next(self.model.parameters()).dtype
        self.rotations = self.plan.rotations(torch.Generator().manual_seed(self.seed)).to(self.x)
        self.rotations = self.rotations.to(dtype)
        self.parameters = dict(self.model.named_parameters())

    def outputs(self) -> list[Tensor]:
        """Outputs, rotated back, ``(R, n, B, N, 3)``."""
        rotations = self.rotations[:, :, None]
        return [self.model(self.x @ rotations.mT) @ rotations]

    def of_outputs(self, outputs: list[Tensor]) -> Three:
        h, y, replicates = outputs[0], self.y, len(self.rotations)
        w = self.plan.weights.to(h).reshape(-1, 1, 1, 1)
        total = ((h - y).square() * w).sum(1).mean()
        if not self.averaged:
            return total, total, 0 * total
        means = (h * w).sum(1)
        left_out = (means.sum(0) - means) / (replicates - 1)
        mean = replicates * (means.mean(0) - y).square().mean() - (replicates - 1) * (left_out - y).square().mean()
        return total, mean, total - mean

    def __call__(self) -> Three:
        return self.of_outputs(self.outputs())

    def pieces(self) -> Iterator[OrbitMse]:
        size = len(self.x) // self.parts
        for start in range(0, len(self.x), size):
            own = slice(start, start + size)
            piece = replace(self, x=self.x[own], y=self.y[own], parts=1)
            piece.rotations = self.rotations
            scale = len(piece.x) / len(self.x)
            inner = piece.of_outputs
            piece.of_outputs = lambda outputs, inner=inner, scale=scale: tuple(  # type: ignore[method-assign]
                scale * value for value in inner(outputs)
            )
            yield piece


class Linear(nn.Module):
    """``f(x) = W x``."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


def linear(seed: int = 0, plan: str = "octahedral", replicates: int = 4, **how: bool) -> OrbitMse:
    """A random linear model on Gaussian positions, labels from another."""
    x, w, b = draw(6, 5, 3, seed=seed), draw(3, 3, seed=seed + 50), draw(3, 3, seed=seed + 90)
    return OrbitMse(Linear(w), x, x @ b.mT, ep.RotationPlan(plan, replicates=replicates), seed, **how)


def perceptron(seed: int = 0, width: int = 6, parts: int = 1, plan: str = "tetrahedral", **how: bool) -> OrbitMse:
    """A small network on every position, float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
    ).double()
    x = draw(4, 5, 3, seed=seed + 7)
    return OrbitMse(model, x, 0.5 * x, ep.RotationPlan(plan, replicates=2), seed, parts=parts, **how)
