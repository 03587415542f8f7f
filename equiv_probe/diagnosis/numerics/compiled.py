"""Compiled code that gives something else than the module it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "compilation"


@experiment(NAME, "numerics", "Does the error go without torch.compile?", cost=FEW + 1)
def compiled(subject: Subject) -> Findings:
    """The module that was compiled, run as it was written."""
    inner = getattr(subject.module, "_orig_mod", None)
    if not isinstance(inner, nn.Module) or subject.calling is None:
        raise NotApplicable("the model is no compiled module")
    after = subject.again(predict=subject.calling(inner))
    for name in subject.broken:
        sentence = f"{name!r} is more symmetric from the module as it was written than from torch.compile"
        advice = (
            "Report it with this input; until then leave the module out of torch.compile, or try other backends, "
            "torch._inductor.config.emulate_precision_casts, and dynamic=False."
        )
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice)
