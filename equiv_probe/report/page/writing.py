"""Reports to HTML: whatever comes from files is escaped, and only scripts that were written here may run.

Jinja escapes what the templates show. Should anything slip through, the page's content security policy names the hashes
of its scripts, so that the browser runs no other, and lets it fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.cells import has_number, interval_of, text_of, value_of
from equiv_probe.report.document import Verdict
from equiv_probe.report.formatting import shown
from equiv_probe.report.page import viewer
from equiv_probe.report.page.document_view import DocumentView, grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from equiv_probe.report.document import Documented

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def page(reports: Sequence[Documented], title: str = "") -> str:
    """One self-contained page of one or more reports.

    Args:
        reports: results of any kind to show, one after the other.
        title: of the page; the models' names by default.

    Returns:
        HTML. It fetches nothing, and runs two scripts: its own and, if ``chemiscope`` is installed and there are
        structures to show, chemiscope's.

    Raises:
        EquivProbeError: no report, or Matplotlib is not installed.
    """
    if not reports:
        raise EquivProbeError("no report", "at least one", "page([report])")
    views = [DocumentView(report.document().on("page"), f"r{place}") for place, report in enumerate(reports)]
    models = list(dict.fromkeys(one.document.name for one in views))
    return _written(
        "page.html.jinja",
        title=title or f"{', '.join(models)}: rotational symmetry",
        views=views,
        datasets={one.key: one.dataset for one in views if one.dataset},
    )


def fragment(report: Documented) -> str:
    """The headline, the loss and its share as HTML for a notebook's cell: no script, and styles that stay inside."""
    digest = hashlib.sha256(json.dumps(report.to_dict(), sort_keys=True, default=str).encode())
    key = f"equiv-probe-{digest.hexdigest()[:12]}"  # reports in one notebook must not share ids
    return _written("notebook.html.jinja", view=DocumentView(report.document().on("notebook"), key))


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
        "powers": powers,
        "cell": text_of,
        "value": value_of,
        "has_number": has_number,
        "interval": interval_of,
        "grouped": grouped,
        "is_verdict": lambda cell: isinstance(cell, Verdict),
    }
    return environment


def _visible(value: Any) -> Any:
    """Text from files as it can be shown safely; the templates' own markup as it is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _text(name: str) -> str:
    return resources.files("equiv_probe.report.page").joinpath(name).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def powers(text: str) -> str:
    """Exponents as powers of ten.

    >>> powers("broken: 3e4 times")
    'broken: 3 × 10⁴ times'
    >>> powers("changes by 9.9e-05")
    'changes by 9.9 × 10⁻⁵'
    """
    return re.sub(r"(?<=\d)e(-?)\+?0*(\d+)\b", lambda m: f" × 10{(m[1] + m[2]).translate(_SUPERSCRIPT)}", text)
