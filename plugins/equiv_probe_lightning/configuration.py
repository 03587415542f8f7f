"""Schemas, plans and cadences as configuration files write them: words, numbers, lists and dicts."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import equiv_probe as ep
from equiv_probe.representations.representation import Representation

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
        value: such as ``"point"``, ``"tensor(2)"``, ``"voigt"``, ``"irreps('1x0e+1x2e')"``,
            ``"grid((5, scalar), vector, interpolation='linear')"``; or the thing itself.

    Raises:
        EquivProbeError: another name.

    >>> print(representation("tensor(2)"), representation("ep.vector"))
    tensor(2) vector
    >>> print(representation("grid((5, scalar), ep.vector, interpolation='linear')"))
    grid((5, ep.scalar), ep.vector, interpolation="linear")
    """
    if isinstance(value, Representation):
        return value
    with contextlib.suppress(ValueError, SyntaxError, TypeError):
        made = _made(ast.parse(str(value).strip(), mode="eval").body)
        if isinstance(made, Representation):
            return made
    raise ep.EquivProbeError(
        f"the representation {value!r}",
        f"one of {', '.join([*_PLAIN, 'tensor(<rank>)', 'voigt', 'irreps(...)', 'grid(...)'])}",
        'schema={"inputs": {"pos": "point"}, "outputs": {"forces": "vector"}}',
    )


def _made(node: ast.expr) -> Any:
    """A representation, or what one is made with, from a parsed expression; nothing else is evaluated.

    Raises:
        ValueError: anything else.
    """
    if isinstance(node, ast.Tuple):
        return tuple(_made(each) for each in node.elts)
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "ep":
        called = ast.Name(called.attr)
    if not isinstance(called, ast.Name) or called.id not in {**_PLAIN, **_MADE}:
        return ast.literal_eval(node)
    if not isinstance(node, ast.Call):
        return _PLAIN[called.id] if called.id in _PLAIN else _MADE[called.id]()
    if called.id in _PLAIN:
        raise ValueError(ast.unparse(node))
    options = {each.arg: _made(each.value) for each in node.keywords if each.arg}
    return _MADE[called.id](*(_made(each) for each in node.args), **options)


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
