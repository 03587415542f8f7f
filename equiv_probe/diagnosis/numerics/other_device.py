"""The same module on the GPU and on the CPU."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "device"


@experiment(NAME, "numerics", "Does the error go on the CPU?", cost=FEW + 1)
def other_device(subject: Subject) -> Findings:
    """A copy of a module that lives on a GPU, on the CPU: kernels, TF32 and atomics are other ones there."""
    if subject.module is None or subject.calling is None:
        raise NotApplicable("only a module can be moved to another device")
    if not any(parameter.is_cuda for parameter in subject.module.parameters()):
        raise NotApplicable("the model is on the CPU, which is the more exact of the two")
    module = copy.deepcopy(subject.module).cpu()
    inputs = {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in subject.inputs.items()}
    after = subject.again(predict=subject.calling(module), inputs=inputs)
    for name in subject.broken:
        best = subject.compare(name, after[name].to(subject.values[name].device))
        after_, before = number(best.after, 2), number(best.before, 2)
        sentence = f"{name!r} is more symmetric on the CPU ({after_}) than on the GPU ({before})"
        advice = (
            "torch.backends.cuda.matmul.allow_tf32 = False, torch.backends.cudnn.allow_tf32 = False; then suspect "
            "fused or hand-written kernels."
        )
        yield finding(NAME, name, best, sentence, advice)
