"""Net force and net torque, which no structure exerts on itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe.report.formatting import number
from equiv_probe.representations.representation import vector
from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "net force"
MUCH = 1e-3
"""Of the root mean square of all forces, as sums over atoms of random errors would be."""


@experiment(NAME, "physics", "Do the forces add up to nothing?", cost=0, needs_error=False)
def net_force(subject: Subject) -> Findings:
    """Sums of forces over the atoms of each structure."""
    names = [n for n in subject.outputs if plain(n) in {"force", "forces"} and _is_forces(subject, n)]
    if not names:
        raise NotApplicable("no forces among the outputs, a vector for each atom")
    for name in names:
        forces = subject.identity[name]
        index = subject.inputs[subject.schema.batch].long() if subject.schema.batch is not None else None
        total = (
            forces.sum(-2) if index is None else forces.new_zeros(int(index.max()) + 1, 3).index_add_(0, index, forces)
        )
        atoms = forces.shape[-2] if index is None else len(forces) / len(total)
        net, size = root(total) / atoms**0.5, root(forces)
        if net > max(MUCH * size, BROKEN_FACTOR * subject.rounding(name)):
            sentence = (
                f"{name!r} of a structure add up to {subject.amount(name, root(total))} per component, beside forces "
                f"of {number(size, 2)}: the structure pushes itself"
            )
            advice = (
                "Take forces as the gradient of an energy that depends on differences of positions, or subtract their "
                "mean."
            )
            yield Finding(NAME, name, sentence, advice, "beside", root(total), subject.rounding(name))


def _is_forces(subject: Subject, name: str) -> bool:
    own: Tensor = subject.identity[name]
    return subject.schema.outputs[name] == vector and own.ndim >= 2 and own.shape[-2] > 1
