"""``--fail-above``: limits with units, so that an audit can guard a release."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.structures.quantities import QUANTITIES

if TYPE_CHECKING:
    from equiv_probe.results.report import Report

_PREFIXES = {"": 1e3, "m": 1.0, "µ": 1e-3, "u": 1e-3}  # quantities are reported in milli-units
_DEFAULT_QUANTITY = {
    "eV/Å": "forces",
    "eV/atom": "energy",
    "eV/Å³": "stress",
    "e·Å": "dipole",
    "e": "charges",
    "μB": "magmoms",
}


@dataclass(frozen=True)
class Threshold:
    """A limit on ``√L_equiv`` of one quantity, in the unit that it is reported in."""

    quantity: str
    limit: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read ``1meV/A``, ``0.001 eV/Å``, ``energy=0.5meV/atom``, ``stress=1meV/A^3``.

        Raises:
            EquivProbeError: not a limit, an unknown unit, or a unit of another quantity.

        >>> Threshold.parse("0.001 eV/A")
        Threshold(quantity='forces', limit=1.0, text='0.001 eV/A')
        """
        named, _, value = text.rpartition("=")
        match = re.fullmatch(r"\s*([+]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([mµu]?)((?:eV|e|muB|μB).*?)\s*", value)
        if match is None:
            raise EquivProbeError(f"--fail-above {text}", "a number and a unit", "--fail-above 1meV/A")
        unit = match[3].replace("^", "").replace("Å", "A").replace("A3", "Å³").replace("A", "Å").replace("*", "·")
        unit = unit.replace("muB", "μB")
        quantity = named.strip() or _DEFAULT_QUANTITY.get(unit, "")
        known = QUANTITIES.get(quantity)
        if known is None or known.unit.removeprefix("m") != unit:
            expected = ", ".join(f"m{unit} ({name})" for unit, name in _DEFAULT_QUANTITY.items())
            raise EquivProbeError(f"--fail-above {text}", f"a unit among {expected}", "--fail-above 1meV/A")
        return cls(quantity, float(match[1]) * _PREFIXES[match[2]], text)


def exceeded(threshold: Threshold, report: Report) -> list[str]:
    """A line that says so if a report is above a limit, or has no measurement to hold against it."""
    try:
        measured = report[threshold.quantity]
    except KeyError:
        return [f"--fail-above {threshold.text}: {threshold.quantity} was not measured"]
    if measured.verdict == "unknown":
        return [f"--fail-above {threshold.text}: {measured.name}: {measured.sentence}"]
    if measured.rms <= threshold.limit:  # also false for NaN
        return []
    return [f"--fail-above {threshold.text}: √L_equiv of {measured.name} is {measured.rms:.4g} {measured.unit}"]
