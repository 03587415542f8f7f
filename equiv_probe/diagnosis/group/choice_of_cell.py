"""The choice of the cell: the same crystal by other lattice vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.group.lattice import crystal
from equiv_probe.estimation.controls import MOVES

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "choice of cell"
ADVICE = (
    "Count neighbours over as many images as the cutoff needs, not only the nearest; do not use the cell's lengths or "
    "fractional coordinates as features. Of DFT, compare k-point meshes."
)


@experiment(NAME, "group", "Do the outputs depend on which cell describes the crystal?", cost=1, needs_error=False)
def choice_of_cell(subject: Subject) -> Findings:
    """Replace the second lattice vector by its sum with the first; atoms stay where they are."""
    name_of_cell, _ = crystal(subject)
    sheared = subject.inputs[name_of_cell].detach().clone()
    sheared[1] = sheared[1] + sheared[0]
    found = subject.at({**subject.inputs, name_of_cell: sheared})
    for name in subject.outputs:
        change, rounding = root(found[name] - subject.identity[name]), subject.rounding(name)
        if change > MOVES * rounding:
            sentence = (
                f"{name!r} changes by {subject.amount(name, change)} where the second lattice vector is replaced by "
                "its sum with the first: the crystal is the same"
            )
            yield Finding(NAME, name, sentence, ADVICE, "beside", change, rounding)
