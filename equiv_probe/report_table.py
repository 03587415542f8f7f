"""The report as Rich tables: the answer first, then the loss, then where it sits, then how it was measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich import box
from rich.table import Table
from rich.text import Text

from equiv_probe.running import OF_THE_STEP
from equiv_probe.stored import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from equiv_probe.report import Labelled, Measured, Report

OWN_LOSS = "loss"
"""The unit of a loss that a step computed itself: the probe does not know what it is made of."""

_COLOURS = {"round-off": "green", "non-deterministic": "green", "above round-off": "yellow", "broken": "red"}


def number(value: float, digits: int = 3) -> str:
    """Significant digits, without needless exponents; a dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def shown(text: str) -> str:
    r"""Text as it can be shown: what would move the cursor or turn the direction of writing stands there as its code.

    >>> shown("a\x1b[2Jb\u202ec")
    'a\\x1b[2Jb\\u202ec'
    """
    return "".join(repr(c)[1:-1] if _acts(c) else c for c in text) if any(map(_acts, text)) else text


def _acts(character: str) -> bool:
    kind = category(character)
    return (kind == "Cc" and character not in "\n\t") or kind == "Cs" or character in _DIRECTIONS


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def interval(low: float, high: float) -> str:
    """A 95 % interval, or nothing where there is none."""
    return f"[{number(low)}, {number(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def with_error(value: float, error: float) -> str:
    """A value with its standard error, where there is one."""
    return f"{number(value)} ± {number(error, 2)}" if math.isfinite(error) else number(value)


def render(report: Report) -> Iterator[RenderableType]:
    """The parts of a report, in the order in which they answer questions."""
    counted = f"{len(report.structures)} structure{'s' * (len(report.structures) != 1)} of "
    yield Text.assemble(
        (shown(report.model), "bold"), f" on {counted if report.structures else ''}{shown(report.source)}"
    )
    if not report.complete:
        resumes = " The same command resumes." if report.structures else ""
        yield Text(f"Interrupted: only part of it was measured.{resumes}", "bold yellow")
    symmetry = [m for m in report.measured if m.labelled is None or math.isfinite(m.rms)]
    if symmetry:
        yield _symmetry(symmetry)
    labelled = [(m.name, m.labelled) for m in report.measured if m.labelled is not None]
    if labelled:
        yield _losses(labelled)
    yield from (profile.table() for profile in report.over)
    yield from _gradients(report)
    if len(report.structures) > 1 or any(m.over_rotations for m in report.measured):
        yield _spread(report.measured)
    for measured in report.measured:
        if measured.by_element and measured.verdict not in {"round-off", "non-deterministic"}:
            yield _where(measured)
    if report.failures:
        yield _failures(report.failures)
    for note in report.notes:
        yield Text.assemble(("Note: ", "bold"), shown(note))
    yield Text.assemble(("Measured with ", "bold"), shown("; ".join(f"{k} {v}" for k, v in report.protocol.items())))
    if report.blind_spots:
        yield Text.assemble(("Does not see ", "bold"), shown("; ".join(report.blind_spots)))


