"""Rotating an ASE structure: positions, cell, momenta, magnetic moments and constraints, together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import constraints as ase_constraints
from ase.cell import Cell

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.representation import Fixed
from equiv_probe.rotations.haar import haar
from equiv_probe_ase.structures.copying import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from ase.constraints import FixConstraint
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

# Constraints that say nothing about a direction in the laboratory.
_INVARIANT = {
    *("FixAtoms", "FixBondLengths", "FixBondLength", "FixLinearTriatomic", "FixInternals", "FixCom", "FixSubsetCom"),
    *("FixScaled", "FixSymmetry", "FixScaledParametricRelations"),  # in fractional coordinates
    *("ExternalForce", "MirrorForce", "MirrorTorque"),  # along bonds
}
_FIELDS = {
    **dict.fromkeys(("external_field", "electric_field", "efield", "e_field"), ep.vector),
    **dict.fromkeys(("magnetic_field", "bfield", "b_field"), ep.axial),
}
_OWN = {"positions", "cell", "celldisp", "momenta"}
"""What rotates and is no further arrow: the structure itself, and what models do not read."""


@dataclass(frozen=True)
class Rotator:
    """One structure, ready to be rotated about its centre.

    Args:
        atoms: the structure; never changed.
        center: ``"centroid"`` (the default), ``"origin"``, ``"cell"`` (the middle of the cell) or a point (Å). The cell
            rotates about the origin of its vectors, so fractional coordinates shift together unless the centre is
            ``"origin"``: a translation, which periodic models do not see.
        extra: representations of further ``atoms.arrays`` or ``atoms.info`` entries that the calculator reads. External
            fields under their usual names rotate without it; ``ep.fixed`` leaves one as it is.
    """

    atoms: Atoms
    center: str | Sequence[float] = "centroid"
    extra: Mapping[str, Representation] = field(default_factory=dict)

    def pivot(self) -> NDArray[np.float64]:
        """The fixed point of the rotation, ``(3,)`` in Å."""
        if not isinstance(self.center, str):
            point = np.asarray(self.center, dtype=float)
            if point.shape != (3,):
                raise EquivProbeError(f"center={self.center!r}", "three coordinates in Å")
            return point
        if self.center == "origin":
            return np.zeros(3)
        if self.center == "cell":
            if self.atoms.cell.rank == 0:
                raise EquivProbeError('center="cell" for a structure without a cell', "a cell", 'center="centroid"')
            return np.asarray(self.atoms.cell.array.sum(0) / 2)
        if self.center != "centroid":
            raise EquivProbeError(f"center={self.center!r}", '"centroid", "origin", "cell" or a point')
        return np.asarray(self.atoms.positions.mean(0))

    def copies(self, rotations: Tensor) -> list[Atoms]:
        """Rotated copies, one per rotation ``(K, 3, 3)``; nothing is wrapped or re-standardised."""
        return self._copies(rotations, back_again=False, precision=torch.float64)

    def round_trips(self, rotations: Tensor, precision: torch.dtype) -> list[Atoms]:
        """Copies that differ from the structure by rounding only: rotated, rounded to a precision, and rotated back.

        Back in float64, so that they are not on the grid of the model's numbers: there a model's own rounding would
        hardly ever see them, where rotated copies are rounded in every coordinate.
        """
        return self._copies(rotations, back_again=True, precision=precision)

    def _copies(self, rotations: Tensor, *, back_again: bool, precision: torch.dtype) -> list[Atoms]:
        rotated = {}
        for name, (values, representation) in self._quantities().items():
            low = torch.as_tensor(values, dtype=torch.float64).to(precision)
            pivot = torch.as_tensor(self.pivot()).to(precision)
            stack = representation.rotate(low[None].expand(len(rotations), *low.shape), rotations, pivot)
            if back_again:
                stack = representation.rotate_back(stack.double(), rotations, pivot.double())
            rotated[name] = stack.double().contiguous().numpy()  # expanded scalars would share memory
        free = copied(self.atoms)
        free.set_constraint()
        copies = [_with(free, rotated, k) for k in range(len(rotations))]
        if self.atoms.constraints:
            for copy, g in zip(copies, rotations, strict=True):
                by = np.eye(3) if back_again else g.numpy()
                copy.set_constraint(rotated_constraints(self.atoms.constraints, by, self.pivot())[0])
        return copies

    def _quantities(self) -> dict[str, tuple[NDArray[np.float64], Representation]]:
        """Everything that rotates, with its representation, by the name it is put back under."""
        atoms = self.atoms
        found: dict[str, tuple[NDArray[np.float64], Representation]] = {
            "positions": (atoms.positions, ep.point),
            "cell": (atoms.cell.array, ep.vector),
        }
        if atoms.get_celldisp().any():
            found["celldisp"] = (np.asarray(atoms.get_celldisp(), dtype=float).reshape(3), ep.vector)
        if "momenta" in atoms.arrays:
            found["momenta"] = (atoms.arrays["momenta"], ep.vector)
        moments = atoms.arrays.get("initial_magmoms")
        if moments is not None and moments.ndim == 2:
            found["initial_magmoms"] = (moments, ep.axial)  # non-collinear; collinear moments are numbers
        for name, representation in {**_fields(atoms), **self.extra}.items():
            source = atoms.arrays if name in atoms.arrays else atoms.info
            if name not in source:
                raise EquivProbeError(f"no {name!r} in the structure's arrays or info", "the schema's input")
            if isinstance(representation, Fixed):
                continue
            found[name] = (np.asarray(source[name], dtype=float), representation)
        return found

    def arrows_beside(self) -> NDArray[np.float64]:
        """What else has a direction ``(B, 3)``: fields, moments, and where structures are that rotate about a point."""
        apart = self.atoms.positions.mean(0) - self.pivot() if not self.atoms.pbc.any() else np.zeros(3)
        others = [values for name, (values, rep) in self._quantities().items() if name not in _OWN and rep.event_shape]
        arrows = [apart, *(values for values in others if np.shape(values)[-1:] == (3,))]
        return np.concatenate([values.reshape(-1, 3) for values in arrows])


def _fields(atoms: Atoms) -> dict[str, Representation]:
    """External fields among the arrays and entries of a structure, by their usual names."""
    found = {**atoms.info, **atoms.arrays}
    named = {name: _FIELDS.get(str(name).lower()) for name in found}
    return {name: rep for name, rep in named.items() if rep is not None and np.shape(found[name])[-1:] == (3,)}


def _with(free: Atoms, rotated: Mapping[str, NDArray[np.float64]], k: int) -> Atoms:
    """A copy of a structure without constraints, with what rotates as it is after the k-th rotation."""
    copy = copied(free)
    for name, values in rotated.items():
        if name == "cell":
            copy.cell.array[:] = values[k]
        elif name == "celldisp":
            copy.set_celldisp(values[k].reshape(free.get_celldisp().shape))
        else:
            (copy.arrays if name in copy.arrays else copy.info)[name] = values[k]
    return copy


def rotated_constraints(
    constraints: Sequence[FixConstraint], rotation: NDArray[np.float64], pivot: NDArray[np.float64]
) -> tuple[list[FixConstraint], list[str]]:
    """Rotate constraints with the atoms, by ``(3, 3)`` about the pivot ``(3,)`` in Å.

    Returns:
        The rotated constraints, and the class names of those that are not known and were left out of the copies.
        (Audits measure the model's raw forces, on which constraints do not act.)
    """
    rotated: list[FixConstraint] = []
    unknown: list[str] = []
    for constraint in constraints:
        name = type(constraint).__name__
        if name in _INVARIANT:
            rotated.append(_own_copy(constraint, rotation))
        elif name in {"FixedPlane", "FixedLine"}:
            rotated.append(type(constraint)(constraint.index, rotation @ constraint.dir))
        elif name == "FixedMode":
            mode = constraint.mode.reshape(-1, 3) @ rotation.T
            rotated.append(ase_constraints.FixedMode(mode))
        elif name == "FixCartesian":
            rotated.extend(_rotated_cartesian(constraint, rotation))
        elif name == "Hookean":
            rotated.append(_rotated_hookean(constraint, rotation, pivot))
        else:
            unknown.append(name)
    return rotated, unknown


def _own_copy(constraint: FixConstraint, rotation: NDArray[np.float64]) -> FixConstraint:
    """A copy that shares no state; FixInternals remembers the cell of its first use, and that rotates."""
    own = deepcopy(constraint)
    for internal in getattr(own, "constraints", []):
        if internal.cell is not None:
            internal.cell = Cell(np.asarray(internal.cell) @ rotation.T)
    return own


def _rotated_cartesian(constraint: FixConstraint, rotation: NDArray[np.float64]) -> list[FixConstraint]:
    """Fixed Cartesian components are not along the axes after a rotation: planes, lines and points say the same."""
    fixed = np.asarray(constraint.mask, dtype=bool)
    index = constraint.index
    if fixed.all():
        return [ase_constraints.FixAtoms(index)]
    if fixed.sum() == 1:
        return [ase_constraints.FixedPlane(index, rotation[:, fixed][:, 0])]
    if fixed.sum() == 2:
        return [ase_constraints.FixedLine(index, rotation[:, ~fixed][:, 0])]
    return []


def _rotated_hookean(
    constraint: FixConstraint, rotation: NDArray[np.float64], pivot: NDArray[np.float64]
) -> FixConstraint:
    """A spring between atoms does not rotate; its anchor point or plane does."""
    stored = constraint.todict()["kwargs"]
    if constraint._type == "point":
        stored["a2"] = rotation @ (np.asarray(constraint.origin) - pivot) + pivot
    elif constraint._type == "plane":
        a, b, c, d = constraint.plane
        normal = rotation @ np.array([a, b, c])
        # The plane n·x + d = 0 rotates about the pivot: n'·x + d + (n − n')·pivot with n' = g n.
        stored["a2"] = [*normal, d + float((np.array([a, b, c]) - normal) @ pivot)]
    return ase_constraints.Hookean(**stored)


def rotated_at_random(atoms: Atoms, seed: int) -> Atoms:
    """A copy at one Haar-distributed rotation about its centroid, which follows from ``seed``."""
    (copy,) = Rotator(atoms).copies(haar(1, torch.Generator().manual_seed(seed)))
    return copy
