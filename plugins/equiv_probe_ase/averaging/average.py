"""The average of a calculator's outputs over rotations of one structure, and how far it is to be trusted."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress

from equiv_probe.estimation.choice_of_plan import Left
from equiv_probe.estimation.orbit import Moments
from equiv_probe.live.twirled import orbit_std
from equiv_probe_ase.calculators.batch_check import trusted
from equiv_probe_ase.calculators.inspection import engine_for
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.structures.loading import Structure
from equiv_probe_ase.structures.quantities import adapted
from equiv_probe_ase.structures.reflections import Hands, words_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.evaluators.engine import Engine
    from equiv_probe_ase.structures.quantities import Quantity
    from equiv_probe_ase.structures.rotation import Rotator

    Results = dict[str, NDArray[np.float64]]

ROUNDING = 8.0
"""Units in the last place that a sum over a model's layers may be off by, and no average is asked to be better."""
Output: TypeAlias = "float | NDArray[np.float64]"


class Average:
    """One structure's outputs over a plan's rotations, as they come: sums are kept, not the outputs.

    Args:
        rotator: of the structure.
        plan: of the rotations.
        rotations: drawn from it, ``(R, n, 3, 3)``.
        quantities: to average, in ASE's own units.
        keep: keep all outputs as well, for :meth:`values`.
    """

    def __init__(
        self,
        rotator: Rotator,
        plan: RotationPlan,
        rotations: Tensor,
        quantities: Mapping[str, Quantity],
        *,
        keep: bool = False,
    ) -> None:
        self.rotator, self.plan, self.quantities = rotator, plan, quantities
        self._rotations = rotations.reshape(-1, 3, 3)
        self._moments: Moments | None = None
        self._hands: dict[str, Hands] = {}
        self._keep = keep
        self._kept: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        """How many rotations."""
        return len(self._rotations)

    def parts(self, atoms: int) -> Iterator[slice]:
        """The rotations in parts of at most so many atoms, and of one rotation at least."""
        step = max(1, atoms // max(1, len(self.rotator.atoms)))
        for start in range(0, len(self._rotations), step):
            yield slice(start, min(start + step, len(self._rotations)))

    def copies(self, part: slice) -> list[Atoms]:
        """The structure, rotated by these rotations."""
        return self.rotator.copies(self._rotations[part])

    def accept(self, part: slice, results: Sequence[Results]) -> None:
        """Take the calculator's results at :meth:`copies`, in order."""
        self.quantities = adapted(self.quantities, results[0])
        pivot = torch.as_tensor(self.rotator.pivot())
        values = {}
        for name, quantity in self.quantities.items():
            raw = quantity.stacked(results, self.rotator.atoms)
            values[name] = quantity.representation.rotate_back(raw, self._rotations[part], pivot)
        if self._moments is None:
            # About the first: energies are thousands of eV, and what is to be seen is in their last digits.
            first = {name: value[0] for name, value in values.items()}
            self._moments = Moments(first, self.plan.weights, self.plan.R)
        self._moments.add(values)
        if self._keep:
            self._kept.append(values)
        for name, value in values.items() if self.plan.improper else ():
            self._hands.setdefault(name, Hands()).add(value, self._rotations[part])

    def results(self, *, store_std: bool) -> dict[str, Output]:
        """The averages by ASE's names, and with them, if asked for, ``<name>_std`` and ``<name>_stderr``."""
        assert self._moments is not None  # there is at least one rotation
        for odd in (name for name, hands in self._hands.items() if hands.are_opposite):
            # A barostat would see no stress at all.
            words = f"{words_on(odd)}: averaged over improper rotations it is zero; take improper=False"
            warnings.warn(f"equiv_probe: {words}", stacklevel=2)
        sizes, about, means, squares = self._moments.result()
        share = sizes / sizes.sum()
        found = {}
        for name, values in means.items():
            mean = torch.einsum("r,r...->...", share, values)
            found[name] = self._in_ase_shape(name, mean)
            if store_std and len(self._rotations) > 1:
                std = orbit_std(values, squares[name], about[name], sizes, self.plan.population)
                found[f"{name}_std"] = self._in_ase_shape(name, std)
            if store_std and len(values) > 1:
                # Of a sample without replacement, that share of the population is known for certain.
                unknown = 1 - self.plan.R / (self.plan.population or torch.inf)
                variance = torch.einsum("r,r...->...", share, (values - mean).square()) / (len(values) - 1) * unknown
                found[f"{name}_stderr"] = self._in_ase_shape(name, variance.sqrt())
        return found

    def values(self) -> dict[str, Tensor]:
        """The outputs at all rotations, rotated back, ``(K, *S)`` by ASE's names; nothing unless they were kept."""
        return {name: torch.cat([part[name] for part in self._kept]) for name in self._kept[0]} if self._kept else {}

    def left(self, precision: torch.dtype, floors: Mapping[str, float]) -> dict[str, Left]:
        """What one rotation and one replicate's average are off by; of a single replicate, NaN.

        Rounding is that of the sum of the outputs, or the floor of an output where that is higher.
        """
        assert self._moments is not None
        sizes, about, means, squares = self._moments.result()
        found = {}
        for name, values in means.items():
            orbit = orbit_std(values, squares[name], about[name], sizes, self.plan.population)
            rounding = ROUNDING * torch.finfo(precision).eps * about[name].abs()
            average = values.std(0, correction=1) if len(values) > 1 else torch.full_like(orbit, torch.nan)
            off, left, least = (float(of.square().mean().sqrt()) for of in (orbit, average, rounding))
            found[name] = Left(off, left, max(least, floors.get(name, 0.0)))
        return found

    def _in_ase_shape(self, name: str, values: Tensor) -> Output:
        array = values.numpy()
        if self.quantities[name].full_tensor:
            array = np.asarray(full_3x3_to_voigt_6_stress(array))
        return array if array.ndim else float(array)


class Averager:
    """Evaluates averages with one calculator, as many rotations and structures together as go into one model pass.

    Args:
        calculator: not copied.
        batched: False calls it once per rotation even if its model takes batches.
        atoms_per_call: most atoms in one model pass; None takes what suits model and device.
    """

    def __init__(self, calculator: Calculator, *, batched: bool = True, atoms_per_call: int | None = None) -> None:
        self.calculator, self._batched = calculator, batched
        self.engine = engine_for(calculator, batched=batched, atoms_per_call=atoms_per_call)
        self.controls: list[Control] = []
        """Whether its model's outputs depend on the other structures in a batch; empty until it was asked."""
        self._asks_left = 3  # what cannot be evaluated alone is not tried at every call

    def run(self, averages: Sequence[Average]) -> None:
        """Evaluate all rotations of all structures.

        Raises:
            Exception: whatever the calculator raises.
        """
        self._find_evaluator()
        self._control_batches(averages)
        waiting: list[tuple[Average, slice]] = []
        atoms = 0
        for average in averages:
            for part in average.parts(self.engine.atoms_per_call):
                size = (part.stop - part.start) * len(average.rotator.atoms)
                if waiting and atoms + size > self.engine.atoms_per_call:
                    _evaluate_parts(self.engine, waiting)
                    waiting, atoms = [], 0
                waiting.append((average, part))
                atoms += size
        if waiting:
            _evaluate_parts(self.engine, waiting)

    def not_given(self, atoms: Atoms, names: Sequence[str]) -> list[str]:
        """Which properties the calculator does not give for a structure, tried one by one."""
        self._find_evaluator()
        missing = []
        for name in names:
            try:
                list(self.engine.run([atoms], [name]))
            except PropertyNotImplementedError:
                missing.append(name)
        return missing

    def _find_evaluator(self) -> None:
        """Once more, for a copy: only when it is asked something is its calculator sure to be complete."""
        if self.engine.evaluator is None:
            self.engine.evaluator = evaluator_for(self.calculator, batched=self._batched)

    def _control_batches(self, averages: Sequence[Average]) -> None:
        """Before the first batch: a model whose outputs depend on it is evaluated one rotation at a time."""
        if not (self._asks_left and self.engine.evaluator.batched and sum(map(len, averages)) > 1):
            return
        first = averages[0]
        atoms = first.rotator.atoms
        structure = Structure(0, atoms.get_chemical_formula(), atoms)
        self.engine.evaluator, self.controls = trusted(
            self.engine.evaluator, self.calculator, first.quantities, [structure]
        )
        self._asks_left = 0 if self.controls[0].passed is not None else self._asks_left - 1
        if not self.engine.evaluator.batched:
            self._batched = False
            warnings.warn(f"equiv_probe: {self.controls[0]}", stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        # A batched evaluator may hold modules and functions of its package, which cannot be copied.
        return {**self.__dict__, "engine": replace(self.engine, evaluator=None)}  # type: ignore[arg-type]


def _evaluate_parts(engine: Engine, parts: Sequence[tuple[Average, slice]]) -> None:
    names = list(parts[0][0].quantities)
    copies = [average.copies(part) for average, part in parts]
    results: Any = engine.run([atoms for some in copies for atoms in some], names)
    for (average, part), some in zip(parts, copies, strict=True):
        average.accept(part, [next(results) for _ in some])
