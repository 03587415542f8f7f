r"""Planted models: symmetry breaking of known size, with closed-form twirl, ``L_equiv``, spectrum and infinitesimal A.

Every model maps positions ``(..., N, 3)`` to a dict of tensors, in the positions' dtype and on their device, and does
not depend on where the structure is (positions are taken about their centroid), so it can be wrapped as a model of any
framework. ``L_equiv`` and the powers are squared errors averaged over the output's components.

The closed forms follow from Schur's lemma: for traceless symmetric M, S and any vector x,
``E_g (tr M g S gᵀ)² = ‖M‖²‖S‖²/5`` and ``E_g ‖gᵀ M g x‖² = ‖M‖²‖x‖²/3``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor

from equiv_probe.representations import representation as reps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.representations.representation import Representation

Named = dict[str, Tensor]
Power = dict[int, float]
"""Power at each degree l ≥ 1 at which there is any."""


class PlantedModel(ABC):
    """A model whose symmetry breaking is known in closed form."""

    outputs: ClassVar[Mapping[str, Representation]]
    """How each output rotates."""

    @abstractmethod
    def __call__(self, positions: Tensor) -> Named:
        """Outputs at positions ``(..., N, 3)``."""

    @abstractmethod
    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """The Haar average ``Tf(x)`` of every output, over SO(3) or, if improper, over O(3)."""

    @abstractmethod
    def power(self, positions: Tensor) -> dict[str, Power]:
        """``P_l`` over SO(3) of every output, at positions ``(N, 3)``."""

    def equiv(self, positions: Tensor, *, improper: bool = False) -> dict[str, float]:
        """``L_equiv = Σ_{l≥1} P_l`` of every output; the same over O(3) for models without a sense of hand."""
        del improper
        return {name: sum(power.values()) for name, power in self.power(positions).items()}

    def infinitesimal(self, positions: Tensor) -> dict[str, float]:
        """``A = Σ_l l(l+1) P_l`` of every output."""
        return {name: sum(l * (l + 1) * p for l, p in power.items()) for name, power in self.power(positions).items()}  # noqa: E741


@final
class LinearField(PlantedModel):
    """Forces ``f(x) = A x``: isotropic part l = 0, antisymmetric part l = 1, traceless symmetric part l = 2.

    Args:
        matrix: A, ``(3, 3)``.

    >>> model = LinearField(torch.diag(torch.tensor([3.0, 0.0, 0.0])))
    >>> positions = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> model(positions)["forces"][0], model.twirl(positions)["forces"][0]
    (tensor([3., 0., 0.]), tensor([1., 0., 0.]))
    """

    outputs: ClassVar[Mapping[str, Representation]] = {"forces": reps.vector}

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, positions: Tensor) -> Named:
        """``A x``."""
        return {"forces": _centred(positions) @ self.matrix.to(positions).mT}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """``tr(A)/3 · x``."""
        del improper
        return {"forces": _trace(self.matrix).to(positions) / 3 * _centred(positions)}

    def power(self, positions: Tensor) -> dict[str, Power]:
        """``P_l = ‖A_l‖² Σ|x|² / (3 · 3N)``."""
        return {"forces": _linear_power(self.matrix, positions)}


@final
class LinearDenoiser(PlantedModel):
    """Denoised points ``x ↦ c + A (x − c)`` about the centroid c: the linear field as a point output."""

    outputs: ClassVar[Mapping[str, Representation]] = {"denoised": reps.point}

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self._field = matrix, LinearField(matrix)

    def __call__(self, positions: Tensor) -> Named:
        """``c + A (x − c)``."""
        return {"denoised": positions.mean(-2, keepdim=True) + self._field(positions)["forces"]}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """``c + tr(A)/3 · (x − c)``."""
        averaged = self._field.twirl(positions, improper=improper)["forces"]
        return {"denoised": positions.mean(-2, keepdim=True) + averaged}

    def power(self, positions: Tensor) -> dict[str, Power]:
        """The powers of the linear field."""
        return {"denoised": self._field.power(positions)["forces"]}


@final
class QuadraticEnergy(PlantedModel):
    """Energy ``Σ xᵀ M x`` with its own conservative forces ``−2 M x``, and a constant stress: l = 2 only.

    Args:
        matrix: M, ``(3, 3)``; only its symmetric part matters.
        stress: a symmetric ``(3, 3)`` tensor B that the model returns as its stress whatever the structure, as six
            components in ASE's Voigt order; None is M.
    """

    outputs: ClassVar[Mapping[str, Representation]] = {
        "energy": reps.scalar,
        "forces": reps.vector,
        "stress": reps.voigt(),
    }

    def __init__(self, matrix: Tensor, stress: Tensor | None = None) -> None:
        self.matrix = (matrix + matrix.mT) / 2
        self.stress = self.matrix if stress is None else stress

    def __call__(self, positions: Tensor) -> Named:
        """Energy ``(...)``, forces ``(..., N, 3)`` and stress ``(..., 6)``."""
        x = _centred(positions)
        field = x @ self.matrix.to(positions)
        stress = _voigt(self.stress).to(positions).expand(*positions.shape[:-2], 6)
        return {"energy": (x * field).sum((-2, -1)), "forces": -2 * field, "stress": stress}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """``tr(M)/3 Σ|x|²``, ``−2 tr(M)/3 x`` and ``tr(B)/3 · 1``."""
        del improper
        x, mean = _centred(positions), _trace(self.matrix).to(positions) / 3
        pressure = _voigt(_trace(self.stress) / 3 * torch.eye(3, dtype=self.stress.dtype)).to(positions)
        energy, stress = mean * x.square().sum((-2, -1)), pressure.expand(*positions.shape[:-2], 6)
        return {"energy": energy, "forces": -2 * mean * x, "stress": stress}

    def power(self, positions: Tensor) -> dict[str, Power]:
        """``‖M₂‖²‖S₂‖²/5`` with ``S = Σ x xᵀ``; the linear field's; and 7/60 ``‖B₂‖²`` over six Voigt components."""
        x = _centred(positions.double())
        spread = float(_parts(self.matrix)[2].square().sum() * _parts(x.mT @ x)[2].square().sum())
        return {
            "energy": {2: spread / 5},
            "forces": _linear_power(-2 * self.matrix, positions),
            # E H_ii² = 2/15 ‖B₂‖² and E H_ij² = 1/10 ‖B₂‖² for H = gᵀ B₂ g; three of each.
            "stress": {2: 7 / 60 * float(_parts(self.stress)[2].square().sum())},
        }


