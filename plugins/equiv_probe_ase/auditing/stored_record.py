"""What a line of a journal must hold to be believed: files are damaged by crashes, full disks and editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping

_Number = Annotated[float, Meta(ge=-1e150, le=1e150)]
"""A larger one was not measured, and its square would overflow."""
_Positive = Annotated[float, Meta(gt=0, le=1e150)]
_Count = Annotated[int, Meta(ge=1, le=10**9)]
_Known = _Number | None
_TWO = Meta(min_length=2, max_length=2)
_Ends = Annotated[list[_Known], _TWO]
_Pair = Annotated[list[_Number], _TWO]
_Degrees = Annotated[list[_Known], Meta(min_length=6, max_length=6)]
_Position = Annotated[list[_Number], Meta(min_length=3, max_length=3)]
_Element = Annotated[str, Meta(pattern="^[A-Z][a-z]?$")]


class _Atom(msgspec.Struct):
    atom: Annotated[int, Meta(ge=0)]
    element: _Element
    rms: _Number


class _Angular(msgspec.Struct):
    power: _Degrees
    power_stderr: _Degrees
    rest: _Known
    by_angle: Annotated[list[Annotated[list[_Known], Meta(min_length=9, max_length=9)]], _TWO]
    by_axis: Annotated[list[Annotated[list[_Known], Meta(min_length=48, max_length=48)]], _TWO]


class _Losses(msgspec.Struct):
    total: _Number
    mean: _Number
    equiv: _Number
    weight: _Positive
    share_stderr: _Known
    share_interval: _Ends
    equiv_stderr: _Known
    equiv_interval: _Ends
    total_stderr: _Known
    mean_stderr: _Known
    unit: str
    residual: _Number = 0.0


class _Quantity(msgspec.Struct):
    rms: _Number
    equiv: _Number
    equiv_stderr: _Known
    equiv_interval: _Ends
    weight: _Positive
    size: _Known
    relative: _Known
    floor: _Known
    nondeterminism: _Known
    resolution: _Known
    plain: _Pair
    effective_rotations: _Number
    explained: _Known
    jolted: _Known
    deformed: _Known
    moved: _Known
    unmoved: bool
    notes: list[str]
    largest: _Number
    over_rotations: Annotated[list[_Number], Meta(min_length=1)]
    noise: _Number | msgspec.UnsetType = msgspec.UNSET
    pairing: _Pair | msgspec.UnsetType = msgspec.UNSET
    explained_at_moved: _Known = None
    torque_bound: _Number | msgspec.UnsetType = msgspec.UNSET
    elements: dict[_Element, tuple[_Number, _Positive]] = {}
    worst_atoms: list[_Atom] = []
    per_atom: list[_Number] | None = None
    angular: _Angular | None = None
    labelled: _Losses | None = None


class _Geometry(msgspec.Struct):
    symbols: list[_Element]
    positions: list[_Position]
    cell: Annotated[list[_Position], Meta(min_length=3, max_length=3)] | None


class _Named(msgspec.Struct):
    key: Annotated[str, Meta(min_length=1, max_length=100)]
    index: Annotated[int, Meta(ge=0)]
    name: str


class _Failed(_Named):
    error: str
    work: tuple[int, int] = (0, 0)


class _Measured(_Named):
    formula: Annotated[str, Meta(pattern=r"^([A-Z][a-z]?\d*)+$")]
    n_atoms: _Count
    rotations: _Count
    orientations: _Count
    quantities: dict[str, _Quantity]
    geometry: _Geometry
    from_origin: _Number
    extent: _Number
    constraints_left_out: list[str] = []
    work: tuple[int, int] = (0, 0)


class _Gradient(msgspec.Struct):
    gradient_of: str
    square: _Number = 0.0
    floor: _Known = 0.0
    size: _Known = 0.0


def is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is the record of a structure, of one that was measured or of one that failed."""
    if "error" in entry:
        return _fits(entry, _Failed)
    if not _fits(entry, _Measured):
        return False
    count, quantities = entry["n_atoms"], entry["quantities"].values()
    lengths = [len(entry["geometry"][name]) for name in ("symbols", "positions")]
    lengths += [len(one["per_atom"]) for one in quantities if one.get("per_atom") is not None]
    pairs_known = all(("noise" in one) == ("pairing" in one) for one in quantities)
    return pairs_known and set(lengths) == {count}


def is_gradient_check(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is the check of forces against an energy's gradient."""
    return _fits(entry, _Gradient)


def _fits(entry: Mapping[str, Any], kind: type) -> bool:
    try:
        msgspec.convert(entry, kind, strict=True)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True
