"""What a report keeps of its structures: columns of numbers, and details of the worst ones alone.

Ten thousand structures are ten thousand entries in each of some twenty columns. Read as a sequence the table gives a
record for each structure, as the journal of an audit holds them, without what is only summed up (single rotations,
spectra, elements).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypedDict, overload

import msgspec

from equiv_probe.report.record import Part
from equiv_probe.report.stored_data import converted

WORST = 12
"""Structures of which the worst atoms are kept, by quantity: as many as a page lists."""
_LABELLED, _INTERVAL, _ENDS = "labelled.", "_interval", ("low", "high")
_USUAL = ("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism", "largest", "weight")
"""Numbers that every record has, None where they were not measured."""
_OF_ATOMS = ("worst_atoms", "per_atom")

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    StructureRecord = dict[str, Any]
    Detail = dict[str, Any]
    _Stored = dict[str, Any]
else:  # what is read from files is held to this

    class _Atom(TypedDict):
        atom: int
        element: str
        rms: float | None

    class _OfAtoms(TypedDict, total=False):
        worst_atoms: list[_Atom]
        per_atom: Any

    class Detail(TypedDict, total=False):
        """What is kept of a structure that is to be looked at."""

        geometry: Any
        quantities: dict[str, _OfAtoms]

    class _Losses(TypedDict, total=False):
        total: float | None
        mean: float | None
        equiv: float | None
        weight: float | None
        total_stderr: float | None
        mean_stderr: float | None
        equiv_stderr: float | None
        equiv_interval: list[float | None]
        share_stderr: float | None
        share_interval: list[float | None]

    class _Quantity(_OfAtoms, total=False):
        rms: float | None
        equiv: float | None
        equiv_stderr: float | None
        equiv_interval: list[float | None]
        weight: float | None
        size: float | None
        relative: float | None
        floor: float | None
        nondeterminism: float | None
        resolution: float | None
        largest: float | None
        torque_bound: float | None
        labelled: _Losses | None

    class _Needed(TypedDict):
        name: str
        formula: str
        n_atoms: int
        rotations: int
        quantities: dict[str, _Quantity]

    class StructureRecord(_Needed, total=False):
        """One structure: what it is, and every quantity's numbers."""

        key: str
        index: int
        geometry: Any

    class _Stored(TypedDict):
        structures: list[StructureRecord]


