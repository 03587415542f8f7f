"""The source of later noise that a sampler may take as its second argument, which knows what has a direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.deprecation import renamed
from equiv_probe.rotations.haar import from_quaternions

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.noise import Noise


class Randn:
    """The source of later noise that a sampler may take as its second argument: ``randn(shape)``.

    Args:
        noise: of the run.
        like: shows precision and device.
    """

    def __init__(self, noise: Noise, like: Tensor) -> None:
        self._noise, self._like = noise, like

    @renamed(turns="rotates")
    def __call__(
        self,
        *shape: Any,
        rotates: bool | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Standard normal numbers.

        Args:
            shape: as numbers, as one tuple, or a tensor of that shape.
            rotates: whether they are directions in space; None goes by the shape.
            dtype: None is that of the initial noise.
            device: None is that of the initial noise.
        """
        self._noise.declared = rotates
        try:
            return torch.randn(_size(shape), dtype=dtype or self._like.dtype, device=device or self._like.device)
        finally:
            self._noise.declared = None

    def orientations(
        self, *shape: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniformly distributed orientations ``(*shape, 3, 3)``, which rotate from the left, ``R ↦ g R``.

        Args:
            shape: of the frames: samples, or samples and residues.
            dtype: None is that of the initial noise.
            device: None is that of the initial noise.
        """
        return self._uniform(_size(shape), "left", dtype, device)

    def rotations(
        self, *shape: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniformly distributed rotations ``(*shape, 3, 3)`` to augment the state by, ``R ↦ g R g⁻¹``.

        For a sampler that rotates its state at random and does not rotate it back; arguments as for
        :meth:`orientations`.
        """
        return self._uniform(_size(shape), "conjugate", dtype, device)

    def _uniform(
        self, size: tuple[int, ...], way: Way, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> Tensor:
        self._noise.unfollowed = True  # what becomes of these draws is known
        try:
            drawn = from_quaternions(self(*size, 4, rotates=False, dtype=torch.float64, device="cpu"))
            drawn = self._noise.declared_rotations(drawn.to(dtype or self._like.dtype), way)
            return drawn.to(device or self._like.device)
        finally:
            self._noise.unfollowed = False


def _size(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as numbers, as one tuple, or as a tensor of that shape."""
    size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return tuple(size.shape) if isinstance(size, torch.Tensor) else tuple(size)
