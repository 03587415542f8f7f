"""Schemas, plans and cadences as configuration files write them: words, numbers, lists and dicts."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import equiv_probe as ep
from equiv_probe.representations import Representation

_PLAIN: dict[str, Representation] = {
    name: getattr(ep, name) for name in ("scalar", "pseudoscalar", "vector", "axial", "point", "fixed")
}
_MADE: dict[str, Callable[..., Representation]] = {
    "tensor": ep.tensor,
    "voigt": ep.voigt,
    "irreps": ep.irreps,
    "grid": ep.grid,
}


def representation(value: Any) -> Representation:
    """A representation from its name.

    Args:
        value: such as ``"point"``, ``"tensor(2)"``, ``"voigt"``, ``"irreps('1x0e+1x2e')"``; or the thing itself.

    Raises:
        EquivProbeError: another name.

    >>> print(representation("tensor(2)"), representation("ep.vector"))
    tensor(2) vector
    """
    if isinstance(value, Representation):
        return value
    match = re.fullmatch(r"(?:ep\.)?(\w+)(?:\((.*)\))?", str(value).strip())
    name, argument = match.groups() if match else ("", None)
    if name in _PLAIN and argument is None:
        return _PLAIN[name]
    if name in _MADE:
        try:
            made = _MADE[name](*([ast.literal_eval(argument)] if argument else []))
        except (ValueError, SyntaxError, TypeError):
            pass
        else:
            return made
    raise ep.EquivProbeError(
        f"the representation {value!r}",
        f"one of {', '.join([*_PLAIN, 'tensor(<rank>)', 'voigt', 'irreps(...)'])}",
        'schema={"inputs": {"pos": "point"}, "outputs": {"forces": "vector"}}',
    )


def schema(value: Any) -> ep.Schema | None:
    """A schema from ``{"inputs": {"pos": "point"}, "outputs": {...}}``, also with ``targets``, ``batch``, ``mask``.

    Raises:
        EquivProbeError: another key.
    """
    if value is None or isinstance(value, ep.Schema):
        return value
    known = {"inputs", "outputs", "targets", "batch", "mask"}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise ep.EquivProbeError(f"schema={value!r}", f"a mapping with some of {sorted(known)}", "ep.Schema(...)")
    groups = {
        key: {name: representation(each) for name, each in (value.get(key) or {}).items()}
        for key in ("inputs", "outputs", "targets")
    }
    inputs, outputs, targets = groups.values()
    return ep.Schema(inputs, outputs, targets, batch=value.get("batch"), mask=value.get("mask"))


def plan(value: Any) -> ep.RotationPlan | None:
    """A plan from the name of its design, or from a mapping of the plan's arguments.

    >>> print(plan({"design": "klein", "replicates": 2}))
    2 × klein = 8 rotations, degree 1, seed 0
    """
    if value is None or isinstance(value, ep.RotationPlan):
        return value
    if isinstance(value, str):
        return ep.RotationPlan(value)
    try:
        return ep.RotationPlan(**value)
    except TypeError as error:
        expected = '"tetrahedral", or {"design": "tetrahedral", "replicates": 4}'
        raise ep.EquivProbeError(f"the plan {value!r} ({error})", expected, 'ep.RotationPlan("tetrahedral")') from error
