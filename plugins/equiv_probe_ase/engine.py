"""Evaluates any number of structures in model passes of bounded size."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.chunking import is_out_of_memory
from equiv_probe.errors import EquivProbeError

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
    """Evaluates turned structures in calls of bounded size.

    Args:
        evaluator: of the calculator.
        atoms_per_call: how many atoms go into one pass at most.
    """

    evaluator: Evaluator
    atoms_per_call: int = ATOMS_PER_CALL
    evaluations: int = 0
    calls: int = 0
    seconds: float = 0.0

    def run(self, structures: Sequence[Atoms], properties: Sequence[str]) -> Iterator[Results]:
        """Evaluate structures in order; running out of memory halves the call and carries on.

        Raises:
            EquivProbeError: one structure alone does not fit.
            Exception: whatever the calculator raises.
        """
        start = 0
        while start < len(structures):
            stop = self._stop(structures, start)
            failed = False
            began = time.perf_counter()
            try:
                results = self.evaluator.evaluate(structures[start:stop], properties)
            except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            self.seconds += time.perf_counter() - began
            if failed:
                if stop - start == 1:
                    raise EquivProbeError(
                        f"{len(structures[start])} atoms, which do not fit in memory", "a smaller structure"
                    )
                self.atoms_per_call = max(1, sum(map(len, structures[start:stop])) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            self.calls += 1
            self.evaluations += len(results)
            yield from results
            start = stop

    def _stop(self, structures: Sequence[Atoms], start: int) -> int:
        """End of the longest run from ``start`` that stays within ``atoms_per_call`` (at least one structure)."""
        if not self.evaluator.batched:
            return start + 1
        stop, atoms = start + 1, len(structures[start])
        while stop < len(structures) and atoms + len(structures[stop]) <= self.atoms_per_call:
            atoms += len(structures[stop])
            stop += 1
        return stop
