"""Any fixed change of an output's components: turned axes, a component that is scaled, a basis of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy.linalg import eigh

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "components changed"
MOST = 6
"""Components of an output: a matrix of them has 36 entries to be found."""
CONDITION = 30.0
"""Between the largest and the smallest stretch of a matrix; beyond it, what it leaves out is what was broken."""


@experiment(NAME, "conventions", "Is there any fixed matrix that makes the components rotate as they should?", cost=0)
def fixed_change(subject: Subject) -> Findings:
    """Find the matrix ``M`` for which ``ρ(g)⁻¹ M y`` varies least, beside its size.

    Variance and size are quadratic in M: the best one is the lowest eigenvector of the one beside the other. It
    is judged at the half of the rotations that it was not fitted to.
    """
    names = [name for name in subject.broken if 3 <= _components(subject, name) <= MOST]
    if not names:
        raise NotApplicable(f"no broken output has three to {MOST} components")
    half = len(subject.rotations) // 2
    for name in names:
        rep, raw = subject.schema.outputs[name], subject.raw(name)
        size = _components(subject, name)
        flat = raw.reshape(len(raw), -1, size)
        inverse = torch.linalg.inv(rep.matrix(subject.rotations).to(flat))
        matrix = _best(flat[:half], inverse[:half])
        stretch = torch.linalg.svdvals(matrix)
        if float(stretch[0]) > CONDITION * float(stretch[-1]):
            continue
        matrix = matrix / stretch.square().mean().sqrt()
        back = torch.einsum("kij,jl,kal->kai", inverse[half:], matrix, flat[half:])
        own = subject.values[name][half:].reshape(back.shape)
        scaled = back * (own.square().mean() / back.square().mean()).sqrt()
        best = subject.compare(name, scaled, own)
        sentence = f"{name!r} rotates as it should if its components are multiplied by a fixed matrix, {_words(matrix)}"
        advice = (
            "Undo that matrix where the output is made: axes that were turned once, a normalisation of each component "
            "by its own standard deviation, another basis of the same degree."
        )
        yield finding(NAME, name, best, sentence, advice, exact=True)


def _components(subject: Subject, name: str) -> int:
    rep = subject.schema.outputs[name]
    return 0 if rep.is_affine or rep.is_whole else int(torch.Size(rep.event_shape).numel())


def _best(values: Tensor, inverse: Tensor) -> Tensor:
    """The matrix ``(d, d)`` from values ``(K, A, d)`` and inverse representations ``(K, d, d)``."""
    size = values.shape[-1]
    # ρ⁻¹ M y is linear in M: as (K, A, d, d²), with M's entries row by row.
    linear = torch.einsum("kij,kal->kaijl", inverse, values).reshape(*values.shape, size * size)
    about = linear - linear.mean(0)
    varying, whole = (torch.einsum("kaim,kain->mn", one, one).cpu().double().numpy() for one in (about, linear))
    ridge = 1e-12 * whole.trace() * torch.eye(size * size, dtype=torch.float64).numpy()
    _, vectors = eigh(varying, whole + ridge, subset_by_index=[0, 0])
    return torch.from_numpy(vectors[:, 0]).reshape(size, size).to(values)


def _words(matrix: Tensor) -> str:
    """What a matrix does, its overall size and sign aside."""
    stretch = torch.linalg.svdvals(matrix)
    if float(stretch[0] - stretch[-1]) < 1e-2 * float(stretch[0]) and matrix.shape == (3, 3):
        turned = matrix * torch.linalg.det(matrix).sign()
        angle = torch.rad2deg(torch.arccos(((turned.trace() / stretch.mean() - 1) / 2).clamp(-1, 1)))
        return f"a rotation by {number(float(angle), 2)}°, up to a sign"
    off = matrix - torch.diag(matrix.diagonal())
    if float(off.norm()) < 1e-2 * float(matrix.norm()):
        factors = matrix.diagonal() / matrix.diagonal()[0]
        return f"diagonal: the components times ({', '.join(f'{number(float(f), 2)}' for f in factors)})"
    return f"which stretches by {number(float(stretch[0] / stretch[-1]), 2)} at most"
