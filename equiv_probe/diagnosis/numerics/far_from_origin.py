"""A structure far from the origin: coordinates that have spent their digits on where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding, places_in
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "far from the origin"
FAR = 10.0
"""Times the spread of a structure that its centroid is away."""


@experiment(NAME, "numerics", "Does the error go if the structure is moved to the origin?", cost=FEW + 1)
def far_from_origin(subject: Subject) -> Findings:
    """Move everything so that its centroid is at the origin."""
    places = places_in(subject)
    first = next(iter(places))
    points = places[first].places(subject.inputs[first].detach())
    spread, _ = shift_of(points)
    centroid = points.double().flatten(0, -2).mean(0)
    away = float(centroid.norm())
    if away < FAR * spread:
        raise NotApplicable("the structure is near the origin")
    moved = {name: rep.translate(subject.inputs[name].detach(), -centroid) for name, rep in places.items()}
    after = subject.again(inputs={**subject.inputs, **moved})
    for name in subject.broken:
        sentence = (
            f"{name!r} is more symmetric if the structure is moved to the origin; it lies {number(away, 2)} from "
            f"there, and is {number(spread, 2)} wide"
        )
        advice = "Subtract the centroid before anything else, in float64; or give coordinates near the origin."
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice)