def _gradients(report: Report) -> Iterator[Table]:
    from equiv_probe.gradient_table import table

    return (table(found, f"Gradients of {name}") for name, found in report.gradients.items())


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; names come from files, and square brackets in them are not markup."""
    table.add_row(*(Text(shown(cell)) if isinstance(cell, str) else cell for cell in cells))


def table_of(title: str, *columns: str, wraps: tuple[str, ...] = ()) -> Table:
    """An empty table: the first column to the left, numbers to the right."""
    table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="left" if index == 0 else "right", no_wrap=column not in wraps, overflow="fold"
        )
    return table


def _symmetry(measured: list[Measured]) -> Table:
    columns = ("", "√L_equiv", "95 % interval", "unit", "relative", "floor")
    table = table_of("Symmetry error (root mean square over rotations)", *columns)
    table.add_column("verdict", justify="left", no_wrap=False)
    for m in measured:
        relative = f"{100 * m.relative:.2g} %" if math.isfinite(m.relative) else "–"
        floor = max((f for f in (m.floor, m.nondeterminism) if math.isfinite(f)), default=math.nan)
        cells = (m.name, number(m.rms), interval(*m.rms_interval), m.unit, relative, number(floor))
        _row(table, *cells, Text(m.sentence, _COLOURS.get(m.verdict, "")))
    return table


def _losses(labelled: list[tuple[str, Labelled]]) -> Table:
    of_a_run = labelled[0][1].unit == OWN_LOSS
    counts = sorted({m.structures for _, m in labelled})
    many = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    title = f"Loss ({labelled[0][1].loss}) against the reference on {many} structure{'s' * (many != '1')}"
    columns = ("", "L_total", "L_mean", "L_equiv", "over" if of_a_run else "unit", "share of the loss", "95 % interval")
    table = table_of(f"{'Losses of the run' if of_a_run else title}: L_total = L_mean + L_equiv", *columns)

    for name, m in labelled:
        error = f" ± {percent(m.share_stderr)}" if math.isfinite(m.share_stderr) and abs(m.share) > 1e-8 else ""
        low, high = m.share_interval
        _row(
            table,
            name,
            with_error(m.total, m.total_stderr),
            with_error(m.mean, m.mean_stderr),
            with_error(m.equiv, m.equiv_stderr),
            over(m) if of_a_run else m.unit,
            percent(m.share) + error,
            f"[{percent(low)}, {percent(high)}]" if math.isfinite(low) and error else "",
        )
    return table


def over(m: Labelled) -> str:
    """What the estimate is over: batches of which the step made one number, or structures."""
    kind = "batch" if m.loss == OF_THE_STEP else "structure"
    plural = {"batch": "batches", "structure": "structures"}
    return f"{m.structures} {kind if m.structures == 1 else plural[kind]}"


def percent(share: float) -> str:
    """A share in percent."""
    return "< 1e-6 %" if abs(share) < 1e-8 else f"{number(100 * share)} %"


def _spread(measured: list[Measured]) -> Table:
    columns = ("", "median", "95 %", "max", "worst structure", "median", "95 %", "max", "one atom, max", "unit")
    title = "Spread: over structures (left), over single rotations (right)"
    table = table_of(title, *columns, wraps=("worst structure",))
    for m in measured:
        structures, rotations = m.over_structures, m.over_rotations
        worst: Any = structures.get("worst", "")
        cells = [number(structures.get(key, math.nan)) for key in ("q50", "q95", "max")]
        cells += [str(worst), *(number(rotations.get(key, math.nan)) for key in ("q50", "q95", "max"))]
        _row(table, m.name, *cells, number(m.largest), m.unit)
    return table


def _where(m: Measured) -> Table:
    table = table_of(f"Where: {m.name} by element, and the worst atoms ({m.unit})", "element", "√L_equiv", "atoms")
    table.add_column("   worst atom", justify="left")
    table.add_column("√L_equiv", justify="right")
    ranked = sorted(m.by_element.items(), key=lambda item: -finite(item[1]["rms"]))[:8]
    worst = m.worst_atoms[:8]
    for row in range(max(len(ranked), len(worst))):
        left = ["", "", ""]
        if row < len(ranked):
            element, values = ranked[row]
            left = [element, number(values["rms"]), str(int(values["atoms"]))]
        right = ["", ""]
        if row < len(worst):
            atom = worst[row]
            right = [f"   {atom['element']}{atom['atom']} of {atom['structure']}", number(atom["rms"])]
        _row(table, *left, *right)
    return table


def _failures(failures: list[dict[str, Any]]) -> Table:
    shown = failures[:20]
    rest = f", the first {len(shown)} shown" if len(shown) < len(failures) else ""
    table = Table(
        title=Text(f"Not measured: {len(failures)}{rest}", "bold red"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("structure")
    table.add_column("reason")
    for failure in shown:
        _row(table, str(failure["name"]), str(failure["error"]))
    return table
