"""What ASE calculators give, how it rotates, and the units it is reported in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.stress import voigt_6_to_full_3x3_stress

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.representations.representation import Representation


@dataclass(frozen=True)
class Quantity:
    """One calculator property.

    Args:
        name: ASE's.
        representation: of the values as :meth:`values` returns them.
        unit: reported.
        factor: from ASE's unit to the reported one.
        per_atom: whether the first axis runs over atoms.
        extensive: whether the value is divided by the number of atoms.
        full_tensor: whether Voigt components are unfolded to 3 × 3, so that the norm does not depend on the frame.
        has_zero: whether zero means something, so that a relative error does too.
    """

    name: str
    representation: Representation
    unit: str
    factor: float = 1.0
    per_atom: bool = False
    extensive: bool = False
    full_tensor: bool = False
    has_zero: bool = True

    def values(self, raw: Any, atoms: Atoms, *, lead: int = 0) -> NDArray[np.float64]:
        """A calculator's value in the reported unit and in the shape that ``representation`` rotates.

        Several values, of rotated copies, have their own leading axes: so many are ``lead``.
        """
        array = np.asarray(raw, dtype=np.float64)
        if self.full_tensor and array.shape[-1:] == (6,):
            array = np.asarray(voigt_6_to_full_3x3_stress(array))
        elif self.full_tensor and array.shape[-1:] == (9,):
            array = array.reshape(*array.shape[:-1], 3, 3)
        if self.name in QUANTITIES and self.representation == ep.scalar and array.ndim - lead > self.per_atom:
            raise EquivProbeError(
                f"{self.name} of shape {array.shape[lead:]}",
                "numbers, or a declaration of how it rotates (non-collinear moments are axial vectors)",
                f'schema=ep.Schema(inputs={{}}, outputs={{"{self.name}": ep.axial}})',
            )
        return np.asarray(array * (self.factor / (len(atoms) if self.extensive else 1)))

    def stacked(self, results: Sequence[Mapping[str, Any]], atoms: Atoms) -> Tensor:
        """:meth:`values` of several results, ``(C, *S)``."""
        raw = [one[self.name] for one in results]
        if len({np.shape(one) for one in raw}) > 1:  # stresses, symmetric or not
            return torch.from_numpy(np.stack([self.values(one, atoms) for one in raw]))
        return torch.from_numpy(self.values(np.stack(raw), atoms, lead=1))


QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("energy", ep.scalar, "meV/atom", 1e3, extensive=True, has_zero=False),
        Quantity("free_energy", ep.scalar, "meV/atom", 1e3, extensive=True, has_zero=False),
        Quantity("energies", ep.scalar, "meV", 1e3, per_atom=True, has_zero=False),
        Quantity("forces", ep.vector, "meV/Å", 1e3, per_atom=True),
        Quantity("stress", ep.tensor(2), "meV/Å³", 1e3, full_tensor=True),
        Quantity("stresses", ep.tensor(2), "meV/Å³", 1e3, per_atom=True, full_tensor=True),
        Quantity("dipole", ep.vector, "me·Å", 1e3),
        Quantity("charges", ep.scalar, "me", 1e3, per_atom=True),
        Quantity("magmom", ep.scalar, "mμB", 1e3),
        Quantity("magmoms", ep.scalar, "mμB", 1e3, per_atom=True),
    )
}


def adapted(chosen: Mapping[str, Quantity], sample: Mapping[str, NDArray[np.float64]]) -> dict[str, Quantity]:
    """The quantities as a first evaluation shows them: magnetic moments with three components are axial vectors."""
    found = dict(chosen)
    for name, axes in (("magmom", 1), ("magmoms", 2)):
        values = sample.get(name)
        if name in found and values is not None and values.ndim == axes and found[name].representation == ep.scalar:
            found[name] = replace(found[name], representation=ep.axial)
    return found


def size_of(values: NDArray[np.float64]) -> float:
    """Root mean square of all components."""
    return float(np.sqrt(np.mean(np.square(values))))


DEFAULTS = ("energy", "forces", "stress", "dipole", "charges", "magmoms")
"""Audited without being asked for, where the calculator says that it has them."""


def choose(
    implemented: Iterable[str], asked: Iterable[str] | None, schema: ep.Schema | None = None
) -> dict[str, Quantity]:
    """The quantities to audit, by ASE property name.

    Args:
        implemented: the calculator's ``implemented_properties``.
        asked: property names; None takes every default that is implemented.
        schema: representations of properties that ASE does not define, or that rotate otherwise than usual.

    Raises:
        EquivProbeError: a property that is not known, or that the calculator does not have.
    """
    implemented = list(implemented)
    declared: Mapping[str, Representation] = schema.outputs if schema else {}
    names = list(asked) if asked is not None else [*(n for n in DEFAULTS if n in implemented), *declared]
    chosen = {}
    for name in dict.fromkeys(names):
        if name in declared:
            known = QUANTITIES.get(name, Quantity(name, declared[name], ""))
            chosen[name] = replace(known, representation=declared[name], full_tensor=False)
        elif name in QUANTITIES:
            chosen[name] = QUANTITIES[name]
        else:
            raise EquivProbeError(
                f"property {name!r}",
                f"one of {', '.join(QUANTITIES)}, or a declared one{did_you_mean(name, QUANTITIES)}",
                f'schema=ep.Schema(inputs={{}}, outputs={{"{name}": ep.tensor(2)}})',
            )
        if implemented and name not in implemented and name not in declared:
            raise EquivProbeError(
                f"property {name!r}", f"what the calculator has: {', '.join(implemented)}", "properties=[...]"
            )
    if not chosen:
        raise EquivProbeError(f"implemented properties {implemented}", f"at least one of {', '.join(DEFAULTS)}")
    return chosen


def applies(quantity: Quantity, atoms: Atoms, *, asked: bool) -> bool:
    """Whether a structure has this quantity: stress only where all three directions are periodic, unless asked for."""
    if quantity.name in {"stress", "stresses"} and not asked:
        return bool(atoms.pbc.all())
    return True
