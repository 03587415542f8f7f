"""Outputs that take a handful of values over all rotations: a discrete choice is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import experiment, require_any_rotation
from equiv_probe.diagnosis.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "a discrete choice"
MOST = 8
"""Values that a choice among signs of axes or a few neighbours makes; more are told from a smooth error by others."""


@experiment(NAME, "graph", "Are there only a few outputs over all rotations?", cost=0)
def few_values(subject: Subject) -> Findings:
    """Count outputs that differ by more than rounding."""
    require_any_rotation(subject)
    for name in subject.broken:
        values = subject.values[name].reshape(len(subject.rotations), -1)
        labels = _clusters(values, 1e-2 * subject.error(name) * values.shape[1] ** 0.5)
        count = int(labels.max()) + 1
        if not 1 < count <= min(MOST, len(values) // 3):
            continue
        within = sum(float((values[labels == k] - values[labels == k].mean(0)).square().sum()) for k in range(count))
        left = (within / values.numel()) ** 0.5
        part = 1 - (left / subject.error(name)) ** 2
        sentence = (
            f"{name!r} takes only {count} values over {len(values)} rotations: a choice is made that depends on the "
            "orientation, such as the sign of an axis, the order of atoms or which neighbours count"
        )
        advice = (
            "Look for eigenvectors and principal axes (their signs are arbitrary), sorting by a coordinate, argmax, "
            "the first neighbour of a list, and caps on the number of neighbours; average over all choices, or choose "
            "by what does not depend on the frame."
        )
        yield Finding(NAME, name, sentence, advice, "character", subject.error(name), left, part)


def _clusters(values: Tensor, radius: float) -> Tensor:
    """A number for each row ``(K,)``, the same for rows that lie within a radius of the first of their kind."""
    labels = torch.full((len(values),), -1)
    for count in range(len(values)):
        free = (labels < 0).nonzero().flatten()
        if not len(free):
            break
        near = (values[free] - values[free[0]]).norm(dim=1) <= radius
        labels[free[near.cpu()]] = count
    return labels
