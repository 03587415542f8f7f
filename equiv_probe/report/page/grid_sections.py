"""What a page says of the audit of a model of grids: by right angles, exactly, and by all rotations, interpolated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv_probe.estimation.verdict import verdict
from equiv_probe.report.formatting import number
from equiv_probe.report.page.headline import SEVERITY, Headline, beside_floor, errors, times
from equiv_probe.report.page.views import Figures, View
from equiv_probe.results import plots
from equiv_probe.results.measured import Labelled, Measured
from equiv_probe.results.quantity_tables import OWN_LOSS
from equiv_probe.voxels import plots as grid_plots
from equiv_probe.voxels.grid_report import ABOVE, BLIND
from equiv_probe.voxels.plots import ALL, RIGHT_ANGLES, is_root, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.estimation.decomposition import Decomposition
    from equiv_probe.voxels.grid_report import GridAudit

_OWN = "in the output's own unit"
_BROKEN = ("broken", "above round-off")


def view(audit: GridAudit, key: str, *, brief: bool = False) -> View:
    """Everything that a page shows of the audit of a model of grids; if brief, the answer and the table."""
    figures = Figures(audit, key)
    losses = [m for name, one in _rows(audit) if (m := _measured(name, one)).labelled is not None]
    if losses:

        def draw(_: GridAudit, ax: Axes) -> Axes:
            return plots.share(losses, ax)

        listed = "; ".join(f"{m.name}: {number(100 * m.labelled.share)} %" for m in losses if m.labelled)
        text = f"L_equiv as a part of L_total, with 95 % intervals. {listed}."
        figures.add("share", draw, "Parts of the loss", text, height=1.5 + 0.45 * len(losses))
    if not brief:
        _add(figures, audit)
    both = (audit.cube, audit.rotations)
    count = f"{audit.structures} structure{'s' * (audit.structures != 1)}"
    return View(
        audit,
        key,
        headline(audit),
        template="grid.html.jinja",
        name=audit.model,
        source=f"{count}, on voxel grids",
        losses=losses,
        numbers=[_row(name, one) for name, one in _rows(audit)],
        figures=figures.by_section,
        protocol={
            "right angles": f"{audit.cube_plan}; over the whole box",
            "all rotations": f"{audit.plan}; {audit.interpolation} interpolation, over the ball in the box",
            "loss": audit.cube.loss,
            **audit.protocol,
            "seconds": number(audit.seconds),
        },
        notes=list(dict.fromkeys(note for one in both for each in (one, *one.parts.values()) for note in each.notes)),
        blind_spots=BLIND,
    )


def kind_of(found: Decomposition) -> str:
    """The verdict on rotates by right angles, whose floor is rounding."""
    return verdict(*_against(found), "").kind


def headline(audit: GridAudit) -> Headline:
    """The answer: what right angles show if they show anything, else what all rotations do."""
    cube, rotations, kind = audit.cube, audit.rotations, kind_of(audit.cube)
    finer = (
        f"Over all rotations it is {_value(rotations)}, beside {_floor(rotations)} that interpolation leaves: "
        + ("more" if audit.is_above_interpolation else "no more")
        + f" than it may make, {ABOVE:g} times its floor of L_equiv."
    )
    exact = (
        f"At right angles, which interpolate nothing, it is {_value(cube)}, beside {_floor(cube)} that rounding leaves."
    )
    if kind in _BROKEN:
        start = "Yes" if kind == "broken" else "Slightly"
        answer = f"{start}: rotates by right angles, which interpolate nothing, already show it."
        over, floors = _over(audit, exact=True), _beside(cube)
        return _headline(cube, kind, answer, over, [*floors, finer, *_errors(cube)])
    floors = [f"{times(_ratio(rotations))} times {_floor(rotations)} that interpolation leaves."]
    if audit.is_above_interpolation:
        answer = "Yes, between right angles: more than interpolation makes of it."
        return _headline(rotations, "broken", answer, _over(audit), [*floors, exact, *_errors(rotations)])
    if kind == "non-deterministic":
        answer = "Not that one could tell: repeating the same input varies as much."
        return _headline(cube, kind, answer, _over(audit, exact=True), [*_beside(cube), finer])
    answer = "Not that one could tell: nothing at right angles, and between them no more than interpolation may make."
    reach = f"Less than {number(shown(rotations, ABOVE * rotations.floor))} cannot be told from interpolation here."
    return _headline(rotations, "round-off", answer, _over(audit), [*floors, exact, reach])


def _headline(found: Decomposition, kind: str, answer: str, over: str, beside: list[str]) -> Headline:
    low, high = (shown(found, end) for end in found.equiv_interval)
    root = is_root(found)
    return Headline(
        about=found.loss,
        kind=kind if kind in SEVERITY and kind else "unknown",
        answer=answer,
        value=number(shown(found, found.equiv)),
        unit=_OWN if root else f"of the loss ({found.loss})",
        span=f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "",
        meaning=f"{'√L_equiv' if root else 'L_equiv'} {over}"
        + (": how far a prediction lies from the average over them (root mean square)." if root else "."),
        beside=beside,
    )


def _over(audit: GridAudit, *, exact: bool = False) -> str:
    if exact:
        return f"over {audit.cube_plan.size} rotations by right angles, the whole box"
    return f"over all rotations, by {audit.interpolation} interpolation, within the ball that the box holds"


def _beside(found: Decomposition) -> list[str]:
    return beside_floor(*_against(found), "")


def _against(found: Decomposition) -> tuple[float, float, float]:
    """The number and the two floors that it is judged beside."""
    return shown(found, found.equiv), shown(found, found.floor), shown(found, found.nondeterminism)


def _ratio(found: Decomposition) -> float:
    floor = shown(found, found.floor)
    return shown(found, found.equiv) / floor if floor > 0 else math.nan


def _value(found: Decomposition) -> str:
    low, high = (shown(found, end) for end in found.equiv_interval)
    span = f" ({number(low)} to {number(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{number(shown(found, found.equiv))}{span}"


def _floor(found: Decomposition) -> str:
    return f"the floor of {number(shown(found, found.floor))}"


def _errors(found: Decomposition) -> list[str]:
    known = _labelled(found)
    return errors("values", "", known) if known is not None else []


def _rows(audit: GridAudit) -> list[tuple[str, Decomposition]]:
    """Both numbers, of every output if there are several."""
    both = ((RIGHT_ANGLES, audit.cube), (ALL, audit.rotations))
    found = list(both)
    for name in audit.cube.parts if len(audit.cube.parts) > 1 else ():
        found += [(f"{name}, {how}", one.parts[name]) for how, one in both if name in one.parts]
    return found


def _row(name: str, found: Decomposition) -> dict[str, Any]:
    return {
        "name": name,
        "value": shown(found, found.equiv),
        "span": tuple(shown(found, end) for end in found.equiv_interval),
        "floor": shown(found, found.floor),
        "times": _ratio(found),
        "unit": "√L_equiv, own unit" if is_root(found) else f"L_equiv, {found.loss}",
    }


def _labelled(found: Decomposition) -> Labelled | None:
    if not math.isfinite(found.total):
        return None
    return Labelled(
        found.loss,
        found.unit or OWN_LOSS,
        found.structures,
        found.total,
        found.total_stderr,
        found.mean,
        found.mean_stderr,
        found.equiv,
        found.equiv_stderr,
        found.equiv_interval,
        found.share,
        found.share_stderr,
        found.share_interval,
    )


def _measured(name: str, found: Decomposition) -> Measured:
    """As the tables and the figure of the losses take it."""
    none: dict[str, Any] = dict.fromkeys(
        ("rms", "equiv", "equiv_stderr", "relative", "floor", "nondeterminism"), math.nan
    )
    span = (math.nan, math.nan)
    known = _labelled(found)
    return Measured(name, "", found.structures, rms_interval=span, verdict="", sentence="", labelled=known, **none)


def _add(figures: Figures[GridAudit], audit: GridAudit) -> None:
    cube, rotations = audit.cube, audit.rotations
    reach = number(shown(rotations, ABOVE * rotations.floor))
    text = (
        f"Right angles: {_value(cube)} beside {_floor(cube)}. All rotations: {_value(rotations)} beside "
        f"{_floor(rotations)} of interpolation, which may make up to {reach}."
    )
    figures.add("kind", grid_plots.numbers, "Beside their floors", text, height=2.4)
    ends = []
    for name, how in (("cube", RIGHT_ANGLES), ("rotations", f"{ALL}, interpolated")):
        listed = ", ".join(f"{number(root)} at {at:g}°" for at, root in grid_plots.at_angles(audit, name))
        ends.append(f"{how}: {listed or 'nothing'}")
    text = f"How far predictions, rotated back, lie from the unrotated ones. {'; '.join(ends)}."
    caption = (
        "How far predictions, rotated back, lie from the unrotated ones (root mean square). At right angles over the "
        "whole box, and nothing interpolated; otherwise over the ball, where interpolation has its part at every angle."
    )
    figures.add("kind", grid_plots.angle, "Against the angle", text, caption=caption)
    if audit.structures > 1:
        text = "For each value, the percentage of structures that lie below it."
        figures.add("where", grid_plots.structures, "Over structures", text)
