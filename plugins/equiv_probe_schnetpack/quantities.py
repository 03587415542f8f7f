"""How SchNetPack's quantities rotate, and whose they are: by its names and by the modules that predict them.

Nothing here imports SchNetPack before somebody else has.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from equiv_probe.representations import representation as reps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from equiv_probe.representations.representation import Representation


@dataclass(frozen=True)
class Quantity:
    """How one tensor of a batch rotates, and what its first axis counts."""

    representation: Representation
    per: Literal["structure", "atom", "pair", "far pair"]


INPUTS: dict[str, Quantity] = {
    "_positions": Quantity(reps.point, "atom"),
    "_cell": Quantity(reps.vector, "structure"),  # three vectors as rows
    "_offsets": Quantity(reps.vector, "pair"),
    "_offsets_lr": Quantity(reps.vector, "far pair"),
    "_Rij": Quantity(reps.vector, "pair"),
    "_Rij_lr": Quantity(reps.vector, "far pair"),
    "electric_field": Quantity(reps.vector, "structure"),
    "magnetic_field": Quantity(reps.axial, "structure"),
    "nuclear_magnetic_moments": Quantity(reps.axial, "atom"),
}
"""What a model may be given; only positions are always there."""

PROPERTIES: dict[str, Quantity] = {
    "energy": Quantity(reps.scalar, "structure"),
    "forces": Quantity(reps.vector, "atom"),
    "stress": Quantity(reps.tensor(2), "structure"),
    "dipole_moment": Quantity(reps.vector, "structure"),
    "polarizability": Quantity(reps.tensor(2), "structure"),
    "total_charge": Quantity(reps.scalar, "structure"),
    "spin_multiplicity": Quantity(reps.scalar, "structure"),
    "partial_charges": Quantity(reps.scalar, "atom"),
    "masses": Quantity(reps.scalar, "atom"),
    "dipole_derivatives": Quantity(reps.tensor(2), "atom"),
    "polarizability_derivatives": Quantity(reps.tensor(3), "atom"),
    "shielding": Quantity(reps.tensor(2), "atom"),
}
"""What is predicted or is a label, under SchNetPack's own names (`schnetpack.properties`)."""

ABOUT_THE_ORIGIN = ("DipoleMoment", "Polarizability")
"""Modules whose outputs are sums over positions: of a net charge, they rotate about the origin alone."""


def predicted(network: nn.Module) -> dict[str, Quantity]:
    """Quantities that a model's own output modules predict, whatever their keys are called.

    Args:
        network: usually a `schnetpack.model.AtomisticModel`; output modules that are not SchNetPack's are passed over.

    Returns:
        By key; empty where SchNetPack is not imported.
    """
    found: dict[str, Quantity] = {}
    if "schnetpack.atomistic" in sys.modules:
        for module in network.modules():
            found.update(_outputs(module))
    return found


def quantity(network: nn.Module, name: str) -> Quantity | None:
    """How one output of a model rotates: by the module that predicts it, or by its name; None if neither is known."""
    return predicted(network).get(name) or PROPERTIES.get(name)


def finds_pairs(network: nn.Module) -> bool:
    """Whether a model itself computes the vectors between neighbours, so that such in its input are left over."""
    distances = _class("PairwiseDistances")
    return distances is not None and any(isinstance(module, distances) for module in network.modules())


def about_the_origin(network: nn.Module) -> bool:
    """Whether a model predicts something that depends on where the origin is."""
    kinds = tuple(kind for kind in map(_class, ABOUT_THE_ORIGIN) if kind is not None)
    return any(isinstance(module, kinds) for module in network.modules())


def _class(name: str) -> type | None:
    found = getattr(sys.modules.get("schnetpack.atomistic"), name, None)
    return found if isinstance(found, type) else None


def _outputs(module: Any) -> Iterator[tuple[str, Quantity]]:
    """What one of SchNetPack's output modules writes; the first of its classes that is known says it."""
    name = next((c.__name__ for c in type(module).__mro__ if _class(c.__name__) is c), "")
    if name == "Atomwise":
        yield module.output_key, Quantity(reps.scalar, "structure" if module.aggregation_mode else "atom")
        if module.per_atom_output_key is not None:
            yield module.per_atom_output_key, Quantity(reps.scalar, "atom")
    elif name == "DipoleMoment":
        yield module.dipole_key, Quantity(reps.scalar if module.predict_magnitude else reps.vector, "structure")
        yield module.charges_key, PROPERTIES["partial_charges"]
    elif name == "Polarizability":
        yield module.polarizability_key, PROPERTIES["polarizability"]
    elif name == "Forces":
        yield module.force_key, PROPERTIES["forces"]
        yield module.stress_key, PROPERTIES["stress"]
    elif name == "Response":
        yield from ((key, PROPERTIES[p]) for p, key in module.map_properties.items() if p in PROPERTIES)
    elif name in {"Aggregation", "EnergyCoulomb", "EnergyEwald", "ZBLRepulsionEnergy"}:
        yield module.output_key, PROPERTIES["energy"]
