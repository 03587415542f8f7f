"""Saved reports come from files: before anything is made of one, it is held against what a report looks like.

Shapes are plain data: ``NUMBER`` and ``TEXT``, a list of one shape, :class:`Each` for dicts with any names, and dicts
of shapes by name, in which names that end in ``?`` may be missing. Further entries are left alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import finite

if TYPE_CHECKING:
    from pathlib import Path

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


_SPAN = (NUMBER, NUMBER)
_ATOM = {"atom": COUNT, "element": TEXT, "rms": NUMBER}
_LOSSES = dict.fromkeys(("total", "total_stderr", "mean", "mean_stderr", "equiv", "equiv_stderr"), NUMBER)
_SHARE = {"equiv_interval": _SPAN, "share": NUMBER, "share_stderr": NUMBER, "share_interval": _SPAN}
_MEASURED = {
    **dict.fromkeys(("name", "unit", "verdict", "sentence"), TEXT),
    **dict.fromkeys(("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism"), NUMBER),
    "structures": COUNT,
    "rms_interval": _SPAN,
    "largest?": NUMBER,
    "over_structures?": {f"{name}?": NUMBER for name in ("q5", "q25", "q50", "q75", "q95", "max")} | {"worst?": TEXT},
    "over_rotations?": Each(NUMBER),
    "by_element?": Each({"rms": NUMBER, "atoms": COUNT}),
    "worst_atoms?": [{**_ATOM, "structure": TEXT}],
    "labelled?": Maybe({"loss": TEXT, "unit": TEXT, "structures": COUNT, **_LOSSES, **_SHARE}),
    "angular?": Each(ANY),
}
_ANGULAR = {
    "power": [NUMBER],
    "stderr": [NUMBER],
    "rest": NUMBER,
    "rest_stderr": NUMBER,
    "by_angle": (NUMBER,) * 9,
    "by_axis": (NUMBER,) * 48,
}
_QUANTITY = {
    **dict.fromkeys(("rms?", "equiv?", "weight?"), NUMBER),
    "worst_atoms?": [_ATOM],
    "labelled?": Maybe(dict.fromkeys(("total?", "mean?", "equiv?", "weight?"), NUMBER)),
}
_STRUCTURE = {"name": TEXT, "formula": TEXT, "n_atoms": COUNT, "rotations": COUNT, "quantities": Each(_QUANTITY)}
_OVER = {
    **dict.fromkeys(("over", "stage", "name", "loss"), TEXT),
    "outside": COUNT,
    "bins": [{"low": COUNT, "high": COUNT, "structures": COUNT, **_LOSSES, **_SHARE}],
}
_GRADIENT = dict.fromkeys(
    ("norm_total", "norm_mean", "norm_equiv", "ratio", "cosine", "squared_mean", "squared_equiv", "inner"), NUMBER
)
_GRADIENTS = {
    "over": TEXT,
    "groups": Each({
        "parameters": NUMBER,
        "units": COUNT,
        **_GRADIENT,
        **{f"{name}_stderr": NUMBER for name in _GRADIENT},
        **{f"{name}_interval": _SPAN for name in _GRADIENT},
    }),
    "history?": [Each(NUMBER)],
}  # fmt: skip
REPORT = {
    "model": TEXT,
    "source": TEXT,
    "protocol": Each(ANY),
    "measured": [_MEASURED],
    "structures?": [_STRUCTURE],
    "failures?": [{"name": TEXT, "error": TEXT}],
    "notes?": [TEXT],
    "blind_spots?": [TEXT],
    "complete?": FLAG,
    "history?": [{"step?": NUMBER, "stage?": TEXT, "output?": TEXT}],
    "over?": [_OVER],
    "gradients?": Each(_GRADIENTS),
}


def parsed(path: Path) -> Any:
    """The JSON of a file; NaN and infinities, which some writers put there, are null.

    Raises:
        EquivProbeError: there is no file, or not JSON in it.
    """
    if not path.is_file():
        raise EquivProbeError(f"no file {path}", "a report that was saved as JSON")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin with a mark of byte order
        return without_nan(json.loads(text))
    except (ValueError, RecursionError) as error:  # of nesting without end
        reason = f"{type(error).__name__}: {error}"
        raise EquivProbeError(
            f"{path}, which is not JSON ({reason})", 'what report.save("report.json") writes'
        ) from error


def require_report(found: Any) -> None:
    """Hold stored data against what a report looks like.

    Raises:
        EquivProbeError: it is not like that; the message says where.
    """
    require(found, REPORT)
    for place, entry in enumerate(found["measured"]):
        angular, where = entry.get("angular"), f"measured[{place}].angular"
        if angular:
            require(angular, _ANGULAR, where)
            power, stderr = angular["power"], angular["stderr"]
            _require(len(power) == len(stderr), stderr, f"as many as of power, {len(power)}", f"{where}.stderr")


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


def without_nan(value: Any) -> Any:
    """Replace NaN and infinities by None, which JSON has."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
