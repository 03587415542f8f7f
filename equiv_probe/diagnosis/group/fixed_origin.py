"""A model that respects rotation about the origin of its coordinates, and not about the structure's centroid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from equiv_probe.diagnosis.finding import Finding
    from equiv_probe.diagnosis.subject import Subject

NAME = "fixed origin"


@experiment(NAME, "group", "Is rotation about the origin respected, and about the centroid not?", cost=FEW + 1)
def fixed_origin(subject: Subject) -> Iterator[Finding]:
    """Rotate about the origin."""
    if not subject.model.is_about_centroid or not any(rep.is_affine for rep in subject.schema.inputs.values()):
        raise NotApplicable("structures are not rotated about their centroids")
    after = subject.again(center="origin")
    for name in subject.broken:
        sentence = (
            f"{name!r} rotates as it should about the origin of the coordinates, but not about the structure's "
            "centroid: it depends on where the structure is"
        )
        advice = (
            "Subtract the centroid of each structure first, or use differences of positions. The dipole of an ion does "
            "depend on the origin: count it from a point of the structure, or rotate about the origin "
            '(center="origin").'
        )
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice)
