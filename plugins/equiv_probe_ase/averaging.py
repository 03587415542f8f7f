"""The average of a calculator's answers over rotations of one structure, and how far it is to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from ase.stress import full_3x3_to_voigt_6_stress

from equiv_probe.twirled import orbit_std
from equiv_probe_ase.quantities import adapted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from torch import Tensor

    from equiv_probe_ase.engine import Engine
    from equiv_probe_ase.quantities import Quantity
    from equiv_probe_ase.turning import Turner

    Results = dict[str, NDArray[np.float64]]

Answer: TypeAlias = "float | NDArray[np.float64]"


class Average:
    """One structure's answers over a plan's rotations, as they come: sums are kept, not the answers.

    Args:
        turner: of the structure.
        rotations: ``(R, n, 3, 3)``.
        weights: of the design, ``(n,)``.
        quantities: to average, in ASE's own units.
    """

    def __init__(self, turner: Turner, rotations: Tensor, weights: Tensor, quantities: Mapping[str, Quantity]) -> None:
        self.turner, self.quantities = turner, quantities
        self.replicates, n = rotations.shape[:2]
        self._rotations = rotations.reshape(-1, 3, 3)
        self._weights = weights.repeat(self.replicates)
        self._owner = torch.arange(self.replicates).repeat_interleave(n)
        self._about: dict[str, Tensor] = {}
        self._means: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def parts(self, atoms: int) -> Iterator[slice]:
        """The rotations in parts of at most so many atoms, and of one rotation at least."""
        step = max(1, atoms // max(1, len(self.turner.atoms)))
        for start in range(0, len(self._rotations), step):
            yield slice(start, min(start + step, len(self._rotations)))

    def copies(self, part: slice) -> list[Atoms]:
        """The structure, turned by these rotations."""
        return self.turner.copies(self._rotations[part])

    def accept(self, part: slice, answers: Sequence[Results]) -> None:
        """Take what the calculator says of :meth:`copies`, in order."""
        self.quantities = adapted(self.quantities, answers[0])
        pivot = torch.as_tensor(self.turner.pivot())
        for name, quantity in self.quantities.items():
            raw = torch.from_numpy(np.stack([quantity.values(one[name], self.turner.atoms) for one in answers]))
            values = quantity.representation.turn_back(raw, self._rotations[part], pivot)
            if name not in self._about:
                self._about[name] = values[0]
                self._means[name] = values.new_zeros(self.replicates, *values.shape[1:])
                self._squares[name] = torch.zeros_like(self._means[name])
            # Sums of deviations: energies are thousands of eV, and what is to be seen is in their last digits.
            away = values - self._about[name]
            weights = self._weights[part].reshape(-1, *(1,) * (values.ndim - 1))
            self._means[name].index_add_(0, self._owner[part], weights * away)
            self._squares[name].index_add_(0, self._owner[part], weights * away.square())

    def results(self, *, store_std: bool) -> dict[str, Answer]:
        """The averages by ASE's names, and with them, if asked for, ``<name>_std`` and ``<name>_stderr``."""
        found = {}
        for name, away in self._means.items():
            found[name] = self._in_ase_shape(name, self._about[name] + away.mean(0))
            if store_std and len(self._rotations) > 1:
                std = orbit_std(away, self._squares[name], torch.zeros_like(self._about[name]))
                found[f"{name}_std"] = self._in_ase_shape(name, std)
            if store_std and self.replicates > 1:
                error = away.std(0) / self.replicates**0.5
                found[f"{name}_stderr"] = self._in_ase_shape(name, error)
        return found

    def _in_ase_shape(self, name: str, values: Tensor) -> Answer:
        array = values.numpy()
        if self.quantities[name].full_tensor:
            array = np.asarray(full_3x3_to_voigt_6_stress(array))
        return array if array.ndim else float(array)


def evaluate_averages(engine: Engine, averages: Sequence[Average]) -> None:
    """Evaluate all rotations of all structures, as many together as the engine puts into one pass.

    Raises:
        Exception: whatever the calculator raises.
    """
    waiting: list[tuple[Average, slice]] = []
    atoms = 0
    for average in averages:
        for part in average.parts(engine.atoms_per_call):
            size = (part.stop - part.start) * len(average.turner.atoms)
            if waiting and atoms + size > engine.atoms_per_call:
                _evaluate_parts(engine, waiting)
                waiting, atoms = [], 0
            waiting.append((average, part))
            atoms += size
    _evaluate_parts(engine, waiting)


def _evaluate_parts(engine: Engine, parts: Sequence[tuple[Average, slice]]) -> None:
    names = list(parts[0][0].quantities)
    copies = [average.copies(part) for average, part in parts]
    answers: Any = engine.run([atoms for some in copies for atoms in some], names)
    for (average, part), some in zip(parts, copies, strict=True):
        average.accept(part, [next(answers) for _ in some])
