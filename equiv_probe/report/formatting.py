"""Numbers, intervals and foreign text as people read them, and shares in percent."""

from __future__ import annotations

import math
import sys
from typing import Any
from unicodedata import category

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def number(value: float, digits: int = 3) -> str:
    """Significant digits, without needless exponents; a dash for what was not measured.

    >>> number(46865.1), number(2.9593), number(0.0), number(2.5e-5)
    ('46865', '2.96', '0', '2.5e-5')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        power = int(f"{value:.{digits - 1}e}".split("e")[1])  # of the rounded value: 0.9999999 is 1.00, not 1.000
        return f"{value:.{max(0, digits - 1 - power)}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def finite(found: Any) -> float:
    """A stored number; NaN for whatever is none."""
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number and abs(found) <= sys.float_info.max else math.nan


def counted(found: Any) -> str:
    """A stored count; a dash for what is none."""
    return f"{finite(found):.0f}" if math.isfinite(finite(found)) else "–"


def shown(text: str) -> str:
    r"""Text as it can be shown: what would move the cursor or reverse the direction of writing is shown as its code.

    >>> shown("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    """
    return "".join(repr(c)[1:-1] if _acts(c) else c for c in text) if any(map(_acts, text)) else text


def _acts(character: str) -> bool:
    kind = category(character)
    return (kind == "Cc" and character not in "\n\t") or kind == "Cs" or character in _DIRECTIONS


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


WIDE = 1e6
"""Between the ends of an interval of positive numbers from which on it says nothing, as where rounding is estimated."""
UNDETERMINED = "not determined"


def says_nothing(low: float, high: float) -> bool:
    """Whether an interval is so wide that its ends would only be taken for numbers.

    >>> says_nothing(9.8e-4, 4.0e43), says_nothing(1.0, 30.0), says_nothing(-1.0, 1e9)
    (True, False, False)
    """
    return low > 0 and high > WIDE * low


def span(low: float, high: float, digits: int = 3) -> str:
    """An interval in a sentence, ``128 to 148``; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return UNDETERMINED if says_nothing(low, high) else f"{number(low, digits)} to {number(high, digits)}"


def interval(low: float, high: float) -> str:
    """A 95 % interval, or nothing where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return UNDETERMINED if says_nothing(low, high) else f"[{number(low)}, {number(high)}]"


def with_error(value: float, error: float) -> str:
    """A value with its standard error, where there is one."""
    return f"{number(value)} ± {number(error, 2)}" if math.isfinite(error) else number(value)


def percent(share: float) -> str:
    """A share in percent."""
    return "< 1e-6 %" if abs(share) < 1e-8 else f"{number(100 * share)} %"


def bar(part: float, length: int = 8) -> str:
    """A bar of so many characters, in eighths of one; empty where there is no number.

    >>> bar(0.5), bar(0.125), bar(2.0, 4), bar(float("nan"))
    ('████', '█', '████', '')
    """
    if not math.isfinite(part):
        return ""
    eighths = round(8 * length * min(1.0, max(0.0, part)))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
