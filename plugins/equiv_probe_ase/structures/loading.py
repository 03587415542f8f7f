"""Structures from any source that ASE reads, and the reference values they carry."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import ase.io
import numpy as np
from ase import Atoms

from equiv_probe.errors import EquivProbeError, missing_file

if TYPE_CHECKING:
    from equiv_probe_ase.structures.quantities import Quantity

Source: TypeAlias = str | Path | Atoms | Iterable[Atoms]
REFERENCE_PREFIXES = ("REF_", "ref_", "dft_", "DFT_")
"""Where reference values are looked for, before what ASE's readers put into a SinglePointCalculator."""


@dataclass(frozen=True)
class Structure:
    """One structure with its name, its place in the source, and its reference values in ASE's units."""

    index: int
    name: str
    atoms: Atoms
    reference: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Names the structure wherever it stands: a digest of everything that its results depend on."""
        digest = hashlib.sha256()
        stored = {**self.atoms.arrays, **self.atoms.info, **self.reference}
        parts = {"cell": self.atoms.cell.array, "pbc": self.atoms.pbc, **stored}
        for name in sorted(parts, key=str):
            values = np.asarray(parts[name]) if not isinstance(parts[name], Mapping) else np.array(None)
            if not values.dtype.hasobject:  # an object's bytes are its address
                digest.update(f"{name} {values.dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:24]

    @cached_property
    def seed(self) -> int:
        """Seeds the structure's rotations, by its geometry alone: not its place in a list, not its labels."""
        atoms = self.atoms
        geometry = (atoms.numbers, atoms.pbc, atoms.positions + 0.0, atoms.cell.array + 0.0)  # one zero, without a sign
        digest = hashlib.sha256(b"".join(np.asarray(part, dtype="<f8").tobytes() for part in geometry))
        return int.from_bytes(digest.digest()[:7], "big")


def distinct(structures: Sequence[Structure]) -> tuple[list[Structure], list[str]]:
    """Every structure once, and a note on those that were given again: nothing may be counted twice."""
    first: dict[str, Structure] = {}
    again = [(one, first[one.key]) for one in structures if first.setdefault(one.key, one) is not one]
    if not again:
        return list(structures), []
    copy, own = again[0]
    are = (
        f"{len(again)} of {len(structures)} structures are others once more"
        if len(again) > 1
        else "one structure is another once more"
    )
    return list(first.values()), [f"{are} ({copy.name} is {own.name}, with all that is stored with it): counted once"]


def load(
    source: Source,
    *,
    index: str = ":",
    reference: Mapping[str, str] | None = None,
    vacuum: float | None = None,
) -> list[Structure]:
    """Read structures.

    Args:
        source: a file in any format of ASE (``file@0:50`` selects), an ASE database, an Atoms, or several Atoms.
        index: which frames of a file, as ASE writes slices.
        reference: the info or array name that holds each property's reference value, such as
            ``{"energy": "my_energy"}``; without, ``REF_*`` and the attached results are used.
        vacuum: margin (Å) of the box that is put around structures without a cell, for models that need one.

    Raises:
        EquivProbeError: the source cannot be read or holds no structure, or a margin that is none.
    """
    if vacuum is not None and not vacuum > 0:
        raise EquivProbeError(f"vacuum={vacuum}", "a positive number")
    label, frames = _frames(source, index)
    if not frames:
        selected = f", frames {str(source).rpartition('@')[2]}" if "@" in str(source) else ""
        raise EquivProbeError(f"no structures in {label}{selected}", "at least one")
    references_found = [references(atoms, reference) for atoms in frames]
    _require_keys(frames, references_found, reference)
    single = len(frames) == 1
    first, step = _counting(source, index)
    numbers = [first + step * place for place in range(len(frames))]
    single = single and numbers == [0]
    names = [_name(atoms, label if single else f"{label}[{n}]") for n, atoms in zip(numbers, frames, strict=True)]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [
        Structure(
            place,
            f"{names[place]}[{numbers[place]}]" if names[place] in shared else names[place],
            _boxed(atoms, vacuum),
            references_found[place],
        )
        for place, atoms in enumerate(frames)
    ]


