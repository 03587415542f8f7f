"""Dynamics that cannot go on: why, in one line, and the report of what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.dynamics.budget import known_results
from equiv_probe_ase.structures.loading import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase import Atoms

    from equiv_probe.results.report import Report


class BrokenOffError(EquivProbeError):
    """Dynamics that ended before its last step; ``report`` is of the steps before."""

    def __init__(self, found: str, expected: str, fix: str, report: Report) -> None:
        super().__init__(found, expected, fix)
        self.report = report

    def __reduce__(self) -> tuple[type[BrokenOffError], tuple[str, str, str, Report]]:  # type: ignore[override]
        """Pickle with the report."""
        return type(self), (self.found, self.expected, self.fix, self.report)


def stop_where_not_finite(dyn: Any, atoms: Atoms) -> Callable[[], None]:
    """Let dynamics stop at the first step whose forces are not finite: all that comes after is NaN too.

    Returns:
        The check that was attached; it costs nothing, and says nothing of forces that the calculator no longer has.
    """

    def check() -> None:
        for name, values in (("positions", atoms.positions), ("forces", known_results(atoms).get("forces"))):
            if values is None or np.isfinite(values).all():
                continue
            bad = np.flatnonzero(~np.isfinite(values).all(-1))
            where = f"{atoms.symbols[bad[0]]}{bad[0]}" if len(bad) == 1 else f"{len(bad)} of {len(atoms)} atoms"
            raise EquivProbeError(
                f"NaN or infinite {name} of {where}",
                "finite ones",
                "a shorter time step, a lower temperature, or a start from a relaxed structure",
            )

    dyn.attach(check, 1)
    return check


def not_begun(error: BaseException) -> EquivProbeError:
    """What to raise where the calculator failed at the first step: there is nothing to report."""
    return EquivProbeError(f"{_named(error)} from the calculator at the first step", "energy and forces")


def broken_off(error: BaseException, report: Report, step: int, trajectory: Path | None) -> BrokenOffError:
    """What to raise for an exception that ended dynamics in mid run, and how the ``trajectory`` helps to go on."""
    found, expected, fix = _named(error), "energy and forces", ""
    if isinstance(error, EquivProbeError):
        found, expected, fix = error.found, error.expected, error.fix
    found = f"{found}, after {step} steps"
    if not fix and trajectory is not None and trajectory.exists():
        fix = f"what failed; then --resume goes on from the last frame of {trajectory}"
    return BrokenOffError(found, expected, fix, replace(report, notes=[f"broken off: {found}", *report.notes]))


def _named(error: BaseException) -> str:
    words = printable(" ".join(str(error).split())[:500])
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