@final
class HarmonicEnergy(PlantedModel):
    """Energy ``Σ_i |x_i|^l P_l(u·x_i/|x_i|)``, P_l Legendre's polynomial along a fixed axis u: degree l only, twirl 0.

    Args:
        degree: l ≥ 1.
        axis: u, ``(3,)``, of any non-zero length.
    """

    outputs: ClassVar[Mapping[str, Representation]] = {"energy": reps.scalar}

    def __init__(self, degree: int, axis: Tensor) -> None:
        self.degree, self.axis = degree, axis / axis.norm()

    def __call__(self, positions: Tensor) -> Named:
        """Energy ``(...)``."""
        x = _centred(positions)
        return {"energy": _solid(x @ self.axis.to(positions), x.square().sum(-1), self.degree).sum(-1)}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """Zero."""
        del improper
        return {"energy": torch.zeros_like(positions[..., 0, 0])}

    def power(self, positions: Tensor) -> dict[str, Power]:
        """``Σ_ij |x_i|^l |x_j|^l P_l(cos γ_ij) / (2l+1)``, by the addition theorem."""
        x = _centred(positions.double())
        square = x.square().sum(-1)
        pairs = _solid(x @ x.mT, square[:, None] * square, self.degree)
        return {"energy": {self.degree: float(pairs.sum()) / (2 * self.degree + 1)}}


