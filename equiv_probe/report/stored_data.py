"""Data of files, made ready for typed records: NaN where a number is null, and each fault with its place.

JSON has no NaN: what was not measured is null there, and comes back as NaN wherever a record's type says ``float``.
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from equiv_probe.errors import EquivProbeError

T = TypeVar("T")
FIX = 'load a file that save("report.json") wrote'
BEYOND = 2.0**1000
"""No measured number is as large, and its square would overflow."""


def converted(stored: Any, kind: type[T]) -> T:
    """Make a typed record of plain data; entries that the type does not know are left out.

    Raises:
        EquivProbeError: a wrong or missing entry; the message says which and where.
    """
    _require_sizes(stored)
    types: Any = _type_of(kind)  # type: ignore[arg-type]  # types can be hashed
    try:
        return msgspec.convert(_with_nan(stored, types), kind, strict=True, dec_hook=_tensor)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _taught(str(error), stored) from error
    except UnicodeEncodeError as error:
        raise EquivProbeError(f"half a character, {error.object[error.start]!a}, in a text", "Unicode", FIX) from error


def plain(value: Any) -> Any:
    """Dicts, lists and numbers of a record; what was not measured is None.

    Raises:
        EquivProbeError: something in it cannot be stored.
    """
    try:
        return without_nan(msgspec.to_builtins(value, enc_hook=_plain_one))
    except (TypeError, NotImplementedError) as error:
        raise EquivProbeError(f"a record with {error}", "numbers, texts, lists and dicts") from error


def without_nan(value: Any) -> Any:
    """Replace NaN and infinities by None, which JSON has."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema of a record's type, in which every number that may be missing may be null."""
    found: dict[str, Any] = msgspec.json.schema(kind, schema_hook=_schema_of_tensor)
    return _nullable(found)  # type: ignore[no-any-return]


def _nullable(node: Any) -> Any:
    if isinstance(node, dict):
        inner = {key: _nullable(entry) for key, entry in node.items()}
        return {**inner, "type": ["number", "null"]} if inner.get("type") == "number" else inner
    return [_nullable(entry) for entry in node] if isinstance(node, list) else node


def _plain_one(value: Any) -> Any:
    """NumPy's and torch's numbers and arrays as plain ones, and children of plain types as these."""
    if hasattr(value, "tolist"):
        return value.tolist()
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise NotImplementedError(f"a {type(value).__name__}")


def _tensor(_: type[Any], value: Any) -> Any:
    """The numbers of a list as a tensor of double precision, the only type that the library does not know."""
    if not isinstance(value, list) or not all(type(one) in {float, int, type(None)} for one in value):
        raise ValueError("not a list of numbers")
    torch = import_module("torch")
    return torch.tensor([math.nan if one is None else float(one) for one in value], dtype=torch.float64)


def _schema_of_tensor(_: type[Any]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number"}}


@cache
def _type_of(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _with_nan(value: Any, kind: inspect.Type) -> Any:
    """Put NaN in the place of None where the type asks for a number, and leave out fields that it does not know."""
    if isinstance(kind, inspect.UnionType):
        kind = _of_union(value, kind.types)
    if isinstance(kind, inspect.FloatType):
        return math.nan if value is None else value
    if isinstance(value, dict):
        if isinstance(kind, (inspect.StructType, inspect.TypedDictType, inspect.DataclassType)):
            types = {one.encode_name: one.type for one in kind.fields}
            return {name: _with_nan(entry, types[name]) for name, entry in value.items() if name in types}
        if isinstance(kind, inspect.DictType):
            return {name: _with_nan(entry, kind.value_type) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        if isinstance(kind, inspect.TupleType) and len(kind.item_types) == len(value):
            return [_with_nan(entry, one) for entry, one in zip(value, kind.item_types, strict=True)]
        if isinstance(kind, (inspect.ListType, inspect.VarTupleType)):
            return [_with_nan(entry, kind.item_type) for entry in value]
    return value


_FORMS: dict[type, tuple[type[Any], ...]] = {
    type(None): (inspect.NoneType, inspect.FloatType),
    dict: (inspect.StructType, inspect.TypedDictType, inspect.DataclassType, inspect.DictType),
    list: (inspect.TupleType, inspect.ListType, inspect.VarTupleType),
}
_FORMS[tuple] = _FORMS[list]


def _of_union(value: Any, types: tuple[inspect.Type, ...]) -> inspect.Type:
    """The first of the types that is of the value's form; of None a number only where None itself is not allowed."""
    fitting = [one for one in types if isinstance(one, _FORMS.get(type(value), ()))]
    return min(fitting, key=lambda one: isinstance(one, inspect.FloatType), default=inspect.AnyType())


def _require_sizes(value: Any, where: str = "") -> None:
    """Refuse numbers too large for a measurement, wherever they are."""
    if isinstance(value, dict):
        for name, entry in value.items():
            _require_sizes(entry, f"{where}.{_brief(name)[1:-1]}")
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            _require_sizes(entry, f"{where}[{place}]")
    elif isinstance(value, (int, float)) and abs(value) >= BEYOND:
        raise EquivProbeError(f"{where.removeprefix('.')}: a number too large for a measurement", "below 2¹⁰⁰⁰", FIX)


def _taught(said: str, stored: Any) -> EquivProbeError:
    """The error that says what was found where, and what was expected, from msgspec's message."""
    said, _, path = said.partition(" - at `$")
    where = path.rstrip("`").removeprefix(".")
    if missing := re.match(r"Object missing required field `(.*)`", said):
        at = f"{where}.{missing[1]}".removeprefix(".")
        return EquivProbeError(f"no {at}", "it to be there", FIX)
    if wrong := re.match(r"Expected `(.*)`(.*?), got `?([^`]*)`?$", said):
        value = _at(stored, where)
        brief = "" if value is _UNKNOWN or value is None else f" {_brief(value)}"
        what = "a list" if wrong[3].isdigit() else _WORDS.get(wrong[3], wrong[3])  # of another length
        found = f"{where or 'a report'}: {what}{brief}"
        return EquivProbeError(found, f"{_expected(wrong[1])}{wrong[2]}", FIX)
    return EquivProbeError(f"{where}: {said}" if where else said[:300], "another value", FIX)


_WORDS = {"object": "an object", "array": "a list", "str": "a text", "float": "a number", "int": "a whole number"}
_WORDS |= {"bool": "true or false", "null": "null"}
_UNKNOWN = object()


def _expected(types: str) -> str:
    """``float | null`` in words."""
    return " or ".join(_WORDS.get(one, one) for one in types.split(" | "))


def _at(stored: Any, where: str) -> Any:
    """The value at a place; keys of dicts with any names are not in the message."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d*|\.\.\.)\]", where):
        try:
            stored = stored[name] if name else stored[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return _UNKNOWN
    return stored


def _brief(found: Any) -> str:
    if isinstance(found, (dict, list)):
        return f"of {len(found)}"
    text = repr(found) if not isinstance(found, int) or abs(found) < 2**63 else "too large"
    return text if len(text) < 60 else f"{text[:50]}…"
