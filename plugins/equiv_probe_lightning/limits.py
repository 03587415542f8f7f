"""Limits on the share of broken symmetry in a run: a warning as soon as it is passed, an error at the end."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.results.report import Report

CHANCE = 2.0
"""Standard errors by which a share may pass a limit by chance."""


class Limits:
    """The largest shares that are let pass.

    Args:
        warn_above: part of the loss, 0.1 for 10 %; None never warns.
        fail_above: likewise; None never fails.

    Raises:
        EquivProbeError: a limit that is no part of the loss.
    """

    def __init__(self, warn_above: float | None, fail_above: float | None) -> None:
        for name, limit in (("warn_above", warn_above), ("fail_above", fail_above)):
            if limit is not None and not 0 < limit < 1:
                raise ep.EquivProbeError(
                    f"{name}={limit}", "a part of the loss between 0 and 1", f"{name}=0.1 for 10 %"
                )
        self.fail_above = fail_above
        self._warn_above = min((one for one in (warn_above, fail_above) if one is not None), default=None)
        self._warned: set[str] = set()

    def look(self, logged: Mapping[str, Tensor]) -> None:
        """Warn of the shares of an evaluation that pass a limit by more than chance, once of each."""
        if self._warn_above is None:
            return
        for name, value in logged.items():
            stderr = logged.get(f"{name}_stderr")
            if not name.endswith("/share") or name in self._warned or stderr is None:
                continue
            share, error = float(value), float(stderr)
            if share - CHANCE * (error if math.isfinite(error) else 0.0) > self._warn_above:
                self._warned.add(name)
                amount = f"{100 * share:.3g} ± {100 * error:.2g} % of the loss is broken symmetry"
                warnings.warn(f"{name}: {amount}, more than {100 * self._warn_above:g} %", stacklevel=2)

    def exceeded(self, report: Report) -> str:
        """What fails a run, in words: of its evaluations, or without one of its training; empty if nothing does."""
        if self.fail_above is None:
            return ""
        shares = {row.name: row.labelled for row in report.measured if row.labelled is not None}
        evaluated = {name: one for name, one in shares.items() if not name.startswith("train/")} or shares
        known = {name: one for name, one in evaluated.items() if math.isfinite(one.share)}
        if not known:
            return "no share of a loss that was measured"
        return "; ".join(
            f"a share of {100 * one.share:.3g} % of {name}, at least {100 * least:.3g} % by its 95 % interval"
            for name, one in known.items()
            if (least := one.share_interval[0] if math.isfinite(one.share_interval[0]) else one.share) > self.fail_above
        )
