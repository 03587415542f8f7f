"""A model that respects rotation about the origin of its coordinates, and not about the structure's centroid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.schema.translation import shift_of
from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "fixed origin"


@experiment(NAME, "group", "Is rotation about the origin respected, and about the centroid not?", cost=FEW + 2)
def fixed_origin(subject: Subject) -> Findings:
    """Rotate about the origin."""
    if not subject.model.is_about_centroid or not any(rep.is_affine for rep in subject.schema.inputs.values()):
        raise NotApplicable("structures are not rotated about their centroids")
    after = subject.again(center="origin")
    for name in subject.broken:
        charge = _charge(subject, name)
        if charge is not None:
            ion = (
                f"{name!r} moves with the structure, as does the dipole of an ion with the charge "
                f"{charge / subject.scales.get(name, 1.0):.4g}, which depends on the origin"
            )
            how = 'Count it from a point of the structure, or rotate about the origin (center="origin").'
            yield finding(NAME, name, subject.compare(name, after[name]), ion, how)
            continue
        sentence = (
            f"{name!r} rotates as it should about the origin of the coordinates, but not about the structure's "
            "centroid: it depends on where the structure is"
        )
        advice = (
            "Subtract the centroid of each structure first, or use differences of positions. Where a fixed origin is "
            'meant, rotate about it: center="origin".'
        )
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice)


def _charge(subject: Subject, name: str) -> float | None:
    """The charge of a dipole that moves by it times a shift of the structure; None of what moves otherwise."""
    own = subject.identity[name]
    places = {n: rep for n, rep in subject.schema.inputs.items() if rep.is_affine}
    if "dipole" not in plain(name) or own.shape[-1:] != (3,):
        return None
    first = next(iter(places))
    _, shift = shift_of(places[first].places(subject.inputs[first].detach()))
    moved = {n: rep.translate(subject.inputs[n].detach(), shift) for n, rep in places.items()}
    change = subject.at({**subject.inputs, **moved})[name] - own
    charge = float((change * shift.to(change)).sum(-1).mean() / shift.square().sum())
    left = root(change - charge * shift.to(change))
    return charge if abs(charge) > 0 and left < 1e-2 * root(change) else None
