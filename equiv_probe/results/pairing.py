"""Which structures of two reports are the same: by fingerprint, or else by name, formula and number of atoms.

An audit's key of a structure is its place and a digest of its positions, cell and labels. The same structures read from
another file have other names, and those that were put into a box have other digests: one of the two is enough.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    Record = Mapping[str, Any]


@dataclass(frozen=True)
class Pairing:
    """Keys of the structures of two reports, the same key for the same structure.

    Attributes:
        first: of each record of the first report.
        second: of the second.
        by_name: keys of pairs of the same name, but of different fingerprints.
    """

    first: list[Hashable]
    second: list[Hashable]
    by_name: frozenset[Hashable]

    @classmethod
    def of(cls, first: Sequence[Record], second: Sequence[Record]) -> Pairing:
        """Pair the records of two reports."""
        keys: list[Hashable] = [("second alone", place) for place in range(len(second))]
        left, right = dict(enumerate(first)), dict(enumerate(second))
        by_name = set()
        for identity in (_fingerprint, _name):
            known = dict(zip(_numbered(left, identity), left, strict=True))
            for there, own in zip(_numbered(right, identity), list(right), strict=True):
                here = known.get(there) if there is not None else None
                if here is None:
                    continue
                keys[own] = here
                if identity is _name and _fingerprint(left[here]) != _fingerprint(right[own]):
                    by_name.add(here)
                del left[here], right[own]
        return cls(list(range(len(first))), keys, frozenset(by_name))


def _fingerprint(record: Record) -> str | None:
    return str(record.get("key", "")).partition(":")[2] or None


def _name(record: Record) -> Hashable:
    return record.get("name"), record.get("formula"), record.get("n_atoms")


def _numbered(records: Mapping[int, Record], identity: Callable[[Record], Hashable]) -> list[Hashable]:
    """Identities; of structures that are there more than once the first, the second and so on."""
    seen: Counter[Hashable] = Counter()
    found: list[Hashable] = []
    for record in records.values():
        one = identity(record)
        seen[one] += 1
        found.append(None if one is None else (one, seen[one]))
    return found
