"""Reference energies with another zero than the model's: another code's, another functional's, another set of atoms'.

Energies of two methods differ by a sum over atoms that means nothing, and may be thousands of times what the methods
really disagree about. In ``L_total`` it would be all there is, and the share of broken symmetry nothing. It is fitted,
by elements, to what the model's mean over rotations and the reference differ by, and taken off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.formula import Formula
from scipy.stats import f as fisher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

ENERGIES = ("energy", "free_energy")
LEVEL = 1e-4
"""By chance a fit explains so much once in so many."""
EXPLAINED = 0.1
"""What a fit leaves of the square: with less than another zero there is no need of one."""
PLAIN = 300.0
"""meV/atom between model and reference: less may be the model's own error."""


def relative_to_one_zero(
    records: Sequence[dict[str, Any]],
    loss: str,
    offsets: Mapping[str, float] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Records whose losses of energies do not count another zero, and notes that say so.

    Args:
        records: of the structures.
        loss: of the comparison with reference values.
        offsets: by element in eV, what the reference has more than the model; None fits it where the energies plainly
            have another zero, and an empty mapping takes them as they are.
    """
    found, notes = list(records), []
    for name in ENERGIES:
        having = [i for i, record in enumerate(found) if "residual" in _labelled(record, name)]
        if not having or offsets == {}:
            continue
        shares, elements = _composition([found[i]["formula"] for i in having])
        residual = np.array([_labelled(found[i], name)["residual"] for i in having])
        fit = _given(shares, elements, residual, offsets) if offsets else _fitted(shares, elements, residual)
        if fit is None:
            if abs(residual.mean()) > PLAIN and loss == "mse":
                notes.append(
                    f"the reference {name} is off by {abs(residual.mean()):.3g} meV/atom on average: if it has another "
                    "zero than the model, its loss and share mean nothing; give the difference by element, "
                    "reference_offsets={'H': …}, in eV"
                )
            continue
        left, weight, words = fit
        if loss != "mse":
            notes.append(f"the reference {name} has another zero than the model ({words}), which {loss!r} counts")
            continue
        notes.append(f"the loss of the {name} is relative to one zero for model and reference: {words} taken off")
        for place, i in enumerate(having):
            found[i] = _shifted(found[i], name, residual[place], left[place], weight[place])
    return found, notes


def _labelled(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return record["quantities"].get(name, {}).get("labelled") or {}


def _composition(formulas: Sequence[str]) -> tuple[Vector, list[str]]:
    """Fractions of the elements ``(n, E)``."""
    counts = [Formula(one).count() for one in formulas]
    elements = sorted({symbol for one in counts for symbol in one})
    shares = [[one.get(element, 0) / sum(one.values()) for element in elements] for one in counts]
    return np.array(shares), elements


def _given(
    shares: Vector, elements: Sequence[str], residual: Vector, offsets: Mapping[str, float]
) -> tuple[Vector, Vector, str]:
    shift = shares @ np.array([1e3 * offsets.get(element, 0.0) for element in elements])
    given = ", ".join(f"{element} {value:.4g}" for element, value in offsets.items())
    return residual + shift, np.ones(len(residual)), f"the given {given} eV"


def _fitted(shares: Vector, elements: Sequence[str], residual: Vector) -> tuple[Vector, Vector, str] | None:
    """Residuals with the fit taken off, how much of each is left to chance by it, and words; None if none is needed.

    The same for all atoms where there are too few structures for elements. A fit takes part of each residual's chance
    along: what is left is ``1 − h`` of its square on average, with the leverage h of the structure.
    """
    for design, names in ((shares, list(elements)), (np.ones((len(residual), 1)), ["every atom"])):
        rank = int(np.linalg.matrix_rank(design))
        freedom = len(residual) - rank
        if freedom < 2:
            continue
        solution = np.linalg.lstsq(design, residual, rcond=None)[0]
        left = residual - design @ solution
        square, before = float(left @ left), float(residual @ residual)
        ratio = (before - square) / rank / max(square / freedom, 1e-300)
        if ratio < fisher.isf(LEVEL, rank, freedom) or square * len(residual) / freedom > EXPLAINED * before:
            continue
        if before < len(residual) * PLAIN**2:  # a model may be as far off
            return None
        leverage = np.einsum("ij,ji->i", design, np.linalg.pinv(design))
        words = ", ".join(f"{name} {-value / 1e3:.4g}" for name, value in zip(names, solution, strict=True))
        return left, np.clip(1 - leverage, 0.0, 1.0), f"fitted on {len(residual)} structures, {words} eV"
    return None


def _shifted(record: dict[str, Any], name: str, before: float, after: float, chance: float) -> dict[str, Any]:
    """The record with the losses of an energy as they are when its residual is another; none if nothing is left."""
    values = record["quantities"][name]
    old = values["labelled"]
    if chance < 1e-6:  # the fit has taken all: this structure alone has one of the elements
        new = None
    else:
        more = after**2 / chance - before**2
        new = {**old, "total": old["total"] + more, "mean": old["mean"] + more, "residual": after}
    return {**record, "quantities": {**record["quantities"], name: {**values, "labelled": new}}}
