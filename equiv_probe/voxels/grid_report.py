"""What an audit of a model of voxel grids found: two numbers, by right angles exactly, and by all rotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.decomposition import Decomposition
from equiv_probe.report.document import TERMINAL, Column, Document, Figure, Paragraph, Section, Table, method
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Record
from equiv_probe.report.stored_data import FIX
from equiv_probe.results.angle_bins import AngleBin
from equiv_probe.results.controls import below_headline, control_section, doubted, undecided
from equiv_probe.results.quantity_tables import loss_blocks
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.voxels import plots
from equiv_probe.voxels.grid_headline import headline, kept_axes, labelled
from equiv_probe.voxels.grid_numbers import ALL, RIGHT_ANGLES, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.report.document import Cell

BLIND = [
    "what rotations between right angles do to structures below the interpolation's floor: finer grids lower it",
    "in the corners of the box, outside of the ball that rotates within it, anything but rotations by right angles",
    "of structures that lie aligned with the grid, what they would show in other orientations: rotations by right "
    "angles keep them aligned",
]


class GridAudit(Record, frozen=True):
    """Two estimates of the same loss's symmetry error.

    Attributes:
        cube: over the rotations of the cube (of a box that is no cube, those by 180°), which interpolate nothing: the
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

    The methods ``plot_…`` draw into the given Matplotlib axes, or into those of a new figure of pyplot's, and return
    the axes.
    """

    kind: ClassVar[str] = "grid"

    cube: Decomposition
    rotations: Decomposition
    cube_plan: RotationPlan
    plan: RotationPlan
    interpolation: str
    model: str
    structures: int
    seconds: float
    by_angle: dict[str, list[AngleBin]] = msgspec.field(default_factory=dict)
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse structures that have some of the numbers only."""
        for name, found in (("cube", self.cube), ("rotations", self.rotations)):
            if len({len(values) for values in found.per_structure.values()}) > 1:
                raise ValueError(f"{name}.per_structure: lists of several lengths")

    @property
    def is_above_interpolation(self) -> bool:
        """Whether the second number is more than interpolation alone would make: beyond five times its floor."""
        return Shown(self.rotations).is_above_interpolation

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, also whether the second number is more than interpolation makes."""
        return {**super().to_dict(), "is_above_interpolation": self.is_above_interpolation}

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the plans within the estimates, and no kind."""
        plans = {}
        for place, name in (("cube", "cube_plan"), ("rotations", "plan")):
            found = stored.get(place)
            if not isinstance(found, dict) or "rotation_plan" not in found:
                raise EquivProbeError(f"no {place}.rotation_plan", "it to be there", FIX)
            plans[name] = found["rotation_plan"]
        rotations = stored["rotations"]
        interpolation = {"interpolation": rotations["interpolation"]} if "interpolation" in rotations else {}
        return {**stored, **plans, **interpolation}

    def document(self) -> Document:
        """The headline and both numbers, then the loss, then where the error sits and of what kind it is."""
        losses = [(name, known) for name, one in self._numbers() if (known := labelled(one)) is not None]
        each = [one for both in (self.cube, self.rotations) for one in (both, *both.parts.values())]
        notes = list(dict.fromkeys(note for one in each for note in one.notes))
        controls = list(dict.fromkeys([*self.cube.controls, *self.rotations.controls]))
        both = Shown(self.cube), Shown(self.rotations)
        protocol = {
            RIGHT_ANGLES: f"{self.cube_plan}; over the whole box",
            ALL: f"{self.plan}; {self.interpolation} interpolation, over the ball in the box",
            "loss": self.cube.loss,
            **self.protocol,
            "seconds": number(self.seconds),
        }
        return Document(
            self.model,
            f"{self.structures} structure{'s' * (self.structures != 1)}, on voxel grids",
            [
                doubted(headline(*both, self.cube_plan, self.interpolation), controls),
                *below_headline(controls),
                self._table(),
                self._reading(),
                Section("How much of the loss is it?", loss_blocks(losses)),
                Section("Where is it?", self._over_structures()),
                Section("What kind is it?", [self._beside_floors(), *self._against_angle()]),
                control_section(controls),
                *method(protocol, notes, blind_spots=[*BLIND, *kept_axes(self.cube_plan), *undecided(controls)]),
            ],
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per number and structure."""
        return [
            {"rotations": name, "structure": place, **dict(zip(found.per_structure, values, strict=True))}
            for name, found in ((RIGHT_ANGLES, self.cube), (ALL, self.rotations))
            for place, values in enumerate(zip(*(one.tolist() for one in found.per_structure.values()), strict=True))
        ]

    def plot_numbers(self, ax: Axes | None = None) -> Axes:
        """Both numbers beside their floors."""
        return plots.numbers(self.cube, self.rotations, ax)

    def plot_structures(self, ax: Axes | None = None) -> Axes:
        """How both are spread over structures."""
        return plots.structures(self.cube, self.rotations, ax)

    def plot_angle(self, ax: Axes | None = None) -> Axes:
        """Against the angle of the rotation."""
        return plots.angle(self.by_angle, ax)

    def _numbers(self) -> list[tuple[str, Decomposition]]:
        """Both numbers, of every output if there are several."""
        both = ((RIGHT_ANGLES, self.cube), (ALL, self.rotations))
        found = list(both)
        for name in self.cube.parts if len(self.cube.parts) > 1 else ():
            found += [(f"{name}, {how}", one.parts[name]) for how, one in both if name in one.parts]
        return found

    def _table(self) -> Table:
        columns = [
            Column("rotations", kind="text"),
            *map(Column, ("symmetry error", "95 % interval", "floor")),
            Column("times the floor", digits=2),
            Column("what", kind="text"),
        ]
        rows: list[list[Cell]] = []
        for name, one in ((name, Shown(one)) for name, one in self._numbers()):
            what = "√L_equiv, own unit" if one.is_root else f"L_equiv, {one.of.loss}"
            rows.append([name, one.value, one.interval, one.floors[0], one.ratio, what])
        caption = (
            "Two numbers of one loss: by right angles, where the floor is rounding, and by all rotations, where it is "
            "the interpolation's."
        )
        return Table("Symmetry error by right angles and by all rotations", columns, rows, caption)

    def _reading(self) -> Paragraph:
        meaning = (
            "includes finer angles, and is more than interpolation alone would make of it, five times its "
            "interpolation floor"
            if self.is_above_interpolation
            else "is no more than interpolation alone may make of it, up to five times its interpolation floor: beyond "
            "the first number nothing can be said at this spacing"
        )
        return Paragraph(
            "The first is what a subgroup sees, without interpolation and without sampling error: broken symmetry and "
            "nothing else, but of rotations by right angles alone (less than all rotations would show where structures "
            f"lie anyhow; not so where they are aligned with the grid). The second {meaning}.",
            on=TERMINAL,
        )

    def _beside_floors(self) -> Figure:
        cube, rotations = Shown(self.cube), Shown(self.rotations)
        text = (
            f"Right angles: {cube} beside {cube.floor_in_words}. All rotations: {rotations} beside "
            f"{rotations.floor_in_words} of interpolation, which may make up to {number(rotations.reach)}."
        )
        return Figure("Beside their floors", self.plot_numbers, text, height=2.4)

    def _against_angle(self) -> list[Figure]:
        names = {"cube": RIGHT_ANGLES, "rotations": f"{ALL}, interpolated"}
        found = {how: plots.at_angles(self.by_angle.get(name, [])) for name, how in names.items()}
        if not any(found.values()):
            return []
        start = "How far predictions, rotated back, lie from the unrotated ones"
        ends = [
            f"{how}: {', '.join(f'{number(root)} at {at:g}°' for at, root in pairs) or 'nothing'}"
            for how, pairs in found.items()
        ]
        caption = (
            f"{start} (root mean square). At right angles over the whole box, and nothing interpolated; otherwise over "
            "the ball, where interpolation has its part at every angle."
        )
        return [Figure("Against the angle", self.plot_angle, f"{start}. {'; '.join(ends)}.", caption)]

    def _over_structures(self) -> list[Figure]:
        kept = (plots.by_structure(one) for one in (self.cube, self.rotations))
        if self.structures < 2 or not all(map(len, kept)):
            return []
        text = "For each value, the percentage of structures that lie below it."
        return [Figure("Over structures", self.plot_structures, text)]
