"""Six components of a symmetric tensor in another order, or with a factor on the shears."""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.representations.representation import Voigt, tensor, voigt

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "Voigt order"
_ASE = "xx yy zz yz xz xy"
_FACTORS = {"": 1.0, ", with shears doubled": 2.0, ", with shears halved": 0.5, ", with shears times √2": 2**0.5}


@experiment(NAME, "conventions", "Are the components of a symmetric tensor in another order, or scaled?", cost=0)
def voigt_order(subject: Subject) -> Findings:
    """Read the six numbers in every usual order, with the usual factors on the shears."""
    names = [name for name in subject.broken if _is_symmetric(subject, name)]
    if not names:
        raise NotApplicable("no broken output is a symmetric tensor")
    for name in names:
        six, declared = _six(subject, name)
        before = _relative(voigt(declared).rotate_back(six, subject.rotations))
        tried = {}
        for order, (label, factor) in product(_orders(), _FACTORS.items()):
            if order == declared and factor == 1.0:
                continue
            # Relative to their size: a factor below one makes any error smaller.
            values = _relative(voigt(order).rotate_back(_unscaled(six, order, factor), subject.rotations))
            tried[order + label] = values
        label = min(tried, key=lambda one: float(tried[one].var(0).mean()))
        # In the units of the output: the same scale before and after.
        scale = subject.error(name) / float(before.var(0).mean().sqrt())
        best = subject.compare(name, scale * tried[label], scale * before, candidates=len(tried))
        sentence = f"{name!r} rotates as a symmetric tensor if its components are read as ({label})"
        advice = (
            f"Bring them into the order that was declared ({declared}); ASE's is {_ASE}, and engineering shears are "
            "twice the tensor's own."
        )
        yield finding(NAME, name, best, sentence, advice, exact=True)


def _is_symmetric(subject: Subject, name: str) -> bool:
    rep, values = subject.schema.outputs[name], subject.values[name]
    return isinstance(rep, Voigt) or (rep == tensor(2) and torch.allclose(values, values.mT, rtol=1e-4, atol=1e-12))


def _six(subject: Subject, name: str) -> tuple[Tensor, str]:
    """The raw numbers ``(K, …, 6)``, and the order in which they are declared."""
    rep, raw = subject.schema.outputs[name], subject.raw(name)
    if isinstance(rep, Voigt):
        return raw, rep.order
    return raw[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], _ASE


def _orders() -> list[str]:
    diagonal, shears = ("xx", "yy", "zz"), ("yz", "xz", "xy")
    first = [" ".join((*d, *s)) for d in permutations(diagonal) for s in permutations(shears)]
    return [*first, "xx xy xz yy yz zz", "xx xy yy xz yz zz"]


def _unscaled(six: Tensor, order: str, factor: float) -> Tensor:
    scale = [1 / factor if pair[0] != pair[1] else 1.0 for pair in order.split()]
    return six * six.new_tensor(scale)


def _relative(values: Tensor) -> Tensor:
    return values / values.square().mean().sqrt()
