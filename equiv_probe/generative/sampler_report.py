"""What an audit of a sampler found: do its end points rotate as its noise does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import msgspec

from equiv_probe.generative import plots
from equiv_probe.generative.end_points import EndPoints
from equiv_probe.generative.sampler_tables import draws_table, end_points_table, headline, spread_table, worst_samples
from equiv_probe.report.by_name import ByName
from equiv_probe.report.document import Document, Section, method
from equiv_probe.report.record import Record
from equiv_probe.results.failures import Failure, failed, remark
from equiv_probe.results.report_figures import main_first
from equiv_probe.results.verdict_words import rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = dict[str, Any]
else:  # what is read from files is held to this

    class Draw(TypedDict):
        """A draw of a sampler: the call, its shape, how often in a run, and whether it rotated with the frame."""

        call: str
        shape: list[int]
        times: int
        turned: bool
        where: str


BLIND = [
    "whether the distribution of samples is equivariant although paths are not: rotated noise tests path by path, "
    "which is enough for the distribution but not necessary (a random augmentation inside the sampler, say)",
    "noise drawn around torch's operators that is the same at every run (a generator with a fixed seed)",
]


class SamplerAudit(Record, ByName[EndPoints], frozen=True):
    """What :func:`equiv_probe.audit_sampler` found; ``audit["pos"]`` is that of an output.

    Attributes:
        sampler: its name.
        protocol: how it was measured.
        measured: by output.
        draws: what the sampler drew on the way, how often in one run, and whether it rotated with the frame.
        failures: samples that were left out, with the reason.
        notes: what a reader must know to use the numbers.
        blind_spots: what the measurement cannot see.

    The methods ``plot_…`` draw into the given Matplotlib axes, or into those of a new figure of pyplot's, and return
    the axes; ``name`` is that of an output, None the first. They raise EquivProbeError if there is no such output, the
    audit does not hold what is to be drawn, or Matplotlib is missing.
    """

    kind: ClassVar[str] = "sampler"

    sampler: str
    protocol: dict[str, Any]
    measured: list[EndPoints]
    draws: list[Draw]
    failures: list[Failure] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    blind_spots: list[str] = msgspec.field(default_factory=lambda: list(BLIND))

    def __post_init__(self) -> None:
        """Refuse an audit of nothing."""
        if not self.measured:
            raise ValueError("measured: nothing, and at least one output is expected")

    def items(self) -> list[tuple[str, EndPoints]]:
        """What was measured, by output."""
        return [(one.name, one) for one in self.measured]

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the same entries, without a kind."""
        return stored

    @property
    def rms(self) -> float:
        """Deviation of the first output."""
        return self.measured[0].rms

    @property
    def verdict(self) -> str:
        """Verdict on the first output."""
        return self.measured[0].verdict

    @property
    def sentence(self) -> str:
        """Verdict on the first output, in words."""
        return self.measured[0].sentence

    def document(self) -> Document:
        """The headline, then where the deviation sits and of what kind it is, then what was drawn, then the method."""
        worst = min(self.measured, key=lambda one: rank(one.verdict))
        ordered = sorted(self.measured, key=lambda one: one.name != worst.name)
        where, kind, course = (
            main_first([(one.name, figure) for one in ordered if (figure := make(one))], worst.name)
            for make in (plots.samples_figure, plots.angle_figure, plots.path_figure)
        )
        return Document(
            self.sampler,
            f"{worst.samples} sample{'s' * (worst.samples != 1)}",
            [
                headline(worst),
                end_points_table(self.measured),
                Section("Where is it?", [spread_table(self.measured), *where, worst_samples(worst)]),
                Section("What kind is it?", kind),
                Section("Over time", course),
                Section("What did it draw on the way?", [draws_table(self.draws)] if self.draws else []),
                *method(self.protocol, self.notes, failed(self.failures, "sample"), self.blind_spots),
            ],
            remark(self.failures),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per output and sample."""
        return [{"output": one.name, "unit": one.unit, **entry} for one in self.measured for entry in one.by_sample]

    def plot_samples(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """How the deviation is spread over samples."""
        return plots.samples(self._chosen(name), ax)

    def plot_path(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """The deviation along the path, step by step."""
        return plots.path(self._chosen(name), ax)

    def plot_angle(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """The deviation against the angle of the rotation."""
        return plots.angle(self._chosen(name), ax)

    def plot(self, name: str | None = None) -> Figure:
        """Deviations of the samples beside the floor, and along the path if there is one, in a figure of its own."""
        return plots.both(self._chosen(name))

    def _chosen(self, name: str | None) -> EndPoints:
        return self.measured[0] if name is None else self[name]
