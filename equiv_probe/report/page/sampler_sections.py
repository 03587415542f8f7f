"""What a page says of the audit of a sampler: do its end points rotate as its noise does?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from equiv_probe.generative import plots as sampler_plots
from equiv_probe.report.formatting import number
from equiv_probe.report.page.headline import SEVERITY, Headline, beside_floor, percent
from equiv_probe.report.page.views import Figures, View
from equiv_probe.report.stored import finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.generative.sampler_report import EndPoints, SamplerAudit

WORST = 12
"""Rows of the table of samples."""
_ANSWERS = {
    "broken": "Yes: where the noise rotates, the samples do not rotate with it.",
    "above round-off": "Slightly: samples rotate with their noise up to a little more than rounding.",
    "round-off": "No: samples rotate with their noise, down to rounding.",
    "path only": "Not in distribution, as far as the samples tell: paths do not rotate with their noise.",
    "non-deterministic": "Not that one could tell: the same noise, run again, varies as much.",
}


def view(audit: SamplerAudit, key: str, *, brief: bool = False) -> View:
    """Everything that a page shows of the audit of a sampler; if brief, the answer and the table."""
    worst = min(audit.measured, key=_severity)
    figures = Figures(audit, key)
    if not brief:
        for one in sorted(audit.measured, key=lambda one: one.name != worst.name):
            _add(figures, one, main=one.name == worst.name)
    return View(
        audit,
        key,
        headline(worst),
        template="sampler.html.jinja",
        name=audit.sampler,
        source=f"{worst.samples} sample{'s' * (worst.samples != 1)}",
        end_points=audit.measured,
        worst=sorted(worst.by_sample, key=lambda entry: -_rank(entry))[:WORST],
        figures=figures.by_section,
        protocol=audit.protocol,
        failures=audit.failures,
        notes=audit.notes,
        blind_spots=audit.blind_spots,
    )


def headline(one: EndPoints) -> Headline:
    """The answer for one output."""
    beside = beside_floor(one.rms, one.floor, one.nondeterminism, one.unit)
    if one.scale > 0:
        beside.append(
            f"{percent(one.rms / one.scale)} of how far {one.name} of other noise lie apart, "
            f"{number(one.scale)} {one.unit}."
        )
    if math.isfinite(one.spread):
        beside.append(f"About the mean over all frames they scatter by {number(one.spread)} {one.unit}.")
    low, high = one.rms_interval
    return Headline(
        about=one.name,
        kind=one.verdict if one.verdict in _ANSWERS else "unknown",
        answer=_ANSWERS.get(one.verdict, "It was measured, with no floor to compare it with."),
        value=number(one.rms),
        unit=one.unit,
        span=f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "",
        meaning=f"How far the {one.name} of rotated noise, rotated back, lie from those of the noise as it was: root "
        "mean square over atoms, rotations and samples.",
        beside=beside,
    )


def _severity(one: EndPoints) -> int:
    return SEVERITY.index(one.verdict if one.verdict in SEVERITY else "unknown")


def _rank(entry: Mapping[str, float]) -> float:
    root = finite(entry["rms"])
    return root if math.isfinite(root) else -math.inf


def _add(figures: Figures[SamplerAudit], one: EndPoints, *, main: bool) -> None:
    spread = one.over_samples
    if one.samples > 1:
        text = (
            f"Half of the samples deviate by less than {number(spread['q50'])} {one.unit}, 95 % by less than "
            f"{number(spread['q95'])}; the largest deviation is {number(spread['max'])}, of sample "
            f"{int(spread['worst'])}. The floor is {number(one.highest_floor)}."
        )
        figures.add("where", sampler_plots.samples, f"Over samples: {one.name}", text, one.name, main=main)
    bins = [(bin_, finite(bin_["rms"])) for bin_ in one.by_angle]
    filled = [(bin_, root) for bin_, root in bins if math.isfinite(root)]
    if len(filled) > 1:
        ends = (
            f"{number(root)} {one.unit} where the noise rotated by {bin_['low']:g} to {bin_['high']:g}°"
            for bin_, root in (filled[0], filled[-1])
        )
        text = f"{' and '.join(ends)}. In bins of 20 degrees, {sum(int(bin_['count']) for bin_, _ in filled)} runs."
        figures.add("kind", sampler_plots.angle, f"Against the angle: {one.name}", text, one.name, main=main)
    roots = [finite(entry["rms"]) for entry in one.along_path]
    if len(roots) > 1 and any(math.isfinite(root) for root in roots):
        top = max(range(len(roots)), key=lambda place: roots[place] if math.isfinite(roots[place]) else -math.inf)
        text = (
            f"{number(roots[0])} {one.unit} at the start, {number(roots[-1])} after {len(roots) - 1} "
            f"step{'s' * (len(roots) != 2)}; the largest is {number(roots[top])}, at step {top}, beside a "
            f"floor of {number(one.highest_floor)}. Other noise shows how "
            "far two paths can lie apart."
        )
        figures.add("time", sampler_plots.path, f"Along the path: {one.name}", text, one.name, main=main)
