"""The running table of a trajectory: a line for each measurement in a terminal, fewer in a log; on stderr."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from equiv_probe.progress import LONGEST, PATIENCE
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = (
    ("step", 8, "step", 1.0),
    ("t/fs", 9, "time_fs", 1.0),
    ("E total/eV", 14, "total_eV", 1.0),
    ("torque/meV", 11, "net_torque_eV", 1e3),
    ("energy", 9, "energy_rms_meV_per_atom", 1.0),
    ("forces", 9, "forces_rms_meV_per_A", 1.0),
    ("|ΔL|/eV·fs", 11, "angular", 1.0),
    ("unexplained", 12, "unexplained", 1.0),
    ("F+∇E", 9, "defect_rms_meV_per_A", 1.0),
)
_LEGEND = "energy, forces: √L_equiv in meV/atom, meV/Å; |ΔL|: of the angular momentum; F+∇E in meV/Å"


class RunningTable:
    """Prints rows as they come, on stderr: a script's output stays its own.

    Args:
        shown: False prints nothing. A log gets the first row after two seconds, and then one whenever the time has
            doubled.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._console = Console(stderr=True, highlight=False, width=120)
        self._begun = False
        self._began = time.monotonic()
        self._due = 0.0 if self._console.is_terminal else PATIENCE

    def show(self, row: Mapping[str, Any]) -> None:
        """Print one row, and the head before the first."""
        elapsed = time.monotonic() - self._began
        if not self._shown or elapsed < self._due:
            return
        if self._due:
            self._due = elapsed + min(elapsed, LONGEST)
        if not self._begun:
            self._console.print(_LEGEND, style="dim", soft_wrap=True)
            self._console.print(" ".join(f"{title:>{width}}" for title, width, _, _ in _COLUMNS), style="bold")
            self._begun = True
        cells = []
        for _, width, name, scale in _COLUMNS:
            value = _changes(row)[name] if name in {"angular", "unexplained"} else row.get(name, math.nan)
            text = str(value) if name == "step" else f"{value:.5f}" if name == "total_eV" else number(scale * value)
            cells.append(f"{text:>{width}}")
        self._console.print(" ".join(cells), soft_wrap=True)


def _changes(row: Mapping[str, Any]) -> dict[str, float]:
    """How much the angular momentum changed, and how much of it the torque does not explain, eV·fs."""
    change = [row.get(f"angular_change_{axis}_eV_fs", math.nan) for axis in "xyz"]
    impulse = [row.get(f"angular_impulse_{axis}_eV_fs", math.nan) for axis in "xyz"]
    rest = [a - b for a, b in zip(change, impulse, strict=True)]
    return {"angular": math.hypot(*change), "unexplained": math.hypot(*rest)}
