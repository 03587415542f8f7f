"""What an audit of a model of voxel grids found: two numbers, to print, as JSON for machines, as a page."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.decomposition import Decomposition
from equiv_probe.report.saving import as_json, as_page, read, require_version, write
from equiv_probe.report.stored import require, without_nan
from equiv_probe.report.stored_audits import GRID
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
ABOVE = 5.0
"""An ``L_equiv`` beyond this multiple of the floor is more than interpolation makes.

The floor is that of one trip there and back. Squares, stencils and fields that are cut off at the ball make up to four
times as much of it in models that respect every rotation as far as a grid can.
"""
BLIND = [
    "what rotates between right angles do to structures below the interpolation's floor: finer grids lower it",
    "in the corners of the box, outside of the ball that rotates within it, anything but rotates by right angles",
    "of structures that lie aligned with the grid, what they would show in other orientations: rotates by right angles "
    "keep them aligned",
]


@dataclass(frozen=True)
class GridAudit:
    """Two estimates of the same loss's symmetry error.

    Attributes:
        cube: over the rotations of the cube (of a box that is no cube, its half turns), which interpolate nothing: the
            average over them is exact, and its floor is rounding alone. Over the whole box.
        rotations: over all of SO(3), the grids interpolated; its floor is the interpolation's. Over the ball that the
            box holds.
        cube_plan: the rotations of the first.
        plan: the rotations of the second.
        interpolation: of the second.
        model: its name.
        structures: how many.
        seconds: it took.
        by_angle: of both, ``"cube"`` and ``"rotations"``, how far predictions rotated back lie from the unrotated ones
            (root mean square) by the angle of the rotation, in bins from ``low`` to ``high`` degrees; nothing for a
            loss other than squared error, several outputs, improper rotations, or where predictions were too large to
            be kept.
        protocol: precision, device, versions.
    """

    cube: Decomposition
    rotations: Decomposition
    cube_plan: RotationPlan
    plan: RotationPlan
    interpolation: str
    model: str
    structures: int
    seconds: float
    by_angle: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def is_above_interpolation(self) -> bool:
        """Whether the second number is more than interpolation alone would make: beyond five times its floor."""
        return self.rotations.equiv > ABOVE * self.rotations.floor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON; what was not measured is None."""
        plain: dict[str, Any] = without_nan(
            {
                "schema_version": SCHEMA_VERSION,
                "model": self.model,
                "structures": self.structures,
                "cube": _stored(self.cube, self.cube_plan),
                "rotations": {"interpolation": self.interpolation, **_stored(self.rotations, self.plan)},
                "is_above_interpolation": self.is_above_interpolation,
                "by_angle": self.by_angle,
                "protocol": self.protocol,
                "seconds": self.seconds,
            }
        )
        return plain

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> GridAudit:
        """Undo :meth:`to_dict`.

        Raises:
            EquivProbeError: another schema version, or no audit of a model of grids.
        """
        require_version(stored, SCHEMA_VERSION)
        require(stored, GRID)
        by_angle = {
            name: [{**entry, "rms": _number(entry["rms"])} for entry in bins]
            for name, bins in stored.get("by_angle", {}).items()
            if name in {"cube", "rotations"}
        }
        return cls(
            cube=_decomposition(stored["cube"]),
            rotations=_decomposition(stored["rotations"]),
            cube_plan=_plan(stored["cube"]["rotation_plan"]),
            plan=_plan(stored["rotations"]["rotation_plan"]),
            interpolation=stored["rotations"]["interpolation"],
            model=stored["model"],
            structures=stored["structures"],
            seconds=_number(stored["seconds"]),
            by_angle=by_angle,
            protocol=stored.get("protocol", {}),
        )

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(path, {".json": lambda: as_json(self.to_dict()), ".html": lambda: as_page(self)})

    @classmethod
    def load(cls, path: str | Path) -> GridAudit:
        """Read what :meth:`save` wrote as JSON.

        Raises:
            EquivProbeError: there is no such file, or no audit of a model of grids in it.
        """
        found: GridAudit = read(path, cls.from_dict)
        return found

    def plot_numbers(self, ax: Axes | None = None) -> Axes:
        """Both numbers beside their floors; see :func:`equiv_probe.voxels.plots.numbers`."""
        from equiv_probe.voxels import plots as grid_plots

        return grid_plots.numbers(self, ax)

    def plot_structures(self, ax: Axes | None = None) -> Axes:
        """How both are spread over structures; see :func:`equiv_probe.voxels.plots.structures`."""
        from equiv_probe.voxels import plots as grid_plots

        return grid_plots.structures(self, ax)

    def plot_angle(self, ax: Axes | None = None) -> Axes:
        """Against the angle of the rotation; see :func:`equiv_probe.voxels.plots.angle`."""
        from equiv_probe.voxels import plots as grid_plots

        return grid_plots.angle(self, ax)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.report.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None

    def __str__(self) -> str:
        meaning = (
            "includes finer angles, and is more than interpolation alone would make of it, five times its floor"
            if self.is_above_interpolation
            else "is no more than interpolation alone may make of it, up to five times its floor: beyond the first "
            "number nothing can be said at this spacing"
        )
        lines = [
            f"{self.model}, {self.structures} structures",
            f"1. {self.cube_plan}; over the whole box",
            *(f"   {line}" for line in str(self.cube).splitlines()),
            f"2. {self.plan}; {self.interpolation} interpolation, over the ball in the box",
            *(f"   {line.replace('round-off', 'interpolation')}" for line in str(self.rotations).splitlines()),
            "The first is what a subgroup sees, without interpolation and without sampling error: broken symmetry and "
            "nothing else, but of rotations by right angles alone (less than all rotations would show where structures "
            f"lie anyhow; not so where they are aligned with the grid). The second {meaning}.",
        ]
        return "\n".join(lines)


def _stored(found: Decomposition, plan: RotationPlan) -> dict[str, Any]:
    by_structure = {name: values.tolist() for name, values in found.per_structure.items()}
    return {"plan": str(plan), "rotation_plan": asdict(plan), **found.to_dict(), "per_structure": by_structure}


def _number(stored: float | None) -> float:
    return math.nan if stored is None else stored


def _plan(stored: Mapping[str, Any]) -> RotationPlan:
    return RotationPlan(**{key: stored[key] for key in ("design", "replicates", "improper", "seed", "subset")})


def _decomposition(stored: Mapping[str, Any]) -> Decomposition:
    """None back to NaN, lists back to tuples and tensors."""
    fields: dict[str, Any] = {key: _number(stored[key]) for key in _NUMBERS}
    for key in ("equiv_interval", "share_interval"):
        fields[key] = tuple(map(_number, stored[key]))
    by_structure = {
        name: torch.tensor([_number(value) for value in values], dtype=torch.float64)
        for name, values in stored.get("per_structure", {}).items()
    }
    return Decomposition(
        **fields,
        loss=stored["loss"],
        unit=stored["unit"],
        structures=stored["structures"],
        notes=tuple(stored.get("notes", ())),
        parts={name: _decomposition(part) for name, part in stored.get("parts", {}).items()},
        per_structure=by_structure,
    )


_LOSSES = ("total", "mean", "equiv", "share")
_NUMBERS = (*_LOSSES, *(f"{name}_stderr" for name in _LOSSES), "floor", "nondeterminism")
