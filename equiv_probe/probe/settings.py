"""The environment variable ``EQUIV_PROBE``: whether to measure, and how."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from equiv_probe.deprecation import warn
from equiv_probe.errors import EquivProbeError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE = "EQUIV_PROBE"

_OFF, _ON = {"", "0", "false", "off", "no"}, {"1", "true", "on", "yes"}
_WORDS: dict[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "none": None}
_NAMES = {"network", "center", "over"}
"""Settings whose value is a name, even if it looks like a number: children of ``nn.Sequential`` are called 0, 1, …"""
OLD_NAMES = {"budget": "cost"}
"""What a setting is called now, by what it was called before."""


def parse(text: str | None, known: Iterable[str]) -> dict[str, Any] | None:
    """Read the variable.

    Args:
        text: ``"1"``; ``"every=100,augment=true"``; or JSON: ``'{"schema": {"inputs": {"x": "point"}}}'``. In a list of
            stages or edges of bins ``+`` stands between them: ``"stages=train+val"``, ``"over=t,bins=0+0.5+1"``.
        known: the settings there are.

    Returns:
        The settings; None if it is unset, or says no.

    Raises:
        EquivProbeError: an unknown setting, or one without a value.

    >>> parse("every=100,augment=true,cost=none,network=model.net", ["every", "augment", "cost", "network"])
    {'every': 100, 'augment': True, 'cost': None, 'network': 'model.net'}
    >>> parse("over=t,bins=0+100+1000", ["over", "bins"])
    {'over': 't', 'bins': [0.0, 100.0, 1000.0]}
    >>> parse('every=5,schema={"inputs": {"x": "point", "v": "vector"}}', ["every", "schema"])
    {'every': 5, 'schema': {'inputs': {'x': 'point', 'v': 'vector'}}}
    """
    text = (text or "").strip()
    if text.lower() in _OFF:
        return None
    if text.lower() in _ON:
        return {}
    known = list(known)
    try:
        found: dict[str, Any] = json.loads(text) if text.startswith("{") else dict(_pair(part) for part in _parts(text))
    except ValueError as error:
        raise _unreadable(text, known) from error
    for old in OLD_NAMES.keys() & found.keys():
        warn(f"the setting {old} is now called {OLD_NAMES[old]}", stacklevel=3)
        found[OLD_NAMES[old]] = found.pop(old)
    for name in found:
        if name not in known:
            raise _unreadable(text, known, nearest(name, known))
    return dict(found)


def written(settings: Mapping[str, Any]) -> str:
    """Undo :func:`parse`.

    >>> written({"every": 100, "augment": True})
    '{"every": 100, "augment": true}'
    """
    return json.dumps(dict(settings)) if settings else "1"


def _parts(text: str) -> list[str]:
    """The settings in a text; a value in braces may have commas of its own, and then is the last."""
    before, brace, after = text.partition("={")
    parts = before.split(",")
    return [part for part in (*parts[:-1], parts[-1] + brace + after) if part]


def _pair(part: str) -> tuple[str, Any]:
    key, separator, value = (piece.strip() for piece in part.partition("="))
    if not separator or not value:
        raise ValueError(part)
    return key, value if key in _NAMES else _value(key, value)


def _value(key: str, value: str) -> Any:
    if value.startswith("{"):
        return json.loads(value)
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if key == "stages":
        return value.split("+")
    if key == "bins" and "+" in value:
        return [float(edge) for edge in value.split("+")]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _unreadable(text: str, known: list[str], near: str = "") -> EquivProbeError:
    fix = f"did you mean {near}?" if near else f'{VARIABLE}="every=100,seed=1"'
    return EquivProbeError(f"{VARIABLE}={text!r}", f"1, or some of {', '.join(known)}, each with a value", fix)
