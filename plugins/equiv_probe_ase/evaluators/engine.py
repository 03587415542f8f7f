"""Evaluates any number of structures in model passes of bounded size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit.chunking import unless_out_of_memory
from equiv_probe_ase.evaluators.loop import model_work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    from equiv_probe_ase.evaluators import Evaluator

    Results = dict[str, NDArray[np.float64]]

ATOMS_PER_CALL = 4096
"""Atoms in one model pass where the evaluator names no better number; halved when memory runs out."""
GPU_ATOMS_PER_CALL = 16384


@dataclass
class Engine:
    """Evaluates rotated structures in calls of bounded size.

    Args:
        evaluator: of the calculator.
        atoms_per_call: how many atoms go into one pass at most.

    Of a calculator that averages over rotations, its model's evaluations are counted, not the averages.
    """

    evaluator: Evaluator
    atoms_per_call: int = ATOMS_PER_CALL
    evaluations: int = 0
    calls: int = 0
    seconds: float = 0.0

    def run(self, structures: Sequence[Atoms], properties: Sequence[str]) -> Iterator[Results]:
        """Evaluate structures; running out of memory halves the call and carries on.

        Those of similar size go together, whichever structure they are copies of: models that pad to the largest of a
        batch pad little. Results come in the order of the structures, when all are there.

        Raises:
            EquivProbeError: one structure alone does not fit.
            Exception: whatever the calculator raises.
        """
        if not self.evaluator.batched:
            yield from self._in_calls(structures, properties)
            return
        order = sorted(range(len(structures)), key=lambda i: len(structures[i]))
        evaluated = zip(order, self._in_calls([structures[i] for i in order], properties), strict=True)
        yield from (result for _, result in sorted(evaluated, key=itemgetter(0)))

    def _in_calls(self, structures: Sequence[Atoms], properties: Sequence[str]) -> Iterator[Results]:
        """Evaluate structures in this order, in calls of bounded size."""
        sizes, start = [len(atoms) for atoms in structures], 0
        while start < len(structures):
            stop = self._stop(sizes, start)
            began = time.perf_counter()
            part = structures[start:stop]
            before = model_work(getattr(self.evaluator, "calculator", None))
            results = unless_out_of_memory(lambda part=part: self.evaluator.evaluate(part, properties))  # type: ignore[misc]
            self.seconds += time.perf_counter() - began
            if results is None:
                if len(part) == 1:
                    raise EquivProbeError(f"{sizes[start]} atoms, which do not fit in memory", "a smaller structure")
                self.atoms_per_call = max(1, sum(sizes[start:stop]) // 2)
                continue
            self._count(len(results), before)
            yield from results
            start = stop

    def _count(self, results: int, before: tuple[int, int] | None) -> None:
        now = model_work(getattr(self.evaluator, "calculator", None))
        if before is None or now is None:
            self.evaluations, self.calls = self.evaluations + results, self.calls + 1
        else:
            self.evaluations += now[0] - before[0]
            self.calls += now[1] - before[1]

    def _stop(self, sizes: Sequence[int], start: int) -> int:
        """End of the longest run from ``start`` that stays within ``atoms_per_call`` (at least one structure)."""
        if not self.evaluator.batched:
            return start + 1
        stop, atoms = start + 1, sizes[start]
        while stop < len(sizes) and atoms + sizes[stop] <= self.atoms_per_call:
            atoms += sizes[stop]
            stop += 1
        return stop