def _counting(source: Source, index: str) -> tuple[int, int]:
    """Number in the file of the first frame that was read, and the step; counted from 0 where it cannot be told."""
    if not isinstance(source, (str, Path)):
        return 0, 1
    _, _, own = str(source).rpartition("@") if "@" in str(source) else ("", "", "")
    parts = (own or index).split(":")
    try:
        first = int(parts[0] or 0)
        step = int(parts[2] or 1) if len(parts) > 2 else 1
    except ValueError:  # a selection in a database
        return 0, 1
    return (first, step) if first >= 0 and step > 0 else (0, 1)


def _frames(source: Source, index: str) -> tuple[str, list[Atoms]]:
    if isinstance(source, Atoms):
        return source.get_chemical_formula(), [source]
    if not isinstance(source, (str, Path)):
        frames = list(source)
        wrong = [type(item).__name__ for item in frames if not isinstance(item, Atoms)]
        if wrong:
            raise EquivProbeError(f"a {wrong[0]} among the structures", "ase.Atoms")
        return "structure", frames
    path, _, own_index = str(source).rpartition("@")
    if not path or Path(source).exists():  # an @ that belongs to the name
        path, own_index = str(source), ""
    if not Path(path).exists():
        raise missing_file(path, "a structure file that ASE reads, or an ASE database")
    try:
        read = ase.io.read(path, index=own_index or index, do_not_split_by_at_sign=True)
    except Exception as error:  # readers raise anything
        part = f"frames {own_index!r} of " if own_index else ""
        raise EquivProbeError(
            f"{part}{path}, which ASE cannot read ({type(error).__name__}: {error})",
            "a format that ASE reads" + (", and frames as in FILE@0:50" if own_index else ""),
        ) from error
    return Path(path).name, list(read) if isinstance(read, Sequence) and not isinstance(read, Atoms) else [read]


def _name(atoms: Atoms, fallback: str) -> str:
    for key in ("name", "label", "id", "mp_id", "config_type"):
        value = atoms.info.get(key)
        if isinstance(value, str) and value and key != "config_type":
            return printable(value)
    return fallback


def printable(text: str) -> str:
    """Text from files and from other people's errors, for a terminal: no escape sequences, no line breaks."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _boxed(atoms: Atoms, vacuum: float | None) -> Atoms:
    if vacuum is None or atoms.cell.rank == 3:
        return atoms
    boxed = atoms.copy()
    boxed.calc = atoms.calc
    boxed.center(vacuum=vacuum, axis=[axis for axis in range(3) if not atoms.cell[axis].any()])
    boxed.pbc = True
    return boxed


def references(atoms: Atoms, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Reference values by ASE property name, from ``info``, ``arrays`` or attached results; by ``keys`` if given."""
    attached = getattr(atoms.calc, "results", None) or {}
    stored = {**atoms.info, **atoms.arrays}
    if keys:  # ASE's readers move what they know out of the info, but it may be named still
        return {name: {**attached, **stored}[key] for name, key in keys.items() if key in {**attached, **stored}}
    found: dict[str, Any] = {}
    for name in ("energy", "free_energy", "forces", "stress", "dipole", "charges", "magmoms", "magmom", "energies"):
        key = next((prefix + name for prefix in REFERENCE_PREFIXES if prefix + name in stored), None)
        if key is not None:
            found[name] = stored[key]
        elif attached.get(name) is not None:
            found[name] = attached[name]
    return found


def _require_keys(frames: Sequence[Atoms], found: Sequence[Mapping[str, Any]], keys: Mapping[str, str] | None) -> None:
    """Raise if a key that was asked for is in no structure: a slip of the pen must not read as "no labels"."""
    missing = [key for name, key in (keys or {}).items() if not any(name in one for one in found)]
    if missing:
        there = {**frames[0].info, **frames[0].arrays, **(getattr(frames[0].calc, "results", None) or {})}
        raise EquivProbeError(
            f"no {missing[0]!r} in any structure", f"one of what the first has: {', '.join(map(str, there))}"
        )


def reference_values(structure: Structure, quantity: Quantity) -> np.ndarray | None:
    """The reference in the reported unit and shape, or None where there is none (or a non-finite one)."""
    raw = structure.reference.get(quantity.name)
    if raw is None:
        return None
    values = quantity.values(raw, structure.atoms)
    return values if np.isfinite(values).all() else None
