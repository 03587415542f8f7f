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

from equiv_probe.estimation.grid_fields import EXPLAINED, MOST
from equiv_probe.representations.representation import concat, irreps, scalar, vector

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation


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
    found: list[tuple[int, Representation]] = []
    start = 0
    while start < width <= MOST:
        for rep, size in kinds:
            if start + size <= width and _explains(rep, raw[..., start : start + size], rotations):
                found.append((found.pop()[0] + 1 if found and found[-1][1] == rep else 1, rep))
                start += size
                break
        else:
            return None
    if not any(rep != scalar for _, rep in found):
        return None
    return found[0][1] if len(found) == 1 and found[0][0] == 1 else concat(*found)


def _explains(rep: Representation, raw: Tensor, rotations: Tensor) -> bool:
    values = raw[..., 0] if rep == scalar else raw
    back = rep.rotate_back(values, rotations)
    return bool(back.var(0, correction=0).mean() <= EXPLAINED * back.square().mean())
