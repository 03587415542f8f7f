"""What an audit of a sampler found: as a table to read, as JSON for machines, as figures, as a page."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.table import render
from equiv_probe.report.saving import as_json, as_page, read, require_version, write
from equiv_probe.report.stored import require, without_nan
from equiv_probe.report.stored_audits import SAMPLER

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1
BLIND = [
    "whether the distribution of samples is equivariant although paths are not: rotated noise tests path by path, "
    "which is enough for the distribution but not necessary (a random augmentation inside the sampler, say)",
    "noise drawn around torch's operators that is the same at every run (a generator with a fixed seed)",
]


@dataclass(frozen=True)
class EndPoints:
    """Deviations of one output: root mean squares over atoms, in ``unit``; NaN where not measured.

    Attributes:
        name: of the output.
        unit: of all lengths.
        samples: how many it was measured on.
        rms: deviation of rotated noise's end points, rotated back, from the unrotated noise's: over rotations and
            samples.
        rms_interval: its 95 % interval.
        spread: of the orbit about its mean, without bias: ``rms / √2`` but for the luck of the unrotated frame.
        scale: how far end points of different noise lie apart.
        floor: what noise that was rotated there and back again reads, and not less than the resolution of the numbers.
        nondeterminism: what the same run reads, run again.
        verdict: one of the kinds of :mod:`equiv_probe.estimation.verdict`.
        sentence: the verdict in words.
        over_samples: quantiles, maximum and worst of the samples' deviations.
        over_rotations: quantiles and maximum of single rotations and samples.
        by_sample: deviation, floor and non-determinism of each sample.
        along_path: deviation and floor at each point of the path, if it was asked for.
        by_angle: deviation by the angle of the rotation, in bins from ``low`` to ``high`` degrees, with how many
            rotations of a sample are in each as ``count``; empty for improper rotations, which have no angle.
        law: the test in distribution, if there was one: ``p_value``, ``distance``, ``samples`` of each kind, how many
            units were ``swapped``, and whether these were runs, ``by_run``.
    """

    name: str
    unit: str
    samples: int
    rms: float
    rms_interval: tuple[float, float]
    spread: float
    scale: float
    floor: float
    nondeterminism: float
    verdict: str
    sentence: str
    over_samples: dict[str, float]
    over_rotations: dict[str, float]
    by_sample: list[dict[str, float]]
    along_path: list[dict[str, float]] = field(default_factory=list)
    by_angle: list[dict[str, float]] = field(default_factory=list)
    law: dict[str, Any] = field(default_factory=dict)

    @property
    def highest_floor(self) -> float:
        """The higher of the two floors: what ``rms`` is judged beside; NaN if neither was measured."""
        return max((floor for floor in (self.floor, self.nondeterminism) if math.isfinite(floor)), default=math.nan)


@dataclass(frozen=True)
class SamplerAudit:
    """What :func:`equiv_probe.audit_sampler` found; :meth:`__getitem__` gives an output by name.

    Attributes:
        sampler: its name.
        protocol: how it was measured.
        measured: by output.
        draws: what the sampler drew on the way, how often in one run, and whether it rotated with the frame.
        failures: samples that were left out, with the reason.
        notes: what a reader must know to use the numbers.
        blind_spots: what the measurement cannot see.
    """

    sampler: str
    protocol: dict[str, Any]
    measured: list[EndPoints]
    draws: list[dict[str, Any]]
    failures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blind_spots: list[str] = field(default_factory=lambda: list(BLIND))

    def __getitem__(self, name: str) -> EndPoints:
        for one in self.measured:
            if one.name == name:
                return one
        raise EquivProbeError(f"no output {name!r}", f"one of {[one.name for one in self.measured]}")

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

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, with ``schema_version``; what was not measured is None."""
        plain: dict[str, Any] = without_nan({"schema_version": SCHEMA_VERSION, **asdict(self)})
        return plain

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> SamplerAudit:
        """Undo :meth:`to_dict`.

        Raises:
            EquivProbeError: another schema version, or no audit of a sampler.
        """
        require_version(stored, SCHEMA_VERSION)
        require(stored, SAMPLER)
        known = {entry.name for entry in fields(cls)}
        measured = [_restored(entry) for entry in stored["measured"]]
        if not measured:
            raise EquivProbeError("measured: nothing", "at least one output", 'what audit.save("audit.json") writes')
        return cls(**{key: value for key, value in stored.items() if key in known} | {"measured": measured})

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(path, {".json": lambda: as_json(self.to_dict()), ".html": lambda: as_page(self)})

    @classmethod
    def load(cls, path: str | Path) -> SamplerAudit:
        """Read what :meth:`save` wrote as JSON.

        Raises:
            EquivProbeError: there is no such file, or no audit of a sampler in it.
        """
        found: SamplerAudit = read(path, cls.from_dict)
        return found

    def plot_samples(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """How the deviation is spread over samples; see :func:`equiv_probe.generative.plots.samples`."""
        from equiv_probe.generative import plots as sampler_plots

        return sampler_plots.samples(self, name, ax)

    def plot_path(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """The deviation along the path, step by step; see :func:`equiv_probe.generative.plots.path`."""
        from equiv_probe.generative import plots as sampler_plots

        return sampler_plots.path(self, name, ax)

    def plot_angle(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """The deviation against the angle of the rotation; see :func:`equiv_probe.generative.plots.angle`."""
        from equiv_probe.generative import plots as sampler_plots

        return sampler_plots.angle(self, name, ax)

    def plot(self, name: str | None = None) -> Figure:
        """Deviations of the samples beside the floor, and along the path if there is one (needs Matplotlib).

        Args:
            name: of the output; None is the first.

        Raises:
            EquivProbeError: there is no Matplotlib.
        """
        from equiv_probe.generative import plots as sampler_plots

        return sampler_plots.both(self, name)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.report.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The audit as Rich tables."""
        yield from render(self)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


def _restored(stored: dict[str, Any]) -> EndPoints:
    """None back to NaN, and the interval back to a tuple."""
    known = {entry.name for entry in fields(EndPoints)}
    plain: dict[str, Any] = {key: math.nan if value is None else value for key, value in stored.items() if key in known}
    low, high = (math.nan if end is None else end for end in stored["rms_interval"])
    return EndPoints(**{**plain, "rms_interval": (low, high)})
