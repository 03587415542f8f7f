"""Is an ``L_equiv`` of a loss more than rounding? A verdict beside the floor, and beside the resolution of the loss."""

from __future__ import annotations

import math

import torch

from equiv_probe.estimation.verdict import Verdict

AT_FLOOR = 10.0
"""Times the floor that rounding may make: of two random differences of the same kind one may well be so much larger."""
COARSE = 1e-4
"""Spacing of numbers, relative to them, of half precision and below."""
CHANCE = 2.0
"""Standard errors that chance may make."""
SMALL = 1e-3
"""A share that is more than rounding, and hardly matters."""


def verdict_of_loss(equiv: float, stderr: float, total: float, floor: float, precision: float) -> Verdict:
    """Compare ``L_equiv`` with what the same measurement reads from rounding.

    Args:
        equiv: ``L_equiv``.
        stderr: its standard error; NaN if there is none.
        total: ``L_total``.
        floor: ``L_equiv`` where only rounding differs; NaN if it was not measured.
        precision: spacing of the numbers in which the loss came, relative to it: differences below are not resolved.
    """
    if not (math.isfinite(equiv) and math.isfinite(total) and total > 0):
        return Verdict("unknown", "")
    share, resolved = f"{100 * equiv / total:.2g} % of the loss", precision * total
    if resolved > 0 and abs(equiv) <= resolved:
        why = f"the loss is computed in {_named(precision)}, which resolves {100 * precision:.2g} % of it"
        return Verdict("round-off", f"{share} is no more than rounding: {why}")
    if not math.isfinite(floor):
        return Verdict("unknown", "")
    base = max(abs(floor), resolved)
    why = f"rounding alone makes {100 * base / total:.2g} %"
    # Of a coarse type the spacing itself is the limit: ten times as much would be a good part of the loss.
    if abs(equiv) <= AT_FLOOR * base and (base > resolved or precision < COARSE):
        return Verdict("round-off", f"{share} is no more than rounding: {why}")
    if equiv < CHANCE * stderr or equiv < 0:
        found = "no more than its error bar" if abs(equiv) < CHANCE * stderr else f"negative: {share}"
        return Verdict("unknown", f"{found}, where {why}")
    small = equiv <= SMALL * total
    said = f"{'small but real' if small else 'broken'}: {share}, where {why}"
    return Verdict("above round-off" if small else "broken", said)


def _named(precision: float) -> str:
    """The type of numbers with a spacing."""
    types = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    named = min(types, key=lambda one: abs(math.log(torch.finfo(one).eps / precision)))
    return str(named).removeprefix("torch.")
