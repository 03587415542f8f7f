"""Models without closed forms, and their true twirl and losses by quadrature of high degree."""

from __future__ import annotations

from collections.abc import Callable, Iterator  # noqa: TC003 - dataclasses resolve their annotations
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

Names = dict[str, Tensor]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Network:
    """A random two-layer tanh network on the flattened positions of N atoms: every angular degree is in its orbit.

    ``gain`` scales its first layer; it is what makes the network more or less rough over rotations.
    """

    vectors: bool
    seed: int = 0
    atoms: int = 6
    gain: float = 0.7

    @property
    def schema(self) -> ep.Schema:
        return ep.Schema(inputs={"pos": ep.point}, outputs={"y": ep.vector if self.vectors else ep.scalar})

    @property
    def positions(self) -> Tensor:
        x = draw(self.atoms, 3, seed=100 + self.seed)
        return x - x.mean(0)

    def __call__(self, positions: Tensor) -> Tensor:
        """``(..., N, 3)`` to ``(..., N, 3)`` or ``(...)``."""
        size, out = 3 * self.atoms, 3 * self.atoms if self.vectors else 1
        first = draw(size, 64, seed=1000 + self.seed) * self.gain / size**0.5
        second, third = (draw(64, n, seed=s + self.seed) / 8 for n, s in ((64, 2000), (out, 3000)))
        hidden = torch.tanh(positions.flatten(-2) @ first + 0.5 * draw(64, seed=4000 + self.seed))
        y = torch.tanh(hidden @ (1.5 * second)) @ third
        return y.reshape(*y.shape[:-1], self.atoms, 3) if self.vectors else y[..., 0]

    def predict(self, inputs: Names) -> Names:
        return {"y": self(inputs["pos"])}

    def rotated_back(self, rotations: Tensor) -> Tensor:
        """``h_g`` at rotations ``(..., 3, 3)``, independently of the code under test."""
        values = self(self.positions @ rotations.mT)
        return values @ rotations if self.vectors else values

    def truth(self, target: Tensor, elements: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
        """``L_total`` and ``L_mean`` by quadrature of degree 35 (to 1e-9 for these networks)."""
        plan = ep.RotationPlan("lebedev-35", replicates=1)
        h = self.rotated_back(plan.rotations()[0])
        each = elements(h, target).flatten(1).mean(1) if h.ndim > 1 else elements(h, target)
        twirl = torch.einsum("n,n...->...", plan.weights, h)
        return float(plan.weights @ each), float(elements(twirl, target).mean())

    def target(self, noise: float = 0.3) -> Tensor:
        """The twirl plus noise: a label such that the share of broken symmetry is neither 0 nor 1."""
        plan = ep.RotationPlan("lebedev-35", replicates=1)
        twirl = torch.einsum("n,n...->...", plan.weights, self.rotated_back(plan.rotations()[0]))
        return twirl + noise * draw(*twirl.shape, seed=5000 + self.seed)


@pytest.fixture(params=[True, False], ids=["vectors", "scalar"])
def network(request: pytest.FixtureRequest) -> Network:
    return Network(request.param)


@pytest.fixture
def make_network() -> type[Network]:
    return Network


@pytest.fixture
def positions() -> Tensor:
    """Five atoms, away from the origin."""
    return draw(5, 3, seed=0) + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


@pytest.fixture
def matrix() -> Tensor:
    """A matrix with isotropic, antisymmetric and traceless symmetric parts."""
    return draw(3, 3, seed=1) + torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True)
class Repetitions:
    """The same measurement of a network, repeated with independent rotations, through the public code."""

    network: Network
    plan: ep.RotationPlan
    count: int
    seed: int = 0

    def orbits(self) -> Iterator[ep.Orbit]:
        """One orbit per repetition; the network is evaluated on many of them at a time."""
        generator = torch.Generator().manual_seed(self.seed)
        identity = {"y": self.network(self.network.positions)}
        for start in range(0, self.count, 64):
            rotations = torch.stack([self.plan.rotations(generator) for _ in range(min(64, self.count - start))])
            for g, h in zip(rotations, self.network.rotated_back(rotations), strict=True):
                yield ep.Orbit.from_values({"y": h}, identity, self.network.schema, self.plan, g)

    def decompositions(self, target: Tensor | None, **kwargs: Any) -> list[ep.Decomposition]:
        return [ep.decompose(orbit, target, **kwargs) for orbit in self.orbits()]


@pytest.fixture
def repeat() -> type[Repetitions]:
    return Repetitions
