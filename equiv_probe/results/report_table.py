"""The report as Rich tables: the answer first, then the loss, then where it sits, then how it was measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from equiv_probe.estimation.running import OF_THE_STEP
from equiv_probe.report.fitting import Fitting
from equiv_probe.report.formatting import interval, number, percent, shown, table_of, with_error
from equiv_probe.report.stored import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from equiv_probe.results.report import Labelled, Measured, Report

OWN_LOSS = "loss"
"""The unit of a loss that a step computed itself: the probe does not know what it is made of."""

_MUCH = 10.0
_WORDS = 30
"""Columns for a verdict, at least; it is wrapped into them."""
_COLOURS = {"round-off": "green", "non-deterministic": "green", "above round-off": "yellow", "broken": "red"}


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
    from equiv_probe.results.gradient_sentence import sentence
    from equiv_probe.results.gradient_table import table

    for name, found in report.gradients.items():
        yield table(found, f"Gradients of {name}")
        if "all" in found["groups"]:
            yield Text(sentence(found["groups"]["all"]))


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; names come from files, and square brackets in them are not markup."""
    table.add_row(*(Text(shown(cell)) if isinstance(cell, str) else cell for cell in cells))


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
