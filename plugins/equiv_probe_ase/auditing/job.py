"""One structure on its way through a calculator: what is still to be evaluated, and what was read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.verdict import GROWS
from equiv_probe.representations.representation import point
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.schema import Schema
from equiv_probe_ase.calculators.inspection import stored_precision
from equiv_probe_ase.structures.control_copies import DISPLACEMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.structures.control_copies import ControlCopies
    from equiv_probe_ase.structures.loading import Structure
    from equiv_probe_ase.structures.quantities import Quantity
    from equiv_probe_ase.structures.rotation import Rotator

    Results = dict[str, NDArray[np.float64]]

ROUND_TRIPS = 3
MORE_ROUND_TRIPS = 12
"""Where the floor decides and three round trips leave it too uncertain."""
JOLTS = 3
JOLT = 100.0
"""Displacement of the jolted copies over that of rounding: a smooth output changes so many times more."""


@dataclass
class Job:
    """One structure on its way: what was evaluated so far, and how to rotate it into an orbit.

    ``precision`` is the model's; without ``controls`` their copies are left out. ``seed`` is of the rotations;
    None takes the structure's own.
    """

    structure: Structure
    quantities: Mapping[str, Quantity]
    plan: RotationPlan
    rotator: Rotator
    precision: torch.dtype
    controls: ControlCopies | None = None
    seed: int | None = None
    rotations: Tensor = field(init=False)
    fresh: Tensor = field(init=False)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    again: dict[str, list[Tensor]] = field(default_factory=dict)
    """Second evaluations at the same rotations, of a model that varies from call to call."""
    identity: dict[str, Tensor] = field(default_factory=dict)
    round_trips: dict[str, Tensor] = field(default_factory=dict)
    jolts: dict[str, Tensor] = field(default_factory=dict)
    repeats: dict[str, Tensor] = field(default_factory=dict)
    resolution: dict[str, float] = field(default_factory=dict)
    unmoved: dict[str, bool] = field(default_factory=dict)
    """Whether all raw results at rotated copies were the structure's own, to the last bit."""
    deformed: dict[str, Tensor] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict)
    rounding: float = math.nan
    """Root mean square of what rounding did to a coordinate on a round trip, Å."""

    def __post_init__(self) -> None:
        # Rotations belong to the structure: the same in any list, in any part of one, and after a resumption.
        self._key = self.structure.seed if self.seed is None else self.seed
        self._generator = self.plan.generator(self._key)
        self.rotations = self.fresh = self.plan.rotations(self._generator)
        self._wanted = {"trips": ROUND_TRIPS, "jolts": 0}
        self._counts: dict[str, int] = {}
        self._rounds = 0
        self._is_noisy = False
        self._rounding_at_moved = math.nan
        self._charge = 0.0

    def more(self, replicates: int) -> None:
        """Ask for further replicates."""
        self.fresh = replace(self.plan, replicates=replicates).rotations(self._generator)
        self.rotations = torch.cat([self.rotations, self.fresh])

    def twice(self) -> None:
        """Ask for a second evaluation at every rotation, these and all that follow."""
        self._is_noisy = True

    @property
    def _to_repeat(self) -> Tensor:
        """Rotations that lack their second evaluation, ``(R', n, 3, 3)``."""
        done = sum(len(part) for part in next(iter(self.again.values()), []))
        return self.rotations[done:] if self._is_noisy else self.rotations[:0]

    def more_of_the_floor(self, *, trips: int = 0, jolts: int = 0) -> None:
        """Ask for further round trips, or for copies displaced more than rounding does; without further rotations."""
        self._rounds += 1
        self._wanted = {"trips": trips, "jolts": jolts}

    def copies(self) -> list[Atoms]:
        """The copies that have still to be evaluated: round trips, jolted ones, those of the controls, rotated ones."""
        generator = self.plan.generator(self._key, 1, *([self._rounds] if self._rounds else []))
        controls = None if self.identity else self.controls
        parts = {
            "round trips": self._round_trips(self._wanted["trips"], generator),
            "jolts": self._round_trips(self._wanted["jolts"], generator, JOLT),
            "deformed": [controls.deformed()] if controls and controls.deforms else [],
            "moved": [controls.moved()] if controls and controls.moves else [],
            "rotated": self._rotated(self.fresh),
            "again": self._rotated(self._to_repeat),
        }
        if parts["moved"]:
            self._rounding_at_moved = max(self.rounding, self._coarseness(parts["moved"][0]))
        self._counts = {kind: len(copies) for kind, copies in parts.items()}
        return [atoms for copies in parts.values() for atoms in copies]

    def _rotated(self, rotations: Tensor) -> list[Atoms]:
        return self.rotator.copies(rotations.reshape(-1, 3, 3)) if len(rotations) else []

    def _round_trips(self, count: int, generator: torch.Generator, jolt: float = 0.0) -> list[Atoms]:
        if not count:
            return []
        copies = self.rotator.round_trips(haar(count, generator), self.precision)
        own = self.structure.atoms.positions
        if math.isnan(self.rounding):
            seen = float(np.sqrt(np.mean([(one.positions - own) ** 2 for one in copies])))
            # Round trips along the axes may end where they began.
            self.rounding = max(seen, self._coarseness(self.structure.atoms))
        for one in copies if jolt else ():
            noise = torch.randn(own.shape, generator=generator, dtype=torch.float64).numpy()
            one.positions[:] += jolt * self.rounding * noise
        return copies

    def _coarseness(self, atoms: Atoms) -> float:
        """Rounding of a coordinate on average, Å: an ulp over √12, root mean square."""
        return torch.finfo(self.precision).eps * float(np.sqrt(np.mean(atoms.positions**2) / 12))

    def accept(self, results: Sequence[Results], plain: Sequence[Results]) -> None:
        """Take the results of :meth:`copies`, in order, and, at first, of two evaluations of the structure as it is."""
        rest = iter(results)
        read = {kind: self._stack(list(islice(rest, count))) for kind, count in self._counts.items()}
        if not self.identity:
            self.identity = {name: rows[0] for name, rows in self._stack(plain[:1]).items()}
            self.resolution = {name: self._resolution(name, [*plain, *results]) for name in self.identity}
            self.repeats = self._stack(plain[1:])
            self.deformed, self.moved = read["deformed"], read["moved"]
            self._charge = self._charge_that_moves_the_dipole()
            self.moved = self._moved_back(read["moved"])
        self._wanted = {"trips": 0, "jolts": 0}
        for kept, new in ((self.round_trips, read["round trips"]), (self.jolts, read["jolts"])):
            for name, rows in new.items():
                kept[name] = torch.cat([kept[name], rows]) if name in kept else rows
        for held, rotations, new in (
            (self.values, self.fresh, read["rotated"]),
            (self.again, self._to_repeat, read["again"]),
        ):
            for name, raw in new.items():
                self.unmoved[name] = bool((raw == self.identity[name]).all()) and self.unmoved.get(name, True)
                back = self._rotated_back(name, raw, rotations.reshape(-1, 3, 3))
                held.setdefault(name, []).append(back.reshape(*rotations.shape[:2], *back.shape[1:]))
        self.fresh = self.fresh[:0]

    def _moved_back(self, moved: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the moved copy as they should be: an ion's dipole moves by its charge times the shift."""
        if "dipole" in moved and self.controls is not None and not self.structure.atoms.pbc.any():
            moved["dipole"] = moved["dipole"] - self._charge * torch.from_numpy(self.controls.shift)
        return moved

    def explained(self, name: str, rounding: float | None = None) -> float:
        """What rounding to the model's precision can make of an output, root mean square in the reported unit.

        ``rounding`` is that of a coordinate, Å; None takes that of a round trip.

        The response to the deformed copy, scaled to the displacement that rounding makes on the way there and once
        more in the model, beside the resolution of the numbers, not less than that of a number of natural size. NaN
        without a deformed copy.
        """
        if name not in self.deformed:
            return math.nan
        own, quantity = self.identity[name], self.quantities[name]
        response = self.off(self.deformed, name) / DISPLACEMENT
        if own.numel() == 1:  # one number may be the same at one deformed copy by chance
            if quantity.extensive and "forces" in self.identity:
                response = max(response, float(self.identity["forces"].norm()) / len(self.structure.atoms))
            if name in self.jolts:
                jolted, floor = self.off(self.jolts, name), self.off(self.round_trips, name)
                response = max(response, jolted / (JOLT * self.rounding) if jolted > GROWS * floor else 0)
        natural = quantity.factor * torch.finfo(self.precision).eps / 12**0.5
        coordinates = self.rounding if rounding is None else rounding
        return math.hypot(response * math.sqrt(2) * coordinates, self.resolution[name], natural)

    def explained_at_moved(self, name: str) -> float | None:
        """:meth:`explained` at the moved copy, whose coordinates are larger, and coarser, by a cell's length."""
        return self.explained(name, self._rounding_at_moved) if name in self.moved else None

    def off(self, rows: Mapping[str, Tensor], name: str) -> float:
        """Root mean square of what an output at some copies differs from the structure's own by."""
        return float((rows[name] - self.identity[name]).square().mean().sqrt())

    def accept_known(self, known: Results, resolution: Mapping[str, float]) -> None:
        """Take the structure's own results, evaluated once, and the resolution of an earlier one: without a floor."""
        self.identity = {name: rows[0] for name, rows in self._stack([known]).items()}
        self.resolution = dict(resolution)
        self._wanted = {"trips": 0, "jolts": 0}

    def _rotated_back(self, name: str, raw: Tensor, rotations: Tensor) -> Tensor:
        """``ρ(g)⁻¹`` of raw values ``(C, *S)``. An ion's dipole depends on the origin: it rotates about ``Q c``."""
        if name == "dipole" and not self.structure.atoms.pbc.any():
            return point.rotate_back(raw, rotations, self._charge * self._pivot)
        return self.quantities[name].representation.rotate_back(raw, rotations, self._pivot)

    def _resolution(self, name: str, results: Sequence[Results]) -> float:
        """Standard deviation of rounding to the last place, in the reported unit, judged over all evaluations.

        It is uniform, so an ulp over √12; and not less than that of a number of natural size (1 eV/Å, 1 e·Å) in
        float64, or a sum that cancels to zero would have no resolution at all.
        """
        numbers = np.concatenate([one[name].ravel() for one in results])
        # A single number, as all evaluations of an atom alone give, may have few digits by chance.
        stored = stored_precision(numbers) if len(np.unique(numbers)) > 1 else self.precision
        size = float(self.identity[name].square().mean().sqrt())
        natural = self.quantities[name].factor * torch.finfo(torch.float64).eps
        return max(size * torch.finfo(stored).eps / 12**0.5, natural)

    def _charge_that_moves_the_dipole(self) -> float:
        """Total charge in the reported unit, by which the dipole depends on the origin.

        As the calculator or the structure has it, zero of a model whose dipole is about a centre of its own, or a whole
        number of charges that only the model was told: the one that comes nearest to how the dipole moves.
        """
        known = 1e3 * float(self.structure.atoms.get_initial_charges().sum())
        if "charges" in self.identity:
            known = float(self.identity["charges"].sum())
        if "dipole" not in self.moved or self.controls is None:
            return known
        shift = torch.from_numpy(self.controls.shift)
        seen = float((self.moved["dipole"][0] - self.identity["dipole"]).flatten() @ shift / shift.square().sum())
        return min((known, 0.0, 1e3 * round(seen / 1e3)), key=lambda charge: abs(charge - seen))

    @property
    def _pivot(self) -> Tensor:
        return torch.as_tensor(self.rotator.pivot())

    def _stack(self, results: Sequence[Results]) -> dict[str, Tensor]:
        """Results in the reported units, ``(C, *S)`` by quantity; nothing of no results."""
        if not results:
            return {}
        atoms = self.structure.atoms
        return {name: quantity.stacked(results, atoms) for name, quantity in self.quantities.items()}

    def orbit(self) -> Orbit:
        """The orbit so far."""
        plan = replace(self.plan, replicates=len(self.rotations))
        outputs = {name: quantity.representation for name, quantity in self.quantities.items()}
        values = {name: torch.cat(parts) for name, parts in self.values.items()}
        again = {name: torch.cat(parts) for name, parts in self.again.items()}
        halves = {name: (values[name] - second) / 2 for name, second in again.items()}
        return Orbit.from_values(
            {name: value - halves[name] if name in halves else value for name, value in values.items()},
            self.identity,
            Schema({"positions": point}, outputs),
            plan,
            self.rotations,
            round_trips=self.round_trips,
            repeats=self.repeats,
            half_differences=halves,
            centers=dict.fromkeys(outputs, self._pivot),
            units={name: quantity.unit for name, quantity in self.quantities.items()},
        )
