"""What was found: as a table to read, as JSON and CSV for machines."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.saving import as_json, as_page, read, require_version, write
from equiv_probe.report.stored import require_report, without_nan
from equiv_probe.results.over_time import Bin, OverTime
from equiv_probe.results.report_figures import Figures
from equiv_probe.results.report_table import render

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SCHEMA_VERSION", "Labelled", "Measured", "Report", "without_nan"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """One quantity over all structures; errors in ``unit``, losses in ``loss_unit``. NaN: not measured.

    Attributes:
        name: of the quantity.
        unit: of ``rms``, ``floor``, ``nondeterminism``, quantiles and maxima.
        structures: how many it was measured on.
        rms: root of the label-free ``L_equiv`` (squared error, mean over components).
        rms_interval: its 95 % interval.
        equiv: ``L_equiv`` itself, in ``unit`` squared.
        equiv_stderr: its standard error.
        relative: ``rms`` over the root mean square of the twirled prediction.
        floor: what the same measurement reads from rounding alone: from inputs that differ by rounding, and not less
            than the resolution of the numbers themselves.
        nondeterminism: what it reads from evaluating the same input again, in a batch of its own.
        verdict: one of the kinds of :mod:`equiv_probe.estimation.verdict`.
        sentence: the verdict in words.
        over_structures: quantiles and maximum of the root error of structures.
        over_rotations: quantiles and maximum of the root deviation of single rotations.
        largest: largest deviation of one atom's value (or of the structure's) in any rotation.
        by_element: root error and number of atoms by element.
        worst_atoms: structure, atom index, element and root error.
        labelled: the decomposition against reference values, if there are any.
        angular: the spectrum ``power`` of degrees 1 … and the ``rest`` above, with their ``stderr``; and by angle and
            by axis of the rotation between two predictions half their mean square difference, ``by_angle`` and
            ``by_axis`` (:mod:`equiv_probe.estimation.variogram`). All in ``unit`` squared; empty where it was not
            measured.
    """

    name: str
    unit: str
    structures: int
    rms: float
    rms_interval: tuple[float, float]
    equiv: float
    equiv_stderr: float
    relative: float
    floor: float
    nondeterminism: float
    verdict: str
    sentence: str
    over_structures: dict[str, float] = field(default_factory=dict)
    over_rotations: dict[str, float] = field(default_factory=dict)
    largest: float = math.nan
    by_element: dict[str, dict[str, float]] = field(default_factory=dict)
    worst_atoms: list[dict[str, Any]] = field(default_factory=list)
    labelled: Labelled | None = None
    angular: dict[str, Any] = field(default_factory=dict)

    @property
    def highest_floor(self) -> float:
        """The higher of the two floors: what ``rms`` is judged beside; NaN if neither was measured."""
        return max((floor for floor in (self.floor, self.nondeterminism) if math.isfinite(floor)), default=math.nan)


@dataclass(frozen=True)
class Labelled:
    """``L_total = L_mean + L_equiv`` against reference values, with standard errors and 95 % intervals."""

    loss: str
    unit: str
    structures: int
    total: float
    total_stderr: float
    mean: float
    mean_stderr: float
    equiv: float
    equiv_stderr: float
    equiv_interval: tuple[float, float]
    share: float
    share_stderr: float
    share_interval: tuple[float, float]


@dataclass(frozen=True)
class Report(Figures):
    """The result of an audit.

    Attributes:
        model: what was audited.
        source: on which structures.
        protocol: plan, seed, precision, versions, cost: how it was measured.
        measured: by quantity.
        structures: one record per structure, as in the journal.
        failures: structures that could not be measured, with the reason.
        notes: what a reader must know to use the numbers.
        blind_spots: what the measurement cannot see.
        complete: False if the audit was interrupted.
        history: of a training run, the estimates after each measurement: step, stage, output, seconds since the start,
            ``L_total`` and so on.
        over: losses in bins of an input of the network, such as its time.
        gradients: of ``L_mean`` and ``L_equiv`` by stage and output, as :meth:`equiv_probe.analysis.Gradients.to_dict`
            gives them, over the latest measurements, and their ``history``.
    """

    model: str
    source: str
    protocol: dict[str, Any]
    measured: list[Measured]
    structures: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blind_spots: list[str] = field(default_factory=list)
    complete: bool = True
    history: list[dict[str, Any]] = field(default_factory=list)
    over: list[OverTime] = field(default_factory=list)
    gradients: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Measured:
        """The measurement of one quantity."""
        for measured in self.measured:
            if measured.name == name:
                return measured
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, with ``schema_version``; what was not measured is None."""
        plain: dict[str, Any] = without_nan({"schema_version": SCHEMA_VERSION, **asdict(self)})
        return plain

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Report:
        """Undo :meth:`to_dict`.

        Raises:
            EquivProbeError: another schema version, or no report.
        """
        require_version(stored, SCHEMA_VERSION)
        require_report(stored)
        fields = _known(cls, stored)
        fields["measured"] = [_measured(entry) for entry in fields["measured"]]
        over = [_known(OverTime, entry) for entry in fields.get("over", [])]
        fields["over"] = [
            OverTime.from_dict({**entry, "bins": [_known(Bin, one) for one in entry["bins"]]}) for entry in over
        ]
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything), ``.csv`` (one row per structure and quantity) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(path, {".json": lambda: as_json(self.to_dict()), ".csv": self.to_csv, ".html": lambda: as_page(self)})

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what :meth:`save` wrote as JSON.

        Raises:
            EquivProbeError: there is no such file, or no report in it.
        """
        found: Report = read(path, cls.from_dict)
        return found

    def to_csv(self) -> str:
        """One row per structure and quantity, with units in the header."""
        out = StringIO()
        writer = csv.writer(out)
        numbers = ("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism", "largest")
        labelled = ("total", "mean", "equiv")
        head = ["structure", "formula", "n_atoms", "quantity", "unit", "rotations", *numbers]
        writer.writerow([*head, *(f"L_{key} (reference loss)" for key in labelled)])
        units = {measured.name: measured.unit for measured in self.measured}
        for record in self.structures:
            for name, values in record["quantities"].items():
                known = values.get("labelled") or {}
                row = [record["name"], record["formula"], record["n_atoms"], name, units.get(name, "")]
                row += [
                    record["rotations"],
                    *(values.get(key) for key in numbers),
                    *(known.get(key) for key in labelled),
                ]
                writer.writerow(row)
        return out.getvalue()

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The report as Rich tables."""
        yield from render(self)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.report.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


def _known(kind: type[Any], stored: dict[str, Any]) -> dict[str, Any]:
    """The entries that have a place; what another program adds is left out."""
    names = {entry.name for entry in dataclass_fields(kind)}
    return {key: value for key, value in stored.items() if key in names}


def _measured(stored: dict[str, Any]) -> Measured:
    fields = _known(Measured, stored)
    labelled = fields.pop("labelled", None)
    known = None if labelled is None else Labelled(**_restored(_known(Labelled, labelled)))
    return Measured(**_restored(fields), labelled=known)


def _restored(fields: dict[str, Any]) -> dict[str, Any]:
    """None back to NaN, and intervals back to tuples."""
    restored: dict[str, Any] = {}
    for key, value in fields.items():
        if key.endswith("_interval"):
            restored[key] = tuple(math.nan if end is None else end for end in value)
        else:
            restored[key] = math.nan if value is None else value
    return restored
