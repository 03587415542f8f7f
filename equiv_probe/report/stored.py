"""Saved reports come from files: before anything is made of one, it is held against what a report looks like.

Shapes are plain data: ``NUMBER`` and ``TEXT``, a list of one shape, :class:`Each` for dicts with any names, and dicts
of shapes by name, in which names that end in ``?`` may be missing. Further entries are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.files import parsed
from equiv_probe.report.formatting import finite
from equiv_probe.report.stored_data import without_nan

__all__ = ["ANY", "COUNT", "FLAG", "NUMBER", "TEXT", "Each", "Maybe", "finite", "parsed", "require", "without_nan"]
NUMBER, COUNT, TEXT, FLAG, ANY = "a number or null", "a number", "a text", "true or false", "anything"


@dataclass(frozen=True)
class Each:
    """A dict whose values are all of one shape."""

    of: Any


@dataclass(frozen=True)
class Maybe:
    """A shape, or null."""

    of: Any


def require(found: Any, shape: Any, where: str = "") -> None:
    """Hold stored data against its shape.

    Raises:
        EquivProbeError: it is not like that; the message says where.
    """
    if isinstance(shape, Maybe):
        if found is not None:
            require(found, shape.of, where)
    elif isinstance(shape, str):
        _require_scalar(found, shape, where)
    elif isinstance(shape, (list, tuple)):
        fits = isinstance(found, (list, tuple)) and (isinstance(shape, list) or len(found) == len(shape))
        _require(fits, found, "a list" if isinstance(shape, list) else f"{len(shape)} numbers", where)
        for place, entry in enumerate(found):
            require(entry, shape[0], f"{where}[{place}]")
    else:
        _require(isinstance(found, dict), found, "an object", where)
        for name, inner in dict.fromkeys(found, shape.of).items() if isinstance(shape, Each) else shape.items():
            _require_entry(found, name, inner, where)


def _require_entry(found: dict[str, Any], name: str, shape: Any, where: str) -> None:
    plain = name if name in found else name.removesuffix("?")
    at = f"{where}.{_brief(plain)[1:-1]}".removeprefix(".")
    if plain in found:
        require(found[plain], shape, at)
    elif plain == name:
        raise EquivProbeError(f"no {at}", "it to be there", 'what report.save("report.json") writes')


def _require_scalar(found: Any, shape: str, where: str) -> None:
    if shape in {NUMBER, COUNT}:
        fits = (found is None and shape == NUMBER) or (
            isinstance(found, (int, float)) and not isinstance(found, bool) and abs(found) < 2.0**1000
        )
    elif shape == TEXT:
        fits = isinstance(found, str)
    else:
        fits = shape == ANY or isinstance(found, bool)
    _require(fits, found, shape, where)


def _require(fits: bool, found: Any, expected: str, where: str) -> None:
    if not fits:
        kind = "null" if found is None else f"{type(found).__name__} {_brief(found)}"
        raise EquivProbeError(
            f"{where.removeprefix('.') or 'a report'}: {kind}", expected, 'what report.save("report.json") writes'
        )


def _brief(found: Any) -> str:
    if isinstance(found, (dict, list)):
        return f"of {len(found)}"
    text = repr(found) if not isinstance(found, int) or abs(found) < 2**63 else "beyond all measure"
    return text if len(text) < 60 else f"{text[:50]}…"