class StructureTable(Part, frozen=True):
    """Structures in columns.

    Attributes:
        name: of each structure.
        formula: its chemical formula.
        n_atoms: how many atoms it has.
        rotations: how many it was measured at.
        key: its place in the source and a digest of it; empty where it has none.
        index: its place in the source; empty where none is known.
        quantities: by quantity and by number a column, NaN where a structure does not have it. Errors are in the
            quantity's unit, ``labelled.total`` and so on losses against reference values.
        details: by place in the columns, of structures that are to be looked at: ``geometry`` (symbols, positions and
            cell in Å), and by quantity ``worst_atoms`` and ``per_atom`` errors.
    """

    name: list[str] = msgspec.field(default_factory=list)
    formula: list[str] = msgspec.field(default_factory=list)
    n_atoms: list[int] = msgspec.field(default_factory=list)
    rotations: list[int] = msgspec.field(default_factory=list)
    key: list[str] = msgspec.field(default_factory=list)
    index: list[int] = msgspec.field(default_factory=list)
    quantities: dict[str, dict[str, list[float]]] = msgspec.field(default_factory=dict)
    details: dict[str, Detail] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        count = len(self.name)
        columns: dict[str, Sequence[Any]] = {"formula": self.formula, "n_atoms": self.n_atoms}
        columns |= {"rotations": self.rotations, "key": self.key or self.name, "index": self.index or self.name}
        columns |= {f"{q}.{key}": column for q, one in self.quantities.items() for key, column in one.items()}
        for name, column in columns.items():
            if len(column) != count:
                raise ValueError(f"structures.{name}: {len(column)} entries for {count} structures")
        for place in self.details:
            if not (place.isdecimal() and int(place) < count):
                raise ValueError(f"structures.details: no structure {place[:20]!r}")

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> StructureTable:
        """From a record for each structure, as an audit's journal holds them."""
        places: dict[str, dict[str, list[float]]] = {}
        for place, record in enumerate(records):
            for name, values in record["quantities"].items():
                columns = places.setdefault(name, {})
                for key, value in _numbers(values):
                    columns.setdefault(key, [math.nan] * len(records))[place] = value
        return cls(
            [record["name"] for record in records],
            [record["formula"] for record in records],
            [record["n_atoms"] for record in records],
            [record["rotations"] for record in records],
            [record.get("key", "") for record in records] if any("key" in record for record in records) else [],
            [record["index"] for record in records] if all("index" in record for record in records) else [],
            places,
            _details(records),
        )

    @classmethod
    def of_version_1(cls, stored: Any) -> StructureTable:
        """From the list of records that files of version 1 hold.

        Raises:
            EquivProbeError: a wrong entry, with its place.
        """
        return cls.of(converted({"structures": stored}, _Stored)["structures"])

    def __len__(self) -> int:
        return len(self.name)

    def __iter__(self) -> Iterator[StructureRecord]:
        return (self[place] for place in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> StructureRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[StructureRecord]: ...
    def __getitem__(self, place: int | slice) -> StructureRecord | list[StructureRecord]:
        """The record of one structure: plain data, None where something was not measured."""
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]
        detail: Mapping[str, Any] = self.details.get(str(place), {})
        quantities = {}
        for name, columns in self.quantities.items():
            numbers = {key: column[place] for key, column in columns.items() if math.isfinite(column[place])}
            if numbers:
                quantities[name] = _quantity(numbers) | detail.get("quantities", {}).get(name, {})
        record: StructureRecord = {"name": self.name[place], "formula": self.formula[place]}
        record |= {"n_atoms": self.n_atoms[place], "rotations": self.rotations[place], "quantities": quantities}
        record |= {"key": self.key[place]} if self.key else {}
        record |= {"index": self.index[place]} if self.index else {}
        return record | ({"geometry": detail["geometry"]} if "geometry" in detail else {})


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Everything in a quantity's values that is one number or the ends of an interval, also of its losses."""
    for key, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield key, float(value)
        elif key.endswith(_INTERVAL) and len(value) == 2:
            yield from ((f"{key}.{end}", float(x)) for end, x in zip(_ENDS, value, strict=True) if x is not None)
    if losses := values.get("labelled"):
        yield from ((_LABELLED + key, value) for key, value in _numbers(losses))


def _quantity(numbers: Mapping[str, float]) -> dict[str, Any]:
    """One structure's values of a quantity; its losses apart, if it has any."""
    found: dict[str, Any] = dict.fromkeys(_USUAL)
    losses: dict[str, Any] = {}
    for key, value in numbers.items():
        into, name = (losses, key.removeprefix(_LABELLED)) if key.startswith(_LABELLED) else (found, key)
        interval, is_end, end = name.partition(f"{_INTERVAL}.")
        if is_end:
            into.setdefault(interval + _INTERVAL, [None, None])[_ENDS.index(end)] = value
        else:
            into[name] = value
    return found | ({"labelled": losses} if losses else {})


def _details(records: Sequence[Mapping[str, Any]]) -> dict[str, Detail]:
    """Values by atom of structures with a geometry, and the worst atoms of the worst structures."""
    worst: set[tuple[int, str]] = set()
    for name in {name for record in records for name in record["quantities"]}:
        having = {k: one["quantities"][name].get("rms") for k, one in enumerate(records) if name in one["quantities"]}
        worst |= {(place, name) for place, _ in sorted(having.items(), key=lambda one: -(one[1] or 0.0))[:WORST]}
    found: dict[str, Detail] = {}
    for place, record in enumerate(records):
        seen = record.get("geometry") is not None
        quantities = {
            name: kept
            for name, values in record["quantities"].items()
            if (seen or (place, name) in worst)
            and (kept := {key: values[key] for key in _OF_ATOMS if key in values and (seen or key == "worst_atoms")})
        }
        if seen or quantities:
            found[str(place)] = {"geometry": record["geometry"]} if seen else {}
            found[str(place)] |= {"quantities": quantities}
    return found
