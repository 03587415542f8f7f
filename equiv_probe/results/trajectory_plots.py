"""Figures over the time of a trajectory: equivariance error, energy, torque, and what explains the angular momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import ALARM, CALM, axes_or_new, figure, tidied
from equiv_probe.report.formatting import finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

TIME = "time_fs"
COLUMNS: Mapping[str, tuple[str, str]] = {
    "forces_rms_meV_per_A": ("Equivariance error of the forces", "√L_equiv of forces, meV/Å"),
    "energy_rms_meV_per_atom": ("Equivariance error of the energy", "√L_equiv of the energy, meV/atom"),
    "stress_rms_meV_per_A3": ("Equivariance error of the stress", "√L_equiv of stress, meV/Å³"),
    "net_torque_eV": ("Net torque", "net torque of the model, eV"),
    "energy_change_eV": ("Total energy", "change of the total energy, eV"),
}
"""Columns of a trajectory's history, with the title of their figure and the label of its axis."""


_ANGULAR = ("angular_change", "angular_impulse")


def column(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in fs, and one column of the history, where it was measured; empty if it never was."""
    pairs = np.array([(finite(row.get(TIME)), finite(row.get(name))) for row in history], dtype=float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(1)]
    return pairs[:, 0], pairs[:, 1]


def has_angular_momentum(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is something to draw for :func:`angular_momentum`."""
    names = [f"{prefix}_{axis}_eV_fs" for prefix in _ANGULAR for axis in "xyz"]
    lengths = {len(column(history, name)[0]) for name in names}
    return len(lengths) == 1 and 0 not in lengths


def column_of(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """:func:`column` of what has to be there.

    Raises:
        EquivProbeError: the history is not of a trajectory, or lacks the column.
    """
    times, values = column(history, name)
    if not len(times):
        found = ", ".join(dict.fromkeys(key for row in history for key in row)) or "no history"
        raise EquivProbeError(f"a report with {found}", f"a history with {TIME} and {name}")
    return times, values


@figure
def trajectory(
    history: Sequence[Mapping[str, Any]], name: str = "forces_rms_meV_per_A", ax: Axes | None = None
) -> Axes:
    """One column of a trajectory's history (see :data:`COLUMNS`) against time.

    Raises:
        EquivProbeError: the history is not of a trajectory, or lacks the column.
    """
    times, values = column_of(history, name)
    ax = axes_or_new(ax)
    ax.plot(times, values, color=ALARM, lw=1.8, marker="o", ms=3 if len(times) < 60 else 0)
    ax.set_xlabel("time, fs")
    ax.set_ylabel(COLUMNS[name][1] if name in COLUMNS else name)
    return tidied(ax)


@figure
def angular_momentum(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """How far the angular momentum has moved, beside what the model's own net torque makes, ``|∫ τ dt|``, in eV·fs.

    Raises:
        EquivProbeError: the history is not of a trajectory whose torque is known.
    """
    ax = axes_or_new(ax)
    for prefix, label, colour, style in (
        (_ANGULAR[0], "measured", ALARM, "-"),
        (_ANGULAR[1], "from the model's torque", CALM, "--"),
    ):
        parts = [column_of(history, f"{prefix}_{axis}_eV_fs") for axis in "xyz"]
        lengths = np.sqrt(sum(values**2 for _, values in parts))
        ax.plot(parts[0][0], lengths, color=colour, lw=1.8, ls=style, label=label)
    ax.set_xlabel("time, fs")
    ax.set_ylabel("change of angular momentum, eV·fs")
    ax.legend(loc="best")
    return tidied(ax)
