"""The report of an audit, of a run or of a trajectory: what was found, by quantity and by structure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from equiv_probe.report.by_name import ByName
from equiv_probe.report.document import Document, Note, Paragraph, Section, method
from equiv_probe.report.record import Record
from equiv_probe.report.stored_data import plain, without_nan
from equiv_probe.results import angular_plots, gradient_plots, gradient_record, plots, trajectory_plots
from equiv_probe.results.controls import Control, below_headline, control_section, doubted, undecided
from equiv_probe.results.failures import Failure, failed, remark
from equiv_probe.results.gradient_record import GradientRecord
from equiv_probe.results.headline import headline
from equiv_probe.results.measured import Labelled, Measured, labelled
from equiv_probe.results.over_time import OverTime
from equiv_probe.results.quantity_tables import element_table, loss_blocks, run_table, spread_tables, symmetry_table
from equiv_probe.results.report_figures import course_figures, kind_figures, main_first, where_figures
from equiv_probe.results.structure_table import StructureTable
from equiv_probe.results.verdict_words import BROKEN
from equiv_probe.results.worst_structures import worst_structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.report.document import Block

__all__ = ["Control", "Failure", "Labelled", "Measured", "Report", "without_nan"]

_STATED = {"step": (int, float), "stage": (str,), "output": (str,)}


class Report(Record, ByName[Measured], frozen=True):
    """The result of an audit, of a run or of a trajectory; ``report["forces"]`` is what was measured of one quantity.

    It is a mapping from names: ``for name in report``, ``"forces" in report``, ``report.items()``.

    Attributes:
        model: what was audited.
        source: on which structures.
        protocol: plan, seed, precision, versions, cost: how it was measured.
        measured: by quantity.
        structures: their numbers, in columns; a sequence of records. A list of records is taken too.
        failures: structures that could not be measured, with the reason.
        notes: what a reader must know to use the numbers.
        blind_spots: what the measurement cannot see; controls that were not run are added.
        complete: False if the audit was interrupted.
        history: of a training run, the estimates after each measurement: step, stage, output, seconds since the start,
            ``L_total`` and so on.
        over: losses in bins of an input of the network, such as its time.
        gradients: of ``L_mean`` and ``L_equiv`` by stage and output, over the latest measurements, and their
            ``history``.
        controls: what the numbers have passed before they are believed. One that failed is the headline.

    The methods ``plot_…`` draw into the given Matplotlib axes, or into those of a new figure of pyplot's, and return
    the axes. They raise EquivProbeError if the report does not hold what is to be drawn, or Matplotlib is missing.
    """

    kind: ClassVar[str] = "report"

    model: str
    source: str
    protocol: dict[str, Any]
    measured: list[Measured]
    structures: StructureTable = msgspec.field(default_factory=StructureTable)
    failures: list[Failure] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    blind_spots: list[str] = msgspec.field(default_factory=list)
    complete: bool = True
    history: list[dict[str, Any]] = msgspec.field(default_factory=list)
    over: list[OverTime] = msgspec.field(default_factory=list)
    gradients: dict[str, GradientRecord] = msgspec.field(default_factory=dict)
    controls: list[Control] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a history that could not be shown; what no control looked at is a blind spot."""
        unseen = [spot for spot in undecided(self.controls) if spot not in self.blind_spots]
        if unseen:
            msgspec.structs.force_setattr(self, "blind_spots", [*self.blind_spots, *unseen])
        if not isinstance(self.structures, StructureTable):
            msgspec.structs.force_setattr(self, "structures", StructureTable.of(self.structures))
        for place, entry in enumerate(self.history):
            for name, types in _STATED.items():
                found = entry.get(name)
                if found is not None and (isinstance(found, bool) or not isinstance(found, types)):
                    raise ValueError(f"history[{place}].{name} is a {type(found).__name__}")

    def items(self) -> list[tuple[str, Measured]]:
        """What was measured, by name."""
        return [(one.name, one) for one in self.measured]

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the same entries, without a kind, and a record for each structure."""
        return {**stored, "structures": plain(StructureTable.of_version_1(stored.get("structures", [])))}

    def document(self) -> Document:
        """The headline, the loss, where the error is and of what kind, and how it was measured."""
        top = doubted(headline(self.measured, self.history), self.controls)
        about = "" if top is None else top.about
        count = len(self.structures)
        counted = f"{count} structure{'s' * (count != 1)} of " if count else ""
        is_doubted = any(one.failed for one in self.controls)
        losses = [*loss_blocks(labelled(self.measured)), *run_table(self.measured, doubted=is_doubted)]
        symmetry = [m for m in self.measured if math.isfinite(m.rms) or m.labelled is None]
        return Document(
            self.model,
            f"{counted}{self.source}",
            [
                *self._interrupted(),
                top or Paragraph("Nothing was measured."),
                *below_headline(self.controls),
                *([symmetry_table(symmetry, doubted=is_doubted)] if symmetry else []),
                Section("How much of the loss is it?", losses),
                Section("Where is it?", self._where(about)),
                Section("What kind is it?", main_first(kind_figures(self.measured, about), about)),
                Section("Over time", [*(b for one in self.over for b in one.blocks()), *course_figures(self.history)]),
                Section("How does it pull on the weights?", gradient_record.blocks(self.gradients)),
                control_section(self.controls),
                *method(self.protocol, self.notes, failed(self.failures), self.blind_spots),
            ],
            remark(self.failures),
        )

    def _interrupted(self) -> list[Note]:
        if self.complete:
            return []
        resumes = " The same command resumes." if self.structures and not self.history else ""
        return [Note(f"Interrupted: only part of it was measured.{resumes}", warning=True)]

    def _where(self, about: str) -> list[Block]:
        if not self.measured:
            return []
        tables: list[Block] = []
        if len(self.structures) > 1 or any(m.over_rotations for m in self.measured):
            tables += spread_tables(self.measured)
        tables += [element_table(m) for m in self.measured if m.by_element and m.verdict in BROKEN]
        if not self.structures:
            return tables
        records = list(self.structures)
        figures = main_first(where_figures(self.measured, records, about), about)
        return [*tables, *figures, worst_structures(self.measured, records, about)]

    def rows(self) -> list[dict[str, Any]]:
        """One row per structure and quantity, with units."""
        numbers = ("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism", "largest")
        units = {measured.name: measured.unit for measured in self.measured}
        found = []
        for record in self.structures:
            for name, values in record["quantities"].items():
                known = values.get("labelled") or {}
                found.append(
                    {
                        "structure": record["name"],
                        "formula": record["formula"],
                        "n_atoms": record["n_atoms"],
                        "quantity": name,
                        "unit": units.get(name, ""),
                        "rotations": record["rotations"],
                        **{key: values.get(key) for key in numbers},
                        **{f"L_{key} (reference loss)": known.get(key) for key in ("total", "mean", "equiv")},
                    }
                )
        return found

    def plot_share(self, ax: Axes | None = None) -> Axes:
        """``L_equiv`` as a part of ``L_total``, with its 95 % interval."""
        return plots.share(labelled(self.measured), ax=ax)

    def plot_structures(self, quantity: str | None = None, ax: Axes | None = None) -> Axes:
        """How the root error is spread over structures."""
        return plots.structures(self.measured, list(self.structures), quantity, ax=ax)

    def plot_elements(self, quantity: str | None = None, ax: Axes | None = None) -> Axes:
        """Root error by chemical element."""
        return plots.elements(self.measured, quantity, ax=ax)

    def plot_spectrum(self, quantity: str | None = None, ax: Axes | None = None) -> Axes:
        """At which angular degrees ``L_equiv`` lies, in percent of it."""
        return angular_plots.spectrum(self.measured, quantity, ax=ax)

    def plot_angle(self, quantity: str | None = None, ax: Axes | None = None) -> Axes:
        """How much two predictions differ against the angle between their orientations, in degrees."""
        return angular_plots.angle(self.measured, quantity, ax=ax)

    def plot_axis_map(self, quantity: str | None = None, ax: Axes | None = None) -> Axes:
        """How much two predictions differ against the axis of the rotation between them; given axes must be polar."""
        return angular_plots.axis_map(self.measured, quantity, ax=ax)

    def plot_history(self, value: str = "share", x: str | None = None, ax: Axes | None = None) -> Axes:
        """An estimate over the course of a run, against ``x``: a column of the history; None finds the time in it."""
        return plots.history(self.history, value, x, ax=ax)

    def plot_gradients(self, value: str = "ratio", output: str | None = None, ax: Axes | None = None) -> Axes:
        """Gradients of a run by ``"ratio"`` or ``"cosine"``, of the first output or of one as ``"train/loss"``."""
        name = output or next(iter(self.gradients), "")
        found = self.gradients.get(name, GradientRecord("", {}))
        return gradient_plots.history(found.history, list(found.groups), value, name, ax)

    def plot_trajectory(self, name: str = "forces_rms_meV_per_A", ax: Axes | None = None) -> Axes:
        """See :func:`equiv_probe.results.trajectory_plots.trajectory`."""
        return trajectory_plots.trajectory(self.history, name, ax)

    def plot_angular_momentum(self, ax: Axes | None = None) -> Axes:
        """See :func:`equiv_probe.results.trajectory_plots.angular_momentum`."""
        return trajectory_plots.angular_momentum(self.history, ax)
