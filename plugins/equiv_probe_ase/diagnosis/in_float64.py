"""The same calculator in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.numerics.run_otherwise import PRECISION
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import number
from equiv_probe_ase.diagnosis.atoms_subject import AtomsModel, atoms_of
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.engine import Engine

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject


@experiment(PRECISION, "numerics", "Does the error go if everything is computed in float64?", cost=FEW + 1)
def calculator_in_float64(subject: Subject) -> Findings:
    """Make the calculator once more, in float64."""
    model = atoms_of(subject)
    if model.precision == torch.float64:
        raise NotApplicable("the calculator works in float64")
    if model.in_float64 is None:
        raise NotApplicable("it is not known how to make this calculator in float64: name it instead of giving it")
    default = torch.get_default_dtype()  # which some packages set, and the calculator in float32 needs back
    try:
        try:
            calculator = model.in_float64()
        except EquivProbeError as error:
            raise NotApplicable("this calculator cannot be made in float64") from error
        engine = Engine(evaluator_for(calculator), model.engine.atoms_per_call)
        after = subject.again(predict=AtomsModel(model.atoms, engine, model.quantities, torch.float64))
    finally:
        torch.set_default_dtype(default)
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = f"{name!r} is off by {subject.amount(name, best.before)}, and in float64 by {number(best.after, 2)}"
        advice = "Use the model in float64 (--dtype float64), or keep its geometry in float64."
        yield finding(PRECISION, name, best, sentence, advice)
