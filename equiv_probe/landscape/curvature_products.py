"""Products of the curvature of ``L_total``, ``L_mean`` and ``L_equiv`` with vectors, without ever forming a matrix.

Exact up to rounding, by differentiating twice (Pearlmutter, Neural Comput. 6 (1994) 147), piece by piece, so that
memory is bounded by one piece. Attention kernels have no second derivative in their fast forms: PyTorch's plain form
of ``scaled_dot_product_attention`` is used for the while. Other kernels without a second derivative (cuDNN's recurrent
networks, compiled models) are an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.decomposed_loss import LOSSES, pieces_of
from equiv_probe.landscape.second_derivatives import explained, require_no_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from equiv_probe.landscape.decomposed_loss import DecomposedLoss, Which
    from equiv_probe.landscape.parameter_space import ParameterSpace

Matrix = Literal["hessian", "gauss-newton"]


class CurvatureProducts:
    """The Hessians, or the Gauss–Newton matrices, of the three losses at the current weights, as products with vectors.

    The Gauss–Newton matrix of ``ℓ(z(θ))`` is ``Jᵀ (∂²ℓ/∂z²) J`` with the Jacobian J of the outputs: what is left of the
    Hessian when the network is linearised. Here z are the outputs of all rotations, rotated back. For squared error
    that of ``L_equiv`` is the covariance of J over the orbit, and positive semidefinite; that of ``L_mean`` is
    estimated without bias, and so may have negative eigenvalues as large as the noise of the rotations.

    Args:
        loss: see :class:`DecomposedLoss`.
        space: the weights.
        matrix: ``"hessian"`` or ``"gauss-newton"``.
        hold: keep the graph of the first derivative of every piece: about half the time a product, but all pieces are
            in memory at once. The weights must not change meanwhile.

    Raises:
        EquivProbeError: a Gauss–Newton matrix of a loss that does not give its outputs.
    """

    def __init__(
        self, loss: DecomposedLoss, space: ParameterSpace, *, matrix: Matrix = "hessian", hold: bool = False
    ) -> None:
        if matrix not in {"hessian", "gauss-newton"}:
            raise EquivProbeError(f"matrix={matrix!r}", '"hessian" or "gauss-newton"')
        self.space, self.matrix, self.hold = space, matrix, hold
        self._loss, self.pieces = loss, pieces_of(loss)
        if matrix == "gauss-newton" and not all(hasattr(piece, "of_outputs") for piece in self.pieces):
            raise EquivProbeError(
                "a loss without outputs() and of_outputs()",
                "one in two steps, outputs and their loss",
                'matrix="hessian"',
            )
        self.count = 0
        """Products made so far."""
        self._held: dict[tuple[int, Which], Any] = {}

    def __call__(self, vector: Tensor, which: Which = "total") -> Tensor:
        """The matrix of one loss times a vector.

        Args:
            vector: ``(size,)``.
            which: of the losses.

        Returns:
            ``(size,)``, in the loss's unit.

        Raises:
            EquivProbeError: the product is not finite, or something in the model has no second derivative.
        """
        parts = self.space.parts(vector)
        product = torch.zeros_like(vector)
        with explained(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            if self.matrix == "hessian" and not self.hold:
                product = self._accumulated(lambda value: _grad(self._slopes(value), self.space.tensors, parts), which)
            else:
                for index in range(len(self.pieces)):
                    one = self._held_hessian if self.matrix == "hessian" else self._gauss_newton
                    product += self.space.flat(one(index, which, parts))
        self.count += 1
        if not bool(product.isfinite().all()):
            raise EquivProbeError(
                f"a product of the curvature of L_{which} that is not finite",
                "a loss that is smooth at these weights",
                "look at its gradient; in half precision, measure in float32",
            )
        return product

    def gradient(self, which: Which = "total") -> Tensor:
        """The gradient of one loss, ``(size,)``."""
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            return self._accumulated(lambda value: _grad([value], self.space.tensors), which)

    def _accumulated(self, of: Callable[[Tensor], Sequence[Tensor | None]], which: Which) -> Tensor:
        """The sum over pieces of something linear in the loss; a loss that can halve its pieces does."""
        place = LOSSES.index(which)
        accumulate: Any = getattr(self._loss, "accumulate", None)
        if accumulate is not None:
            (total,) = accumulate(lambda piece: [self.space.flat(of(piece[place]))])
            return cast("Tensor", total)
        total = torch.zeros(self.space.size, dtype=self.space.dtype, device=self.space.device)
        for piece in self.pieces:
            total += self.space.flat(of(piece()[place]))
        return total

    def _slopes(self, value: Tensor) -> Sequence[Tensor | None]:
        return self._checked(_grad([value], self.space.tensors, create_graph=True))

    def _checked(self, slopes: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """First derivatives, of which the first ones are searched for what has no second."""
        if self.count == 0:
            require_no_marks(slopes)
        return slopes

    def _held_hessian(self, index: int, which: Which, vector: Sequence[Tensor]) -> Sequence[Tensor | None]:
        gradients = self._held.get((index, which))
        if gradients is None:
            gradients = self._held[index, which] = self._slopes(self.pieces[index]()[LOSSES.index(which)])
        return _grad(gradients, self.space.tensors, vector, retain_graph=True)

    def _gauss_newton(self, index: int, which: Which, vector: Sequence[Tensor]) -> Sequence[Tensor | None]:
        tensors, piece = self.space.tensors, cast("Any", self.pieces[index])
        held = self._held.get((index, "total"))  # the same for the three losses
        if held is None:
            outputs = list(piece.outputs())
            # J v by differentiating Jᵀ u, which is linear in u, with respect to u.
            dummies = [torch.zeros_like(z, requires_grad=True) for z in outputs]
            held = outputs, dummies, self._checked(_grad(outputs, tensors, dummies, create_graph=True))
            if self.hold:
                self._held[index, "total"] = held
        outputs, dummies, pulled = held
        pushed = _filled(_grad(pulled, dummies, vector, retain_graph=True), outputs)
        leaves = [z.detach().requires_grad_() for z in outputs]
        slopes = _grad([piece.of_outputs(leaves)[LOSSES.index(which)]], leaves, create_graph=True)
        bent = _filled(_grad(slopes, leaves, pushed), outputs)
        return _grad(outputs, tensors, bent, retain_graph=self.hold)


def _grad(
    of: Sequence[Tensor | None], by: Sequence[Tensor], along: Sequence[Tensor] | None = None, **how: bool
) -> Sequence[Tensor | None]:
    """``torch.autograd.grad``; what does not depend on anything has a derivative of None, which is zero."""
    pairs = [(z, None if along is None else along[k]) for k, z in enumerate(of) if z is not None and z.requires_grad]
    if not pairs:
        return [None] * len(by)
    return torch.autograd.grad([z for z, _ in pairs], by, [v for _, v in pairs], allow_unused=True, **how)


def _filled(derivatives: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(z) if d is None else d for d, z in zip(derivatives, like, strict=True)]
