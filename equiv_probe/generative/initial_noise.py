"""The initial noise of a sampler: drawn, or given; and which of it belongs to which sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.layout import DECLARE_FLAT, DECLARE_LAST, Layout
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.representation import point
from equiv_probe.schema.centers import centroids
from equiv_probe.schema.schema import Schema
from equiv_probe.schema.structures import Structures

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equiv_probe.representations.representation import Representation


def stream(seed: int, *key: int) -> int:
    """A seed for one purpose, independent of those for others: initial noise 0, global states 1, later noise 2."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1, np.uint32)[0])


@dataclass(frozen=True)
class InitialNoise:
    """Where the initial noise comes from.

    Args are those of :func:`equiv_probe.audit_sampler`: ``given`` is its ``noise_shape``, ``rep`` its ``noise`` and
    ``written`` its ``layout``.
    """

    given: tuple[int, ...] | Tensor | Callable[[], Tensor]
    batch: Tensor | None = None
    mask: Tensor | None = None
    center: str | Tensor = "origin"
    zero_mean: bool = False
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    rep: Representation = point
    written: str | None = None

    def draw(self, seed: int) -> Tensor:
        """The noise of a seed, as ``(..., N, 3)`` or grids, whatever its layout.

        Raises:
            EquivProbeError: it is no noise on positions.
        """
        given = self._seen(seed)
        layout = self._layout_of(given)
        is_flat = layout is not None and layout.of_noise
        if isinstance(given, tuple):
            noise = self._drawn(layout.usual_shape(given) if layout and is_flat else given, seed)
        else:
            noise = layout.usual(given) if layout and is_flat else given
        self._check(noise)
        return noise

    def seen_layout(self, seed: int) -> Layout | None:
        """The layout that was declared, for the noise as the sampler sees it."""
        return None if self.written is None else self._layout_of(self._seen(seed))

    def _seen(self, seed: int) -> Any:
        """The noise as the sampler sees it, or its shape."""
        if callable(self.given):
            torch.manual_seed(stream(seed, 0))
            with torch.no_grad():
                noise = self.given()
            self._require(isinstance(noise, torch.Tensor), noise)
            return noise
        return self.given.detach() if isinstance(self.given, torch.Tensor) else tuple(self.given)

    def _layout_of(self, given: Tensor | tuple[int, ...]) -> Layout | None:
        shape = given if isinstance(given, tuple) else tuple(given.shape)
        return None if self.written is None else Layout.of(self.written, shape)

    def _require(self, fits: bool, noise: Any) -> None:
        """Raise EquivProbeError, with what to pass, for noise that does not fit."""
        if fits:
            return
        shape = tuple(noise.shape) if isinstance(noise, torch.Tensor) else ()
        points = "(B, N, 3), (N, 3), or (N_total, 3) with batch="
        raise EquivProbeError(
            f"initial noise of shape {shape}" if shape else f"initial noise of type {type(noise).__name__}",
            "(B, C, D, H, W), or (C, D, H, W)" if self.rep.is_whole else points,
            _way_out(shape),
        )

    def _check(self, noise: Tensor) -> None:
        """Raise EquivProbeError unless this is noise that can be rotated."""
        if isinstance(self.rep, Grid):
            self._require(noise.ndim >= max(1, len(self.rep.event_shape)), noise)
            self.rep.check(noise)
        else:
            self._require(noise.ndim >= 2 and noise.shape[-1] == 3, noise)
        if not noise.is_floating_point() or not noise.numel():
            raise EquivProbeError(f"initial noise of {noise.dtype}, {noise.numel()} numbers", "floating numbers")
        for name, values, axes in (("batch", self.batch, 1), ("mask", self.mask, noise.ndim - 1)):
            if values is not None and values.shape != noise.shape[:axes]:
                expected = f"{tuple(noise.shape[:axes])}, one entry per atom"
                raise EquivProbeError(f"{name} of shape {tuple(values.shape)}", expected)

    def other(self, seed: int, first: Tensor, rotated: Callable[[Tensor], Tensor]) -> Tensor:
        """Another noise, as likely: drawn anew, or where one was given, that one rotated."""
        return rotated(first) if isinstance(self.given, torch.Tensor) else self.draw(seed)

    def structures(self, noise: Tensor) -> Structures:
        """The samples of the noise."""
        given = {"batch": self.batch, "mask": self.mask}
        if self.rep.is_whole:
            return Structures.of({"noise": noise}, Schema({"noise": self.rep}, {}), "origin")
        inputs = {"noise": noise, **{name: v.to(noise.device) for name, v in given.items() if v is not None}}
        batch, mask = (name if name in inputs else None for name in given)
        found = Structures.of(inputs, Schema({"noise": point}, {}, batch=batch, mask=mask), self.center)
        if found.index is None:
            return found
        count, center = int(found.index.max()) + 1, found.center  # an upper bound on their number made room for more
        return replace(found, count=count, center=center[:count] if center is not None and center.ndim > 1 else center)

    def _drawn(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Standard normal noise, the same on every device and, but for rounding, in every precision."""
        generator = torch.Generator().manual_seed(stream(seed, 0))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if not self.rep.is_whole:
            noise = self._without_padding(noise)
        return noise.to(self.device or "cpu", self.dtype or torch.get_default_dtype())

    def _without_padding(self, noise: Tensor) -> Tensor:
        """Zero where there are no atoms, and without the centre of mass if that was asked for."""
        held = torch.ones_like(noise[..., :1])
        if self.mask is not None and self.mask.shape == noise.shape[:-1]:
            held = self.mask.detach().cpu().to(noise.dtype)[..., None]
        noise = noise * held
        if self.zero_mean and self.batch is not None:
            index = self.batch.detach().cpu().long()
            return noise - centroids(noise, index, int(index.max()) + 1)[index]
        if self.zero_mean:
            atoms = tuple(range(int(noise.ndim > 2), noise.ndim - 1))
            noise = noise - noise.sum(atoms, keepdim=True) / held.sum(atoms, keepdim=True).clamp_min(1) * held
        return noise


def _way_out(shape: tuple[int, ...]) -> str:
    """What to pass for noise of a shape that is not ``(..., N, 3)``."""
    if len(shape) >= 4:
        return "audit_sampler(..., noise=ep.grid()) for voxels; noise=ep.grid(ep.vector) if its channels are a vector"
    if len(shape) >= 2 and shape[-2] == 3:
        return DECLARE_LAST
    if shape and shape[-1] % 3 == 0:
        return DECLARE_FLAT
    return "ep.audit_sampler(sampler, (64, 20, 3))"
