"""An equivariance error beneath rounding: what is left of it where rounding is another one every time.

In half precision a model may be off by several percent and still within ten times what rounding explains. Outputs
``y_gk`` at rotations ``g`` of the input displaced in ways ``k``, the same for all rotations, are ``μ + b_k`` of an
equivariant model, and rounding, which is drawn anew for every pair. A model that is off adds ``a_g``, whatever ``k``:
``E_g a_g²`` is the mean over pairs ``k ≠ l`` of ``a_gk a_gl``, without bias (a two-way analysis of variance).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from equiv_probe.orbit.seen_rotation import nudge, rotating_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel

DISPLACEMENTS = 4
SIZE = 0.02
"""Of the displacements, relative to the spread of what is displaced."""
SPACINGS = 4.0
"""And not less than so many spacings of its largest number, so that no rounding stays as it was."""
CERTAIN = 2.0
"""Times the rounding of one evaluation from which an error is real: weights that are rounded break symmetry too."""


class Beneath(NamedTuple):
    """Of one output, root mean squares."""

    error: float
    rounding: float

    @property
    def is_real(self) -> bool:
        """Whether the error is no rounding."""
        return self.error > CERTAIN * self.rounding


def beneath_rounding(subject: RotatedModel, rotations: Tensor) -> dict[str, Beneath]:
    """What is real of the equivariance error, and how large rounding is, by output; ``4 G`` evaluations.

    Args:
        subject: the model with its input.
        rotations: ``(G, 3, 3)``, three or more.
    """
    generator = torch.Generator().manual_seed(0)
    each = [subject.rotated_back(rotations, _displacements(subject, generator)) for _ in range(DISPLACEMENTS)]
    stacks = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    return {name: _analysed(values.reshape(*values.shape[:2], -1)) for name, values in stacks.items()}


def _displacements(subject: RotatedModel, generator: torch.Generator) -> dict[str, Tensor]:
    found = {}
    for name, value in rotating_inputs(subject).items():
        largest = float(value.detach().abs().nan_to_num().max())
        coarse = SPACINGS * torch.finfo(subject.precision or value.dtype).eps * largest
        drawn = nudge(value.detach(), generator, SIZE)
        found[name] = drawn * max(1.0, coarse / max(float(drawn.std(unbiased=False)), 1e-30))
    return found


def _analysed(values: Tensor) -> Beneath:
    """Of outputs ``(K, G, D)`` at displacements and rotations."""
    k, g = values.shape[:2]
    off = values - values.mean(1, keepdim=True)
    rest = (off - off.mean(0)).square().mean() * k * g / ((k - 1) * (g - 1))
    pairs = (off.sum(0).square() - off.square().sum(0)).mean() * g / (k * (k - 1) * (g - 1))
    return Beneath(float(pairs.clamp_min(0).sqrt()), float(rest.sqrt()))
