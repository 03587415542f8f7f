"""The report as Rich tables: the answer first, then the loss, then where it sits, then how it was measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich import box
from rich.table import Table
from rich.text import Text

from equiv_probe.fitting import Fitting
from equiv_probe.running import OF_THE_STEP
from equiv_probe.stored import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from equiv_probe.report import Labelled, Measured, Report

OWN_LOSS = "loss"
"""The unit of a loss that a step computed itself: the probe does not know what it is made of."""

_MUCH = 10.0
_WORDS = 30
"""Columns for a verdict, at least; it is wrapped into them."""
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
        resumes = " The same command resumes." if report.structures and not report.history else ""
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


def _gradients(report: Report) -> Iterator[RenderableType]:
    from equiv_probe.gradient_sentence import sentence
    from equiv_probe.gradient_table import table

    for name, found in report.gradients.items():
        yield table(found, f"Gradients of {name}")
        if "all" in found["groups"]:
            yield Text(sentence(found["groups"]["all"]))


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


def _symmetry(measured: list[Measured]) -> Fitting:
    columns = ("", "√L_equiv", "95 % interval", "unit", "relative", "floor")
    table, bare = (table_of("Symmetry error (root mean square over rotations)", *columns) for _ in range(2))
    table.add_column("verdict", justify="left", no_wrap=False)
    verdicts = []
    for m in measured:
        # Of what the average nearly cancels, a percentage says nothing.
        parts = f"{100 * m.relative:.2g} %" if m.relative < _MUCH else f"> {100 * _MUCH:.0f} %"
        floor = max((f for f in (m.floor, m.nondeterminism) if math.isfinite(f)), default=math.nan)
        relative = parts if math.isfinite(m.relative) else "–"
        cells = (m.name, number(m.rms), interval(*m.rms_interval), m.unit, relative, number(floor))
        says = Text(m.sentence, _COLOURS.get(m.verdict, ""))
        _row(table, *cells, says)
        _row(bare, *cells)
        verdicts.append(Text.assemble(f"{shown(m.name)}: ", says))
    longest = max((len(m.sentence) for m in measured), default=0)
    return Fitting(table, [bare, *verdicts], spare=max(0, longest - _WORDS))


def _losses(labelled: list[tuple[str, Labelled]]) -> Fitting:
    of_a_run = labelled[0][1].unit == OWN_LOSS
    counts = sorted({m.structures for _, m in labelled})
    many = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    title = f"Loss ({labelled[0][1].loss}) against the reference on {many} structure{'s' * (many != '1')}"
    columns = ("", "L_total", "L_mean", "L_equiv", "over" if of_a_run else "unit", "share of the loss", "95 % interval")
    title = f"{'Losses of the run' if of_a_run else title}: L_total = L_mean + L_equiv"
    table, parts, shares = table_of(title, *columns), table_of(title, *columns[:5]), table_of("", "", *columns[5:])
    for name, m in labelled:
        error = f" ± {percent(m.share_stderr)}" if math.isfinite(m.share_stderr) and abs(m.share) > 1e-8 else ""
        low, high = m.share_interval
        values = [with_error(getattr(m, key), getattr(m, f"{key}_stderr")) for key in ("total", "mean", "equiv")]
        values.append(over(m) if of_a_run else m.unit)
        share = [percent(m.share) + error, f"[{percent(low)}, {percent(high)}]" if math.isfinite(low) and error else ""]
        _row(table, name, *values, *share)
        _row(parts, name, *values)
        _row(shares, name, *share)
    return Fitting(table, [parts, shares])


def over(m: Labelled) -> str:
    """What the estimate is over: batches of which the step made one number, or structures."""
    kind = "batch" if m.loss == OF_THE_STEP else "structure"
    plural = {"batch": "batches", "structure": "structures"}
    return f"{m.structures} {kind if m.structures == 1 else plural[kind]}"


def percent(share: float) -> str:
    """A share in percent."""
    return "< 1e-6 %" if abs(share) < 1e-8 else f"{number(100 * share)} %"


def _spread(measured: list[Measured]) -> Fitting:
    """Over structures and over rotations: side by side where both fit."""
    quantiles = ("median", "95 %", "max")
    columns = ("", *quantiles, "worst structure", *quantiles, "one atom, max", "unit")
    both = table_of("Spread: over structures (left), over single rotations (right)", *columns)
    # A name too long even so is folded; its end, the number of the structure in its file, must not be cut off.
    left = table_of("Spread over structures", "", *quantiles, "unit", "worst structure", wraps=("worst structure",))
    right = table_of("Spread over single rotations", "", *quantiles, "one atom, max", "unit")
    for m in measured:
        worst = str(m.over_structures.get("worst", ""))
        over_structures, over_rotations = (
            [number(where.get(key, math.nan)) for key in ("q50", "q95", "max")]
            for where in (m.over_structures, m.over_rotations)
        )
        _row(both, m.name, *over_structures, worst, *over_rotations, number(m.largest), m.unit)
        _row(left, m.name, *over_structures, m.unit, worst)
        _row(right, m.name, *over_rotations, number(m.largest), m.unit)
    return Fitting(both, [left, right])


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