@final
class CentralForces(PlantedModel):
    """Pair energy ``Σ_ij 1/(1 + |x_i − x_j|²)/2``, forces and virial: exactly equivariant, so ``L_equiv`` is 0."""

    outputs: ClassVar[Mapping[str, Representation]] = QuadraticEnergy.outputs

    def __call__(self, positions: Tensor) -> Named:
        """Energy ``(...)``, forces ``(..., N, 3)`` and, as ``stress`` ``(..., 6)``, the virial in ASE's Voigt order."""
        apart = positions[..., :, None, :] - positions[..., None, :, :]
        bond = 1 / (1 + apart.square().sum(-1))
        push = 2 * bond.square()[..., None] * apart
        virial = torch.einsum("...ija,...ijb->...ab", push, apart) / 2
        return {"energy": bond.sum((-2, -1)) / 2, "forces": push.sum(-2), "stress": _voigt(virial)}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """The model itself."""
        del improper
        return self(positions)

    def power(self, positions: Tensor) -> dict[str, Power]:
        """Nothing above l = 0."""
        del positions
        return {"energy": {}, "forces": {}, "stress": {}}


@final
class HandedModel(PlantedModel):
    """A pseudoscalar and an axial vector, each with a part of the wrong parity: broken by improper rotations only.

    ``chirality = χ + a Σ|x|²`` and, along a chain of atoms, ``moment = μ + b p``, with the true pseudoscalar
    ``χ = Σ x_i·(x_{i+1}×x_{i+2})``, the true axial vector ``μ = Σ x_i×x_{i+1}`` and the polar vector ``p = x_1``.

    Args:
        wrong: the sizes a and b of the wrong parts.
    """

    outputs: ClassVar[Mapping[str, Representation]] = {"chirality": reps.pseudoscalar, "moment": reps.axial}

    def __init__(self, wrong: tuple[float, float] = (0.1, 0.2)) -> None:
        self.wrong = wrong

    def __call__(self, positions: Tensor) -> Named:
        """Chirality ``(...)`` and moment ``(..., 3)``."""
        right, wrong = self._parts(positions)
        return {name: right[name] + wrong[name] for name in right}

    def twirl(self, positions: Tensor, *, improper: bool = False) -> Named:
        """The model itself over SO(3); its parts of the right parity over O(3)."""
        return self._parts(positions)[0] if improper else self(positions)

    def power(self, positions: Tensor) -> dict[str, Power]:
        """Nothing above l = 0: proper rotations do not see it."""
        del positions
        return {"chirality": {}, "moment": {}}

    def equiv(self, positions: Tensor, *, improper: bool = False) -> dict[str, float]:
        """The mean square of the wrong parts over O(3), 0 over SO(3)."""
        wrong = self._parts(positions.double())[1]
        return {name: float(part.square().mean()) if improper else 0.0 for name, part in wrong.items()}

    def _parts(self, positions: Tensor) -> tuple[Named, Named]:
        x = _centred(positions)
        cross = torch.linalg.cross(x[..., :-1, :], x[..., 1:, :])
        triple = (cross[..., :-1, :] * x[..., 2:, :]).sum((-2, -1))
        right = {"chirality": triple, "moment": cross.sum(-2)}
        return right, {"chirality": self.wrong[0] * x.square().sum((-2, -1)), "moment": self.wrong[1] * x[..., 0, :]}


def _centred(positions: Tensor) -> Tensor:
    return positions - positions.mean(-2, keepdim=True)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal().sum()


def _parts(matrix: Tensor) -> dict[int, Tensor]:
    """The parts of degree 1 (antisymmetric) and 2 (traceless symmetric) of a matrix."""
    matrix = matrix.double()
    symmetric = (matrix + matrix.mT) / 2
    return {1: (matrix - matrix.mT) / 2, 2: symmetric - _trace(matrix) / 3 * torch.eye(3, dtype=torch.float64)}


def _linear_power(matrix: Tensor, positions: Tensor) -> Power:
    size = float(_centred(positions.double()).square().mean())
    return {degree: float(part.square().sum()) * size / 3 for degree, part in _parts(matrix).items()}


def _solid(along: Tensor, square: Tensor, degree: int) -> Tensor:
    """``r^l P_l(z/r)`` from ``z`` and ``r²``, by Bonnet's recursion: a polynomial, smooth at the origin."""
    before, now = torch.ones_like(along), along
    for k in range(1, degree):
        before, now = now, ((2 * k + 1) * along * now - k * square * before) / (k + 1)
    return now


def _voigt(tensor: Tensor) -> Tensor:
    return tensor[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
