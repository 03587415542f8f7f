"""Degrees where radians are expected, or the other way round, inside of a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.estimation.verdict import AMPLIFIED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "units of angle"
_READ = {
    "degrees and taken for radians": math.pi / 180,
    "radians and taken for degrees": 180 / math.pi,
}


class _Rescaled(TorchFunctionMode):
    """Sine, cosine and tangent of a multiple of their argument; counts how often they are called."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        if getattr(func, "__name__", "") in {"sin", "cos", "tan"} and args:
            self.calls += 1
            args = (args[0] * self.factor, *args[1:])
        return func(*args, **(kwargs or {}))


@experiment(
    NAME, "conventions", "Are angles inside of it in degrees where radians are expected, or otherwise?", cost=2 * FEW
)
def units_of_angle(subject: Subject) -> Findings:
    """Sine, cosine and tangent of all arguments in the other unit.

    Where they are of invariants, as in radial functions, that changes nothing. A smaller argument also makes a smaller
    error, so it must go altogether.
    """
    for words, factor in _READ.items():
        mode = _Rescaled(factor)
        after = _evaluated(subject, mode)
        if not mode.calls:
            raise NotApplicable("no sine, cosine or tangent is seen in it")
        for name in subject.broken:
            best = subject.compare(name, after[name], candidates=len(_READ))
            if best.after > AMPLIFIED * subject.rounding(name):
                continue
            sentence = f"{name!r} rotates as it should if the arguments of sine and cosine are in {words}"
            advice = "Convert once: torch.deg2rad where angles come in, and radians from there on."
            yield finding(NAME, name, best, sentence, advice, exact=True)


def _evaluated(subject: Subject, mode: _Rescaled) -> Mapping[str, Tensor]:
    return subject.again(predict=under(lambda: mode, subject.predict))
