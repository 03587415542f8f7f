"""At which angular degree the error sits, and what that is typical of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.experiment import experiment, require_any_rotation
from equiv_probe.diagnosis.finding import EXPLAINED, Finding
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import haar

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "angular degree"
MORE = 36
"""Rotations beside those that were evaluated: 60 for the 35 functions of degree up to two."""
_TYPICAL = {
    1: "one direction in the laboratory: a field, a bias, an input that is not centred",
    2: "axes that are treated unequally, as scaled or mixed by a matrix that is no rotation",
}
_ADVICE = {
    1: "Look for a constant vector that enters somewhere, and for positions that are not counted from the centroid.",
    2: "Look at the first layers that take coordinates: a linear layer, a normalisation or an embedding of x, y and z.",
    3: "Nothing in the architecture seems to respect rotation. Train on random rotations (ep.augment), average over "
    "orientations where it is used (ep.Twirled, TwirledCalculator), or build on layers that are equivariant.",
}


@experiment(NAME, "spectrum", "Does the error depend on the orientation in a simple way?", cost=MORE)
def angular_degree(subject: Subject) -> Findings:
    """Fit the orbit by Wigner functions of degree up to one, and up to two.

    With so few rotations least squares tell more than averages over pairs of them: an orbit that has no higher degrees
    is fitted exactly. What is left is counted per degree of freedom.
    """
    require_any_rotation(subject)
    more = haar(MORE, torch.Generator().manual_seed(subject.seed + 2))
    further = subject.again(rotations=more)
    rotations = torch.cat([subject.rotations, more])
    for name in subject.broken:
        values = torch.cat([subject.values[name], further[name]]).reshape(len(rotations), -1)
        total = float(values.var(0).mean())
        left = {degree: _left(values, _wigner(rotations, degree).to(values)) for degree in (1, 2)}
        parts = {degree: max(0.0, 1 - rest / total) for degree, rest in left.items()}
        degree = 1 if parts[1] > EXPLAINED else 2
        sentence = (
            f"{number(100 * parts[degree], 2)} % of the squared error of {name!r} is of angular degree l = 1"
            + (" or 2" if degree == 2 else "")
            + f", typical of {_TYPICAL[degree]}"
        )
        advice = _ADVICE[degree if parts[2] >= EXPLAINED else 3]
        if parts[2] < EXPLAINED:
            shares = (parts[1], max(0.0, parts[2] - parts[1]), 1 - max(parts.values()))
            one, two, more_ = (f"{100 * share:.0f} %" for share in shares)
            sentence = (
                f"of the squared error of {name!r} {one} are of angular degree l = 1, {two} of l = 2, and {more_} of "
                "higher ones: the orientation enters in no simple way, as in a network that was not built to respect it"
            )
        error = subject.error(name)
        yield Finding(
            NAME, name, sentence, advice, "character", error, error * (1 - parts[degree]) ** 0.5, parts[degree]
        )


def _left(values: Tensor, functions: Tensor) -> float:
    """Mean square that least squares leave of values ``(K, D)``, per degree of freedom."""
    fitted = functions @ torch.linalg.lstsq(functions, values).solution
    return float((values - fitted).square().sum() / (values.shape[1] * (len(values) - functions.shape[1])))


def _wigner(rotations: Tensor, degree: int) -> Tensor:
    """Functions on rotations ``(K, 3, 3)`` that span the degrees up to one or two, ``(K, 10)`` or ``(K, 35)``."""
    parts = [torch.ones(len(rotations), 1, dtype=rotations.dtype), rotations.flatten(1)]
    if degree == 2:
        basis = _traceless().to(rotations)
        parts.append(torch.einsum("mij,kia,kjb,nab->kmn", basis, rotations, rotations, basis).flatten(1))
    return torch.cat(parts, 1)


def _traceless() -> Tensor:
    """Symmetric matrices without trace, ``(5, 3, 3)``."""
    pairs = torch.zeros(5, 3, 3, dtype=torch.float64)
    for place, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        pairs[place, i, j] = pairs[place, j, i] = 1.0
    pairs[3] = torch.diag(torch.tensor([1.0, -1.0, 0.0]))
    pairs[4] = torch.diag(torch.tensor([-1.0, -1.0, 2.0]))
    return pairs
