"""A structure that gets something else in a batch with other structures than alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.numerics.batch_of_one import ADVICE, NAME
from equiv_probe.estimation.controls import BATCH
from equiv_probe_ase.diagnosis.atoms_subject import atoms_of

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject


@experiment(NAME, "numerics", "Does a structure get alone what it gets beside others?", cost=0, needs_error=False)
def in_company(subject: Subject) -> Findings:
    """The control of the batched evaluation, which was made before anything else."""
    asked = [control for control in atoms_of(subject).controls if control.name == BATCH]
    if not asked:
        raise NotApplicable("structures are evaluated one at a time, or there is one")
    for control in asked:
        if control.failed:
            output = control.sentence.partition(" ")[0]
            yield Finding(NAME, output, control.sentence, ADVICE, "beside", control.value, control.limit)
