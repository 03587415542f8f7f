"""What an audit of a sampler found: as a table to read, as JSON for machines, as a figure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from equiv_probe.errors import EquivProbeError
from equiv_probe.report import without_nan
from equiv_probe.report_table import interval, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure
    from rich.console import RenderableType

SCHEMA_VERSION = 1
BLIND = [
    "whether the distribution of samples is equivariant although paths are not: turned noise tests path by path, "
    "which is enough for the distribution but not necessary (a random augmentation inside the sampler, say)",
    "noise drawn around torch's operators that is the same at every run (a generator with a fixed seed)",
]
_COLOURS = {"round-off": "green", "non-deterministic": "green", "above round-off": "yellow", "broken": "red"}


@dataclass(frozen=True)
class EndPoints:
    """Deviations of one output: root mean squares over atoms, in ``unit``; NaN where not measured.

    Attributes:
        name: of the output.
        unit: of all lengths.
        samples: how many it was measured on.
        rms: deviation of turned noise's end points, turned back, from the unturned noise's: over rotations and samples.
        rms_interval: its 95 % interval.
        spread: of the orbit about its mean, without bias: ``rms / √2`` but for the luck of the unturned frame.
        scale: how far end points of different noise lie apart.
        floor: what noise that was turned there and back again reads, and not less than the resolution of the numbers.
        nondeterminism: what the same run reads, run again.
        verdict: one of the kinds of :mod:`equiv_probe.verdict`.
        sentence: the verdict in words.
        over_samples: quantiles, maximum and worst of the samples' deviations.
        over_rotations: quantiles and maximum of single rotations and samples.
        by_sample: deviation, floor and non-determinism of each sample.
        along_path: deviation and floor at each point of the path, if it was asked for.
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


@dataclass(frozen=True)
class SamplerAudit:
    """What :func:`equiv_probe.audit_sampler` found; :meth:`__getitem__` gives an output by name.

    Attributes:
        sampler: its name.
        protocol: how it was measured.
        measured: by output.
        draws: what the sampler drew on the way, how often in one run, and whether it turned with the frame.
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

    def save(self, path: str | Path) -> None:
        """Write JSON.

        Raises:
            EquivProbeError: another suffix.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise EquivProbeError(f"the suffix {path.suffix!r}", ".json", 'audit.save("audit.json")')
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def plot(self, name: str | None = None) -> Figure:
        """Deviations of the samples beside the floor, and along the path if there is one (needs Matplotlib).

        Args:
            name: of the output; None is the first.

        Raises:
            EquivProbeError: there is no Matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise EquivProbeError("no matplotlib", "it, for figures", "pip install matplotlib") from error
        one = self[name or self.measured[0].name]
        figure = Figure(figsize=(9 if one.along_path else 5, 3.5), layout="constrained")
        axes = figure.subplots(1, 2 if one.along_path else 1, squeeze=False)[0]
        deviations = [max(entry["rms"], 1e-300) for entry in one.by_sample]
        low, high = math.log10(min(deviations)) - 0.1, math.log10(max(deviations)) + 0.1
        axes[0].hist(deviations, bins=[10 ** (low + (high - low) * k / 20) for k in range(21)])
        for value, label, style in ((one.floor, "round-off floor", ":"), (one.scale, "other noise", "--")):
            if value > 0 and math.isfinite(value):
                axes[0].axvline(value, color="k", linestyle=style, label=label)
        axes[0].set(xscale="log", xlabel=f"deviation of {one.name} ({one.unit})", ylabel="samples")
        axes[0].legend()
        if one.along_path:
            steps = range(len(one.along_path))
            for key, label in (("rms", "deviation"), ("floor", "round-off floor")):
                axes[1].plot(steps, [entry[key] for entry in one.along_path], label=label)
            axes[1].set(yscale="log", xlabel="point of the path", ylabel=f"root mean square ({one.unit})")
            axes[1].legend()
        return figure

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The audit as Rich tables."""
        yield from _render(self)

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        words = place == 0 or column in {"verdict", "where"}
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "verdict")
    return table


def _render(audit: SamplerAudit) -> Iterator[RenderableType]:
    """The answer first, then its spread, then what was drawn, then how it was measured."""
    counted = f"{audit.measured[0].samples} sample{'s' * (audit.measured[0].samples != 1)}"
    yield Text.assemble((audit.sampler, "bold"), f" on {counted}")
    columns = ("", "deviation", "95 % interval", "unit", "spread", "other noise", "floor", "verdict")
    table = _table("End points of turned noise, turned back (root mean square over atoms)", *columns)
    for one in audit.measured:
        floor = max((f for f in (one.floor, one.nondeterminism) if math.isfinite(f)), default=math.nan)
        cells = [one.name, number(one.rms), interval(*one.rms_interval), one.unit]
        cells += [number(value) for value in (one.spread, one.scale, floor)]
        table.add_row(*map(Text, cells), Text(one.sentence, _COLOURS.get(one.verdict, "")))
    yield table
    title = "Spread: over samples (left), over single rotations and samples (right)"
    table = _table(title, "", "median", "95 %", "max", "worst sample", "median", "95 %", "max", "unit")
    for one in audit.measured:
        left, right = ([number(group[key]) for key in ("q50", "q95", "max")] for group in _quantiles(one))
        table.add_row(*map(Text, (one.name, *left, str(int(one.over_samples["worst"])), *right, one.unit)))
    yield table
    if audit.draws:
        table = _table("Drawn on the way", "call", "shape", "times", "turned", "where")
        for entry in audit.draws[:12]:
            shape = "(" + ", ".join(map(str, entry["shape"])) + ")"
            table.add_row(
                *map(
                    Text,
                    (entry["call"], shape, str(entry["times"]), "yes" if entry["turned"] else "no", entry["where"]),
                )
            )
        yield table
    if audit.failures:
        listed = "; ".join(f"{entry['name']}: {entry['error']}" for entry in audit.failures[:20])
        yield Text.assemble((f"Left out {len(audit.failures)}: ", "bold red"), listed)
    for note in audit.notes:
        yield Text.assemble(("Note: ", "bold"), note)
    yield Text.assemble(
        ("Measured with ", "bold"), "; ".join(f"{key} {value}" for key, value in audit.protocol.items())
    )
    yield Text.assemble(("Does not see ", "bold"), "; ".join(audit.blind_spots))


def _quantiles(one: EndPoints) -> tuple[dict[str, float], dict[str, float]]:
    return one.over_samples, one.over_rotations
