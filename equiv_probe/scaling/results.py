"""Several results as one, and as files: JSON for machines, one page of HTML, or figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.by_name import ByName
from equiv_probe.report.document import TERMINAL, Document, Paragraph, Section
from equiv_probe.report.record import Record
from equiv_probe.scaling.allocation import Allocation
from equiv_probe.scaling.data_efficiency import DataEfficiency
from equiv_probe.scaling.figures import figure_of
from equiv_probe.scaling.forecast_result import Forecast
from equiv_probe.scaling.gap_result import Gap
from equiv_probe.scaling.law import Fit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Result = Fit | Allocation | DataEfficiency | Gap | Forecast
FIGURES = (".png", ".svg", ".pdf")


class Results(Record, ByName[Result], frozen=True):
    """Results of one command, by name.

    Attributes:
        fits: laws.
        allocations: best sizes.
        efficiencies: comparisons of models by their data.
        gaps: comparisons of models by what was spent.
        forecasts: shares at a later step.
    """

    kind: ClassVar[str] = "scaling"

    fits: dict[str, Fit] = msgspec.field(default_factory=dict)
    allocations: dict[str, Allocation] = msgspec.field(default_factory=dict)
    efficiencies: dict[str, DataEfficiency] = msgspec.field(default_factory=dict)
    gaps: dict[str, Gap] = msgspec.field(default_factory=dict)
    forecasts: dict[str, Forecast] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, results: Mapping[str, Result]) -> Results:
        """Sort results by their kinds."""
        return cls(
            fits={name: one for name, one in results.items() if isinstance(one, Fit)},
            allocations={name: one for name, one in results.items() if isinstance(one, Allocation)},
            efficiencies={name: one for name, one in results.items() if isinstance(one, DataEfficiency)},
            gaps={name: one for name, one in results.items() if isinstance(one, Gap)},
            forecasts={name: one for name, one in results.items() if isinstance(one, Forecast)},
        )

    def items(self) -> list[tuple[str, Result]]:
        """The results by name."""
        held: dict[str, Result] = {**self.fits, **self.allocations, **self.efficiencies, **self.gaps, **self.forecasts}
        return list(held.items())

    def document(self) -> Document:
        """All results, one after the other."""
        parts = {name: one.document() for name, one in self.items()}
        sections = [
            Section(part.name, [Paragraph(part.source, lead=part.name, on=TERMINAL), *part.blocks])
            for part in parts.values()
        ]
        return Document("Scaling", ", ".join(parts), sections)


def save(path: Path, results: Mapping[str, Result]) -> None:
    """Write results.

    Args:
        path: ``.json``, which ``equiv_probe.load`` reads; ``.html``; or a figure, ``.png``, ``.svg`` or ``.pdf``; of
            several results each figure gets the result's name appended to its own.
        results: by name.

    Raises:
        EquivProbeError: another suffix, or a path that cannot be written; for pages and figures, no Matplotlib.
    """
    if path.suffix not in {".json", ".html", *FIGURES}:
        raise EquivProbeError(f"-o {path}", f"a name that ends in .json, .html, {', '.join(FIGURES)}")
    try:
        _write(path, results)
    except OSError as error:
        raise EquivProbeError(f"-o {path}: {error.strerror or error}", "a file that can be written") from error


def _write(path: Path, results: Mapping[str, Result]) -> None:
    from equiv_probe.report.page import page

    path.parent.mkdir(parents=True, exist_ok=True)
    several = len(results) > 1
    if path.suffix == ".json":
        (Results.of(results) if several else next(iter(results.values()))).save(path)
    elif path.suffix == ".html":
        path.write_text(page(list(results.values()), "Scaling" if several else ""), encoding="utf-8")
    else:
        for name, result in results.items():
            plain = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
            file = path.with_name(f"{path.stem}-{plain}{path.suffix}") if several else path
            figure_of(result).savefig(file, dpi=160)
