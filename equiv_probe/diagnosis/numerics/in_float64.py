"""Less precision than it takes: the error goes where the whole model is computed in float64."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.diagnosis.comparison import Compared
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "low precision"
_TYPICAL = (
    (2e-6, "what float32 leaves of sums that cancel"),
    (5e-4, "TF32 or float16 products"),
    (2e-2, "bfloat16, or autocast"),
)
"""Of errors up to this part of the output."""


@experiment(NAME, "numerics", "Does the error go if everything is computed in float64?", cost=FEW + 1)
def in_float64(subject: Subject) -> Findings:
    """A copy of the module with its weights and inputs in float64, which autocast and TF32 leave alone."""
    if subject.module is None or subject.calling is None:
        raise NotApplicable("only a module can be copied in float64")
    if subject.precision == torch.float64:
        raise NotApplicable("weights and inputs are float64 already")
    wide = {n: v.double() if _is_float(v) else v for n, v in subject.inputs.items()}
    after = subject.again(predict=subject.calling(copy.deepcopy(subject.module).double()), inputs=wide)
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = f"{name!r} is off by {_relative(best, subject.size(name))} and in float64 by {number(best.after, 2)}"
        advice = (
            "Compute in higher precision what loses it: torch.set_float32_matmul_precision('highest'), no autocast "
            "around geometry (distances, frames, sums over atoms), no .half() of coordinates."
        )
        yield finding(NAME, name, best, sentence, advice)


def _relative(compared: Compared, size: float) -> str:
    part = compared.before / size if size > 0 else float("inf")
    typical = next((words for limit, words in _TYPICAL if part <= limit), "")
    return f"{number(compared.before, 2)}, {part:.1g} of its size" + (f", typical of {typical}," if typical else ",")


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
