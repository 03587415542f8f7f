"""Learned values for each voxel of the box, as embeddings of places, that are not the same in all orientations."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.grids.symmetric_operations import averaged
from equiv_probe.diagnosis.subject import FEW

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "embedded places"


@experiment(NAME, "grids", "Does the model hold values for each voxel that depend on the orientation?", cost=FEW)
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
        yield finding(NAME, name, subject.compare(name, after[name]), sentence, advice)


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
