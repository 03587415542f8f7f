"""The running table of a trajectory: a line for each measurement in a terminal, fewer in a log; on stderr."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from equiv_probe.progress import PATIENCE
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
BETWEEN = 20.0
"""Seconds between two rows in a log."""
_LEGEND = "energy, forces: √L_equiv in meV/atom, meV/Å; |ΔL|: of the angular momentum; F+∇E in meV/Å"


class RunningTable:
    """Prints rows as they come, on stderr: a script's output stays its own.

    Args:
        shown: False prints nothing. In a log, the first row is printed after two seconds, and then one every twenty.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._console = Console(stderr=True, highlight=False, width=120)
        self._begun = False
        self._next_at = -math.inf if self._console.is_terminal else time.perf_counter() + PATIENCE

    def show(self, row: Mapping[str, Any]) -> None:
        """Print one row, and the head before the first."""
        if not self._shown or time.perf_counter() < self._next_at:
            return
        if not self._console.is_terminal:
            self._next_at = time.perf_counter() + BETWEEN
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
