"""Places, numbers and rotations in the sentences of an assertion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel


def where(subject: RotatedModel, place: Sequence[int], shape: Sequence[int]) -> str:
    """Structure and atom of a place in an output."""
    if not place:
        return ""
    schema, inputs = subject.schema, subject.inputs
    if schema.batch is not None:
        index = inputs[schema.batch]
        if shape[0] == len(index):
            return f"at structure {int(index[place[0]])}, atom {place[0]} of the batch, "
        return f"at structure {place[0]}, "
    if any(rep.is_affine and inputs[n].ndim == 2 for n, rep in schema.inputs.items()):
        return f"at atom {place[0]}, "
    return f"at structure {place[0]}, " + (f"atom {place[1]}, " if len(place) > 1 else "")


def entry(value: Tensor) -> str:
    """The numbers of one value, up to nine."""
    if value.numel() > 9:
        return f"{number(float(value.flatten()[0]))}, …"
    numbers = [number(float(x)) for x in value.flatten()]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"


def in_words(rotation: Tensor) -> str:
    """An orthogonal matrix as an angle about an axis."""
    determinant = float(torch.linalg.det(rotation))
    proper = rotation if determinant > 0 else -rotation
    angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(proper.trace()) - 1) / 2))))
    # The axis is the eigenvector of the eigenvalue one: of the symmetric part, the largest eigenvalue.
    axis = torch.linalg.eigh((proper + proper.mT).double())[1][:, -1]
    skew = torch.stack([proper[2, 1] - proper[1, 2], proper[0, 2] - proper[2, 0], proper[1, 0] - proper[0, 1]])
    axis = axis if float(skew.double() @ axis) >= 0 else -axis
    about = f"rotated by {angle:.0f}° about ({', '.join(f'{x:.2f}' for x in axis.tolist())})"
    if determinant > 0:
        return about
    return "inverted" if angle < 1e-3 else f"inverted and {about}"


def beside_size(value: float, size: float) -> str:
    """A difference beside the size of the output."""
    percent = 100 * value / size if size > 0 else math.inf
    shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
    return f"{number(value)} ({shown} % of its size, {number(size)})" if size > 0 else f"{number(value)} (of nothing)"
