"""Figures over the time of a trajectory: symmetry error, energy, torque, and what explains the angular momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, tidied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from equiv_probe.results.report import Report

TIME = "time_fs"
COLUMNS: Mapping[str, tuple[str, str]] = {
    "forces_rms_meV_per_A": ("Symmetry error of the forces", "√L_equiv of forces, meV/Å"),
    "energy_rms_meV_per_atom": ("Symmetry error of the energy", "√L_equiv of the energy, meV/atom"),
    "stress_rms_meV_per_A3": ("Symmetry error of the stress", "√L_equiv of stress, meV/Å³"),
    "net_torque_eV": ("Net torque", "net torque of the model, eV"),
    "energy_change_eV": ("Total energy", "change of the total energy, eV"),
}
"""Columns of a trajectory's history, with the title of their figure and the label of its axis."""


def column_of(report: Report, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in fs, and one column of the history, where it was measured.

    Raises:
        EquivProbeError: the history is not of a trajectory, or lacks the column.
    """
    rows = [row for row in report.history if row.get(TIME) is not None and row.get(name) is not None]
    pairs = np.array([(row[TIME], row[name]) for row in rows], dtype=float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(1)]
    if not len(pairs):
        found = ", ".join(dict.fromkeys(key for row in report.history for key in row)) or "no history"
        raise EquivProbeError(f"a report with {found}", f"a history with {TIME} and {name}")
    return pairs[:, 0], pairs[:, 1]


@figure
def trajectory(report: Report, name: str = "forces_rms_meV_per_A", ax: Axes | None = None) -> Axes:
    """One column of a trajectory's history against time.

    Args:
        report: of dynamics.
        name: of the column, see :data:`COLUMNS`.
        ax: to draw into.

    Raises:
        EquivProbeError: the history is not of a trajectory, or lacks the column.
    """
    times, values = column_of(report, name)
    ax = axes_or_new(ax)
    ax.plot(times, values, color=ALARM, lw=1.8, marker="o", ms=3 if len(times) < 60 else 0)
    ax.set_xlabel("time, fs")
    ax.set_ylabel(COLUMNS[name][1] if name in COLUMNS else name)
    return tidied(ax)


@figure
def angular_momentum(report: Report, ax: Axes | None = None) -> Axes:
    """How far the angular momentum has moved, beside what the model's own net torque makes, ``|∫ τ dt|``, in eV·fs.

    Raises:
        EquivProbeError: the history is not of a trajectory whose torque is known.
    """
    ax = axes_or_new(ax)
    for prefix, label, colour, style in (
        ("angular_change", "measured", ALARM, "-"),
        ("angular_impulse", "from the model's torque", CALM, "--"),
    ):
        parts = [column_of(report, f"{prefix}_{axis}_eV_fs") for axis in "xyz"]
        lengths = np.sqrt(sum(values**2 for _, values in parts))
        ax.plot(parts[0][0], lengths, color=colour, lw=1.8, ls=style, label=label)
    ax.set_xlabel("time, fs")
    ax.set_ylabel("change of angular momentum, eV·fs")
    ax.legend(loc="best")
    return tidied(ax)
