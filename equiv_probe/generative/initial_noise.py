"""The initial noise of a sampler: drawn, or given; and which of it belongs to which sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.layout import Layout
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

    Args:
        given: its shape, itself, or what draws it.
        batch: the sample of each atom, ``(N_total,)``.
        mask: true where a dense batch holds an atom, ``(B, N)``.
        center: of rotation.
        zero_mean: take out the centre of mass of what is drawn here.
        dtype: of what is drawn here.
        device: of what is drawn here.
        rep: of the noise: points, or grids.
        written: how it is laid out, where not as ``(..., N, 3)``; see :class:`equiv_probe.generative.layout.Layout`.
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
        if isinstance(self.given, torch.Tensor):
            noise = self.given.detach()
        elif callable(self.given):
            torch.manual_seed(stream(seed, 0))
            with torch.no_grad():
                noise = self.given()
        else:
            shape = tuple(self.given)
            layout = self.layout(shape)
            noise = self._drawn(layout.usual_shape(shape) if layout and layout.of_noise else shape, seed)
            self._check(noise)
            return noise
        layout = self.layout(tuple(noise.shape)) if isinstance(noise, torch.Tensor) else None
        if layout is not None and layout.of_noise:
            noise = layout.usual(noise)
        self._check(noise)
        return noise

    def layout(self, shape: tuple[int, ...]) -> Layout | None:
        """The declared layout, for noise of a shape as a sampler sees it."""
        return None if self.written is None else Layout.of(self.written, shape)

    def seen_layout(self) -> Layout | None:
        """The declared layout, for the noise that is given."""
        if self.written is None:
            return None
        given = self.given() if callable(self.given) else self.given
        return self.layout(tuple(given.shape if isinstance(given, torch.Tensor) else given))

    def _check(self, noise: Any) -> None:
        """Raise EquivProbeError unless this is noise that can be rotated."""
        shape = tuple(noise.shape) if isinstance(noise, torch.Tensor) else ()
        grids = isinstance(self.rep, Grid)
        if not shape or (len(shape) < len(self.rep.event_shape) if grids else shape[-1:] != (3,) or len(shape) < 2):
            expected = "(B, C, D, H, W), or (C, D, H, W)" if grids else "(B, N, 3), (N, 3), or (N_total, 3) with batch="
            raise EquivProbeError(
                f"initial noise of shape {shape}" if shape else f"initial noise of type {type(noise).__name__}",
                expected,
                _way_out(shape),
            )
        if grids:
            self.rep.check(noise)
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
        return replace(found, count=int(found.index.max()) + 1, center=self._trimmed(found))

    def _trimmed(self, found: Structures) -> Tensor | None:
        """Centres of the samples alone, without those that an upper bound on their number made room for."""
        if found.center is None or found.center.ndim < 2 or found.index is None:
            return found.center
        return found.center[: int(found.index.max()) + 1]

    def _drawn(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Standard normal noise, the same on every device and, but for rounding, in every precision."""
        generator = torch.Generator().manual_seed(stream(seed, 0))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.rep.is_whole:
            return noise.to(self.device or "cpu", self.dtype or torch.get_default_dtype())
        held = torch.ones(shape[:-1], dtype=noise.dtype)
        if self.mask is not None and self.mask.shape == shape[:-1]:
            held = self.mask.detach().cpu().to(noise.dtype)
        noise, held = noise * held[..., None], held[..., None]
        if self.zero_mean and self.batch is not None:
            index = self.batch.detach().cpu().long()
            noise = noise - centroids(noise, index, int(index.max()) + 1)[index]
        elif self.zero_mean:
            atoms = tuple(range(int(len(shape) > 2), len(shape) - 1))
            noise = noise - noise.sum(atoms, keepdim=True) / held.sum(atoms, keepdim=True).clamp_min(1) * held
        return noise.to(self.device or "cpu", self.dtype or torch.get_default_dtype())


def _way_out(shape: tuple[int, ...]) -> str:
    """What to pass for noise of a shape that is not ``(..., N, 3)``."""
    if len(shape) >= 4:
        return "audit_sampler(..., noise=ep.grid()) for voxels; noise=ep.grid(ep.vector) if its channels are a vector"
    if len(shape) >= 2 and shape[-2] == 3:
        return 'audit_sampler(..., layout="B 3 N")'
    if shape and shape[-1] % 3 == 0:
        return (
            'audit_sampler(..., layout="B (N 3)") where x, y, z of one atom follow those of the other, "B (3 N)" where '
            "all x come first"
        )
    return "ep.audit_sampler(sampler, (64, 20, 3))"
