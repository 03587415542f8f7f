"""What of a network of grids has a direction: kernels, windows that do not fit the box, values for each voxel."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.grids.symmetric_operations import Symmetric, averaged
from equiv_probe.diagnosis.subject import FEW

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

KERNELS, WINDOWS = "kernels", "windows"
NAMED = 3
"""Operations that are named; the others are counted."""
PLACES = "embedded places"


@experiment(KERNELS, "grids", "Does the error go if kernels are averaged over the rotations of the cube?", cost=FEW)
def kernels(subject: Subject) -> Findings:
    """Give every convolution the average of its kernel, which is right for scalar channels."""
    after, changed = _evaluated(subject, Symmetric(kernels=True))
    if not changed:
        raise NotApplicable("no convolution in three dimensions has a kernel with a direction")
    for name, values in after.items():
        sentence = f"{name!r} respects rotations if the kernels have no direction: {_listed(changed)}"
        advice = (
            "A convolution respects the cube's rotations only if its kernels do, or if channels rotate with it (escnn, "
            "e3nn). Build on such layers, train on all 24 rotations (ep.augment), or average over them where the model "
            "is used (ep.Twirled)."
        )
        yield finding(KERNELS, name, subject.compare(name, values), sentence, advice)


@experiment(WINDOWS, "grids", "Do strides, windows and padding treat both ends of the box alike?", cost=2 * FEW)
def windows(subject: Subject) -> Findings:
    """Count windows from both ends of the box; as they are, and with kernels that have no direction either."""
    after, changed = _evaluated(subject, Symmetric(windows=True))
    if not changed:
        raise NotApplicable("no convolution, pooling or padding treats the ends of the box differently")
    both, with_kernels = _evaluated(subject, Symmetric(kernels=True, windows=True))
    alone, _ = _evaluated(subject, Symmetric(kernels=True)) if with_kernels != changed else ({}, None)
    for name in subject.broken:
        tried = [subject.compare(name, values[name]) for values in (after, both) if name in values]
        if not tried:
            continue
        best = max(tried, key=lambda one: one.part)
        together = best is not tried[0] and name in alone
        if together and subject.compare(name, alone[name]).part > 1 - 2 * (1 - best.part):
            continue  # the kernels are all of it
        sentence = (
            f"{name!r} respects rotations if windows are counted from both ends of the box"
            + (", and kernels have no direction" if together else "")
            + f": {_listed(changed)}"
        )
        advice = (
            "Choose sizes so that the last window ends where the box does: (size + 2 padding − dilation (kernel − 1) − "
            "1) a multiple of the stride, odd kernels, and as much padding before as behind."
        )
        yield finding(WINDOWS, name, best, sentence, advice)


def _evaluated(subject: Subject, mode: Symmetric) -> tuple[dict[str, Tensor], list[str]]:
    """Broken outputs under a mode, as large as they were, and what it changed; without those that vanish."""
    after = subject.again(predict=under(lambda: mode, subject.predict))
    scales = {name: (root(subject.few(name)), root(after[name])) for name in subject.broken}
    found = {name: after[name] * (was / now) for name, (was, now) in scales.items() if now > 1e-3 * was}
    return found, list(mode.changed)


def _listed(changed: list[str]) -> str:
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return ", ".join(changed[:NAMED]) + more


@experiment(PLACES, "grids", "Does the model hold values for each voxel that depend on the orientation?", cost=FEW)
def embedded_places(subject: Subject) -> Findings:
    """Average tensors ``(…, D, D, D)`` that are no kernels over the rotations of the cube."""
    if subject.module is None:
        raise NotApplicable("such values are seen in modules only")
    module, names = copy.deepcopy(subject.module), []
    for path, part in module.named_modules():
        if not isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
            own = [*part.named_parameters(path, recurse=False), *part.named_buffers(path, recurse=False)]
            names += [name for name, value in own if _is_averaged(value)]
    if not names:
        raise NotApplicable("the model holds no values for each voxel of a cube that depend on the orientation")
    after = subject.again(predict=subject.by(module))
    for name in subject.broken:
        sentence = f"{name!r} respects rotations if what the model holds for each voxel does: {', '.join(names)}"
        advice = "Embed what does not depend on the orientation, as the distance from the centre of the box."
        yield finding(PLACES, name, subject.compare(name, after[name]), sentence, advice)


def _is_averaged(value: Tensor) -> bool:
    """Whether a tensor was replaced by another: its average over the rotations of the cube."""
    if value.ndim < 3 or len(set(value.shape[-3:])) > 1 or value.shape[-1] < 2 or not value.is_floating_point():
        return False
    found = averaged(value.detach())
    if torch.allclose(found, value):
        return False
    with torch.no_grad():
        value.copy_(found)
    return True
