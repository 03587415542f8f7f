"""What a report keeps of each structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    StructureRecord = dict[str, Any]
else:  # what is read from files is held to this

    class _Atom(TypedDict):
        atom: int
        element: str
        rms: float | None

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
        unit: str

    class _Quantity(TypedDict, total=False):
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
        notes: list[str]
        over_rotations: list[float | None]
        elements: dict[str, list[float | None]]
        worst_atoms: list[_Atom]
        per_atom: Any
        angular: Any
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
        energy_twirl: Any
