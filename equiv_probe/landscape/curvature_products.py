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
ROWS = 32
"""Rows of a whole matrix that are computed together."""


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
        self._at_once = True

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
                product = self._accumulated(
                    lambda value: self.space.flat(_grad(self._slopes(value), self.space.tensors, parts)), which
                )
            else:
                for index in range(len(self.pieces)):
                    one = self._held_hessian if self.matrix == "hessian" else self._gauss_newton
                    product += self.space.flat(one(index, which, parts))
        self.count += 1
        return _finite(product, which)

    def whole(self, which: Which = "total", advance: Callable[[int], Any] = lambda _: None) -> Tensor:
        """The matrix of one loss, ``(size, size)``, row by row and not made symmetric: that it is not shows rounding.

        Args:
            which: of the losses.
            advance: told how many rows were made.

        Raises:
            EquivProbeError: as for a product.
        """
        unit = torch.eye(self.space.size, dtype=self.space.dtype, device=self.space.device)

        def rows(value: Tensor) -> Tensor:
            slopes = self._slopes(value)
            made = []
            for part in torch.split(unit, ROWS):
                made.append(self._rows(slopes, part))
                advance(len(part))
            return torch.cat(made)

        if self.matrix != "hessian":
            return torch.stack([self(row, which) for row in unit])
        with explained(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            found = self._accumulated(rows, which)
        self.count += self.space.size
        return _finite(found, which)

    def _rows(self, slopes: Sequence[Tensor | None], vectors: Tensor) -> Tensor:
        """Products with k vectors, ``(k, size)``, from first derivatives with their graph: at once where that works."""
        space = self.space
        if self._at_once:
            parts = [
                v.reshape(-1, *p.shape).to(p.device, p.dtype)
                for v, p in zip(torch.split(vectors, space.sizes, 1), space.tensors, strict=True)
            ]
            try:
                made = _grad(slopes, space.tensors, parts, retain_graph=True, is_grads_batched=True)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operation that takes no batch of vectors
                self._at_once = False
            else:
                like = zip(made, space.sizes, strict=True)
                flat = [vectors.new_zeros(len(vectors), n) if m is None else m.detach().reshape(-1, n) for m, n in like]
                return torch.cat([one.to(vectors) for one in flat], 1)
        each = (_grad(slopes, space.tensors, space.parts(v), retain_graph=True) for v in vectors)
        return torch.stack([space.flat(one) for one in each])

    def gradient(self, which: Which = "total") -> Tensor:
        """The gradient of one loss, ``(size,)``."""
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            return self._accumulated(lambda value: self.space.flat(_grad([value], self.space.tensors)), which)

    def _accumulated(self, of: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        """The sum over pieces of something linear in the loss; a loss that can halve its pieces does."""
        place = LOSSES.index(which)
        accumulate: Any = getattr(self._loss, "accumulate", None)
        if accumulate is not None:
            (total,) = accumulate(lambda piece: [of(piece[place])])
            return cast("Tensor", total)
        total, *rest = (of(piece()[place]) for piece in self.pieces)
        for more in rest:
            total = total + more
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


def _finite(product: Tensor, which: Which) -> Tensor:
    if not bool(product.isfinite().all()):
        raise EquivProbeError(
            f"a product of the curvature of L_{which} that is not finite",
            "a loss that is smooth at these weights",
            "look at its gradient; in half precision, measure in float32",
        )
    return product


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
