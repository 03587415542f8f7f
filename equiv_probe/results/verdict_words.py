"""Verdicts, floors and shares in words: what the headlines of several kinds of results have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.report.document import Verdict
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.report.document import Severity
    from equiv_probe.results.measured import Labelled, Measured

SEVERITY: Mapping[str, Severity] = {
    "broken": "bad",
    "discontinuous": "bad",
    "ill-conditioned": "bad",
    "above round-off": "fair",
    "path only": "fair",
    "unknown": "unknown",
    "": "unknown",
    "non-deterministic": "good",
    "round-off": "good",
}
"""How grave a verdict is, the worst first: a headline is about the quantity that is broken most."""
BROKEN = ("broken", "discontinuous", "ill-conditioned", "above round-off", "unknown", "")
"""Verdicts that leave something to look into."""
VERDICT_SENTENCES = {
    "broken": "Yes: the model does not respect rotation.",
    "discontinuous": "It cannot be decided: the outputs jump where inputs differ by rounding alone.",
    "ill-conditioned": "It cannot be decided: the model amplifies rounding far beyond what the precision explains.",
    "above round-off": "Slightly: there is more than rounding.",
    "round-off": "No: it respects rotation, down to rounding.",
    "non-deterministic": "It cannot be decided: repeating the same input varies as much.",
}


def severity(verdict: str) -> Severity:
    """How grave a verdict is."""
    return SEVERITY.get(verdict, "unknown")


def judged(m: Measured, *, doubted: bool) -> Verdict:
    """The verdict on a quantity as a cell; none is shown as good where a control failed."""
    grave = severity(m.verdict)
    return Verdict(m.verdict, "unknown" if doubted and grave == "good" else grave, m.sentence)


def rank(verdict: str) -> int:
    """The place of a verdict among all of them, the worst first."""
    return list(SEVERITY).index(verdict if verdict in SEVERITY else "unknown")


def beside_floor(rms: float, floor: float, nondeterminism: float, unit: str) -> list[str]:
    """How many times the higher of the two floors a root error is, in a sentence; none if there is no floor."""
    highest = max((one for one in (floor, nondeterminism) if math.isfinite(one)), default=0.0)
    if not highest > 0:
        return []
    why = "the same input, evaluated again, makes" if highest == nondeterminism > floor else "rounding leaves"
    return [f"{times(rms / highest)} times the floor of {f'{number(highest)} {unit}'.rstrip()} that {why}."]


def errors(name: str, unit: str, known: Labelled) -> list[str]:
    """The model's error against the reference, with and without the broken symmetry, where it is a squared error."""
    if not math.isfinite(known.share):  # the loss is zero
        return [f"Its {known.loss} loss against the reference {name} is {number(known.total)}: it has no share."]
    low, high = known.share_interval
    span = f" ({number(100 * low)} to {number(100 * high)} %)" if math.isfinite(low) else ""
    if known.loss != "mse" or not (known.total > 0 and known.mean > 0):
        if not is_there(known):
            return [f"No part of the {known.loss} loss against the reference could be attributed to it."]
        return [f"{percent(known.share)}{span} of the {known.loss} loss is due to it alone."]
    total, mean = math.sqrt(known.total), math.sqrt(known.mean)
    error = f"The model's error against the reference {name} is {f'{number(total)} {unit}'.rstrip()}."
    if not is_there(known):
        return [f"{error} No part of that could be attributed to broken symmetry."]
    return [
        f"{error} Averaged over orientations it would be {number(mean)}: {percent(known.share)}{span} of the squared "
        "error is broken symmetry alone."
    ]


def is_there(known: Labelled) -> bool:
    """Whether a share is more than chance: more than its error bar, two-sided at 5 %."""
    from scipy.special import stdtrit

    reach = float(stdtrit(max(known.structures - 1, 1), 0.975)) if known.structures > 1 else 2.0
    return known.share > 0 and not known.share <= reach * known.share_stderr


def times(ratio: float) -> str:
    """How many times, without needless digits."""
    return number(ratio, 2) if ratio < 1e4 else f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")


def percent(part: float) -> str:
    """A part of one in percent."""
    return "less than 1e-6 %" if abs(part) < 1e-8 else f"{number(100 * part)} %"
