"""How a run goes, as lines in a log: where there is no terminal, no progress bar shows the share."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from equiv_probe.report.formatting import number
from equiv_probe_lightning.trainers import inform

if TYPE_CHECKING:
    from typing import Any

    import equiv_probe as ep

FIRST, BETWEEN = 2.0, 30.0
"""Seconds of a run before the first line, and between two."""


class Progress:
    """Writes a line now and then, at the end of an epoch, where the device may be waited for."""

    def __init__(self) -> None:
        self._due = time.monotonic() + FIRST

    def tell(self, probe: ep.Probe, trainer: Any) -> None:
        """Say what the shares are now, if it is time for it."""
        if time.monotonic() < self._due or sys.stderr.isatty():
            return
        self._due = time.monotonic() + BETWEEN
        shares = {name: value for name, value in probe.compute().items() if name.endswith("/share")}
        # The first of each stage is that of the loss; its terms are in the logs.
        first = {name.removeprefix("equiv/").rpartition("/")[0]: value for name, value in shares.items()}
        stages = dict.fromkeys(name.rpartition("/")[0] for name in first)
        chosen = [next(name for name in first if name.rpartition("/")[0] == stage) for stage in stages]
        if chosen:
            listed = ", ".join(f"{number(100 * first[name])} % of {name}" for name in chosen)
            inform(trainer, f"equiv_probe at step {trainer.global_step}: broken symmetry is {listed}")
