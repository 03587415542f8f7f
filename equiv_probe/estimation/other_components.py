"""What the components along the last axis of a broken output could be instead: arrows beside numbers, irreps.

>>> import torch, equiv_probe as ep
>>> rotations = ep.RotationPlan("haar", 4).rotations()[:, 0]
>>> raw = torch.cat([torch.ones(4, 9, 1), rotations[:, :, 0].float()[:, None].expand(4, 9, 3)], -1)
>>> print(components(raw, rotations))
concat(1, ep.vector)
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from equiv_probe.representations.representation import concat, irreps, scalar, vector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from equiv_probe.representations.grid_channels import Field
    from equiv_probe.representations.representation import Representation

MOST = 64
"""Components that are looked at, at most."""
EXPLAINED = 1e-2
"""Of its own square, the variance up to which components are what they were tried as."""


def components(raw: Tensor, rotations: Tensor) -> Representation | None:
    """Scalars, vectors and irreps up to degree three, in order, that explain ``(K, ..., W)``; None where none do.

    Args:
        raw: outputs as the model gave them, at rotated inputs.
        rotations: ``(K, 3, 3)``.
    """
    width = raw.shape[-1]
    kinds: list[tuple[Representation, int]] = [(scalar, 1), (vector, 3)]
    with suppress(ImportError):  # without e3nn there are no irreps
        kinds += [(irreps("1x1o"), 3), (irreps("1x2e"), 5), (irreps("1x3o"), 7)]
    if width > MOST:
        return None

    def explains(rep: Representation, start: int, size: int) -> bool:
        own = raw[..., start] if rep == scalar else raw[..., start : start + size]
        return is_explained(rep.rotate_back(own, rotations))

    found = cover(width, kinds, explains)
    if not any(rep != scalar for _, rep in found):
        return None
    return found[0][1] if len(found) == 1 and found[0][0] == 1 else concat(*found)


def cover(
    width: int, kinds: Sequence[tuple[Representation, int]], explains: Callable[[Representation, int, int], bool]
) -> tuple[Field, ...]:
    """Fields for components ``0`` to ``width``, in order, each the first that explains its own; empty where none does.

    Args:
        width: how many components there are.
        kinds: what a field may be, with its number of components.
        explains: whether a representation explains so many components from a place on.
    """
    found: list[Field] = []
    start = 0
    while start < width:
        hit = next((one for one in kinds if start + one[1] <= width and explains(one[0], start, one[1])), None)
        if hit is None:
            return ()
        rep, size = hit
        found.append((found.pop()[0] + 1 if found and found[-1][1] == rep else 1, rep))
        start += size
    return tuple(found)


def is_explained(back: Tensor) -> bool:
    """Whether values that were rotated back ``(K, ...)`` are nearly the same for all rotations."""
    return bool(back.var(0, correction=0).mean() <= EXPLAINED * back.square().mean())
