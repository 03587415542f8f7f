"""A representation from what a person writes: the thing itself, or its name as a string.

>>> print(representation("tensor(2)"), representation("ep.vector"))
tensor(2) vector
>>> print(representation("grid((5, scalar), ep.vector, interpolation='linear')"))
grid((5, ep.scalar), ep.vector, interpolation="linear")
"""

from __future__ import annotations

import ast
from typing import Any

from equiv_probe.errors import EquivProbeError, did_you_mean
from equiv_probe.representations import frames, grids  # noqa: F401 - they register
from equiv_probe.representations.interface import Representation
from equiv_probe.representations.registry import CONSTANTS, MAKERS


def representation(given: Any) -> Representation:
    """The representation that was given, or that a string names.

    Args:
        given: a representation, or its name with its arguments: ``"point"``, ``"ep.vector"``, ``"tensor(2)"``,
            ``"voigt"``, ``"irreps('1x0e+1x2e')"``, ``"concat(point, 6)"``, ``"grid((5, scalar), vector)"``.

    Raises:
        EquivProbeError: another name, with those that are spelled like it, or arguments that do not fit.
    """
    if isinstance(given, Representation):
        return given
    try:
        if isinstance(given, str):
            made = _made(ast.parse(given.strip(), mode="eval").body)
            if isinstance(made, Representation):
                return made
    except (ValueError, SyntaxError, TypeError):
        pass
    meant = did_you_mean(str(given).removeprefix("ep.").partition("(")[0], [*CONSTANTS, *MAKERS])
    raise EquivProbeError(
        f"the representation {given!r}",
        f"one of {', '.join([*CONSTANTS, *(f'{name}(...)' for name in MAKERS)])}{meant}",
        'ep.Schema({"pos": "point"}, {"forces": "vector"})',
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
    if not isinstance(called, ast.Name) or called.id not in {**CONSTANTS, **MAKERS}:
        return ast.literal_eval(node)
    if not isinstance(node, ast.Call):
        return CONSTANTS[called.id] if called.id in CONSTANTS else MAKERS[called.id]()
    if called.id in CONSTANTS:
        raise ValueError(ast.unparse(node))
    options = {each.arg: _made(each.value) for each in node.keywords if each.arg}
    return MAKERS[called.id](*(_made(each) for each in node.args), **options)
