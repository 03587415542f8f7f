"""Reports to HTML: whatever comes from files is escaped, and only scripts that were written here may run.

Jinja escapes what the templates show. Should anything slip through, the page's content security policy names the hashes
of its scripts, so that the browser runs no other, and lets it fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import cache, partial
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.sampler_report import SamplerAudit
from equiv_probe.landscape.saved_curvature import SavedCurvature
from equiv_probe.landscape.saved_line import SavedLine
from equiv_probe.report.cells import interval_of, text_of, value_of
from equiv_probe.report.document import Documented, Verdict
from equiv_probe.report.formatting import interval, number, shown
from equiv_probe.report.page import curvature_sections, grid_sections, line_sections, sampler_sections, viewer
from equiv_probe.report.page.document_view import DocumentView, grouped
from equiv_probe.report.page.figures import svg
from equiv_probe.results.comparison import p_value
from equiv_probe.results.contrast_plot import contrast as contrast_plot
from equiv_probe.results.quantity_tables import over
from equiv_probe.voxels.grid_report import GridAudit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment
    from matplotlib.axes import Axes

    from equiv_probe.report.page.views import View
    from equiv_probe.report.saving import Saved as Old

    Saved = Old | Documented
    from equiv_probe.results.comparison import Comparison
    from equiv_probe.results.contrasts import Contrast

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def page(reports: Sequence[Saved], title: str = "") -> str:
    """One self-contained page of one or more reports.

    Args:
        reports: to show, one after the other: also audits of samplers and of models of grids, curvatures and lines.
        title: of the page; the models' names by default.

    Returns:
        HTML. It fetches nothing, and runs two scripts: its own and, if ``chemiscope`` is installed and there are
        structures to show, chemiscope's.

    Raises:
        EquivProbeError: no report, or Matplotlib is not installed.
    """
    if not reports:
        raise EquivProbeError("no report", "at least one")
    views = [_view(report, f"r{place}") for place, report in enumerate(reports)]
    models = list(dict.fromkeys(one.name for one in views))
    return _written(
        "page.html.jinja",
        title=title or f"{', '.join(models)}: rotational symmetry",
        views=views,
        datasets={one.key: one.dataset for one in views if one.dataset},
    )


def _view(report: Saved, key: str, *, brief: bool = False) -> View | DocumentView:
    """What the templates are given, by the kind of measurement."""
    if isinstance(report, Documented):
        return DocumentView(report.document().on("notebook" if brief else "page"), key)
    if isinstance(report, SamplerAudit):
        return sampler_sections.view(report, key, brief=brief)
    if isinstance(report, GridAudit):
        return grid_sections.view(report, key, brief=brief)
    if isinstance(report, SavedLine):
        return line_sections.view(report, key, brief=brief)
    assert isinstance(report, SavedCurvature)
    return curvature_sections.view(report, key, brief=brief)


def comparison_page(found: Comparison) -> str:
    """Reports side by side as a page: a figure and a table for each number.

    Raises:
        EquivProbeError: Matplotlib is not installed.
    """
    figures = [
        (
            contrast,
            svg(
                partial(_draw, contrast),
                f"c{place}",
                f"{contrast.number} of {contrast.quantity} with 95 % intervals; the table holds the numbers.",
                height=1.0 + 0.35 * len(contrast.entries),
            ),
        )
        for place, contrast in enumerate(found.contrasts)
    ]
    return _written("comparison.html.jinja", found=found, shown=figures)


def _draw(contrast: Contrast, ax: Axes) -> Axes:
    return contrast_plot(contrast, ax=ax)


def fragment(report: Saved) -> str:
    """The answer, the loss and its share as HTML for a notebook's cell: no script, and styles that stay inside."""
    digest = hashlib.sha256(json.dumps(report.to_dict(), sort_keys=True, default=str).encode())
    key = f"equiv-probe-{digest.hexdigest()[:12]}"  # reports in one notebook must not share ids
    template = "notebook.html.jinja" if isinstance(report, Documented) else "fragment.html.jinja"
    return _written(template, view=_view(report, key, brief=True))


def _written(template: str, **context: Any) -> str:
    script, style = (_text(name) for name in ("page.js", "style.css"))
    code = viewer.code() if context.get("datasets") else None
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (script, *([code.text] if code else [])))
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            "font-src data:; base-uri 'none'; form-action 'none'",
            script=Markup(script),
            style=Markup(style),
            code=code,
            missing=viewer.MISSING,
            version=metadata.version("equiv-probe"),
        )
        .strip()
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("equiv_probe.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": pretty,
        "percent": percent,
        "span": span,
        "powers": powers,
        "p": p_value,
        "over": over,
        "cell": text_of,
        "value": value_of,
        "interval": interval_of,
        "grouped": grouped,
        "is_verdict": lambda cell: isinstance(cell, Verdict),
    }
    return environment


def _visible(value: Any) -> Any:
    """Text from files with what would turn the direction of writing as its code; the templates' own markup as it is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _text(name: str) -> str:
    return resources.files("equiv_probe.report.page").joinpath(name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def pretty(value: float | None, digits: int = 3) -> str:
    """A number as people write it.

    >>> pretty(1.2e-7), pretty(138.2), pretty(None)
    ('1.2 × 10⁻⁷', '138', '–')
    """
    return powers(number(math.nan if value is None else value, digits))


def powers(text: str) -> str:
    """Exponents as powers of ten.

    >>> powers("broken: 3e4 times")
    'broken: 3 × 10⁴ times'
    """
    return re.sub(r"(?<=\d)e(-?)\+?(\d+)\b", lambda m: f" × 10{(m[1] + m[2]).translate(_SUPERSCRIPT)}", text)


def percent(part: float | None) -> str:
    """A part of one in percent."""
    if part is not None and abs(part) < 1e-8:
        return "< 10⁻⁶ %"
    return f"{pretty(None if part is None else 100 * part)} %"


def span(ends: Sequence[float | None], scale: float = 1.0) -> str:
    """A 95 % interval, or a dash where there is none."""
    low, high = (math.nan if end is None else scale * end for end in ends)
    return powers(interval(low, high)) or "–"
