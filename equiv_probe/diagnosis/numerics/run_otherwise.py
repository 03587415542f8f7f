"""The same module run otherwise: as it was written before compilation, on the CPU, in float64."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from equiv_probe.diagnosis.comparison import Compared
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

COMPILATION, DEVICE, PRECISION = "compilation", "device", "low precision"
_TYPICAL = (
    (2e-6, "what float32 leaves of sums that cancel"),
    (5e-4, "TF32 or float16 products"),
    (2e-2, "bfloat16, or autocast"),
)
"""Of errors up to this part of the output."""


@experiment(COMPILATION, "numerics", "Does the error go without torch.compile?", cost=FEW + 1)
def compiled(subject: Subject) -> Findings:
    """The module that was compiled, run as it was written."""
    inner = getattr(subject.module, "_orig_mod", None)
    if not isinstance(inner, nn.Module):
        raise NotApplicable("the model is no compiled module")
    after = subject.again(predict=subject.by(inner))
    for name in subject.broken:
        sentence = f"{name!r} is more symmetric from the module as it was written than from torch.compile"
        advice = (
            "Report it with this input; until then leave the module out of torch.compile, or try other backends, "
            "torch._inductor.config.emulate_precision_casts, and dynamic=False."
        )
        yield finding(COMPILATION, name, subject.compare(name, after[name]), sentence, advice)


@experiment(DEVICE, "numerics", "Does the error go on the CPU?", cost=FEW + 1)
def other_device(subject: Subject) -> Findings:
    """A copy of a module that lives on a GPU, on the CPU: kernels, TF32 and atomics are other ones there."""
    if subject.module is None:
        raise NotApplicable("only a module can be moved to another device")
    if not any(parameter.is_cuda for parameter in subject.module.parameters()):
        raise NotApplicable("the model is on the CPU, which is the more exact of the two")
    module = copy.deepcopy(subject.module).cpu()
    inputs = {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in subject.inputs.items()}
    after = subject.again(predict=subject.by(module), inputs=inputs)
    for name in subject.broken:
        best = subject.compare(name, after[name].to(subject.values[name].device))
        after_, before = number(best.after, 2), number(best.before, 2)
        sentence = f"{name!r} is more symmetric on the CPU ({after_}) than on the GPU ({before})"
        advice = (
            "torch.backends.cuda.matmul.allow_tf32 = False, torch.backends.cudnn.allow_tf32 = False; then suspect "
            "fused or hand-written kernels."
        )
        yield finding(DEVICE, name, best, sentence, advice)


@experiment(PRECISION, "numerics", "Does the error go if everything is computed in float64?", cost=FEW + 1)
def in_float64(subject: Subject) -> Findings:
    """A copy of the module with its weights and inputs in float64, which autocast and TF32 leave alone."""
    if subject.module is None:
        raise NotApplicable("only a module can be copied in float64")
    if subject.precision == torch.float64:
        raise NotApplicable("weights and inputs are float64 already")
    wide = {
        n: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in subject.inputs.items()
    }
    after = subject.again(predict=subject.by(copy.deepcopy(subject.module).double()), inputs=wide)
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = f"{name!r} is off by {_relative(best, subject.size(name))} and in float64 by {number(best.after, 2)}"
        advice = (
            "Compute in higher precision what loses it: torch.set_float32_matmul_precision('highest'), no autocast "
            "around geometry (distances, frames, sums over atoms), no .half() of coordinates."
        )
        yield finding(PRECISION, name, best, sentence, advice)


def _relative(compared: Compared, size: float) -> str:
    part = compared.before / size if size > 0 else float("inf")
    typical = next((words for limit, words in _TYPICAL if part <= limit), "")
    return f"{number(compared.before, 2)}, {part:.1g} of its size" + (f", typical of {typical}," if typical else ",")
