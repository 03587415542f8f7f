"""Results as files: JSON for machines, one page of HTML, or a figure."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import without_nan
from equiv_probe.scaling.figures import figure_of, panels
from equiv_probe.scaling.law import printed

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.scaling.figures import Result
    from equiv_probe.scaling.table import Table

FIGURES = (".png", ".svg", ".pdf")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'">
<title>{{ title }}</title>
<style>{{ style }} pre { overflow-x: auto; white-space: pre; } figure { margin: 0; max-width: 44rem; }</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% for name, drawings, text in sections %}
<section>
<h2>{{ name }}</h2>
{% for drawing in drawings %}<figure>{{ drawing }}</figure>{% endfor %}
<pre>{{ text }}</pre>
</section>
{% endfor %}
</main>
</body>
</html>
"""


def save(path: Path, results: dict[str, Result], runs: dict[str, Table], unit: str = "") -> None:
    """Write results.

    Args:
        path: ``.json``, ``.html``, or a figure, ``.png``, ``.svg`` or ``.pdf``; of several results each figure gets the
            result's name appended to its own.
        results: by name.
        runs: what was fitted, by the results' names.
        unit: of the loss.

    Raises:
        EquivProbeError: another suffix, or a path that cannot be written; for pages and figures, no Matplotlib.
    """
    if path.suffix not in {".json", ".html", *FIGURES}:
        raise EquivProbeError(f"-o {path}", f"a name that ends in .json, .html, {', '.join(FIGURES)}")
    try:
        _written(path, results, runs, unit)
    except OSError as error:
        raise EquivProbeError(f"-o {path}: {error.strerror or error}", "a file that can be written") from error


def _written(path: Path, results: dict[str, Result], runs: dict[str, Table], unit: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        plain = without_nan({name: result.to_dict() for name, result in results.items()})
        path.write_text(json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    elif path.suffix == ".html":
        path.write_text(page(results, runs, unit), encoding="utf-8")
    else:
        for name, result in results.items():
            file = path if len(results) == 1 else path.with_name(f"{path.stem}-{_plain(name)}{path.suffix}")
            figure_of(result, runs.get(name), unit).savefig(file, dpi=160)


def page(results: dict[str, Result], runs: dict[str, Table], unit: str = "") -> str:
    """One page without scripts and without the network; what comes from files is escaped."""
    from jinja2 import Environment

    from equiv_probe.report.page.figures import svg

    sections = []
    for place, (name, result) in enumerate(results.items()):
        drawings = [
            svg(part.draw, f"s{place}-{index}", part.text)
            for index, part in enumerate(panels(result, runs.get(name), unit))
        ]
        sections.append((name, drawings, printed(result)))
    style = Markup(resources.files("equiv_probe.report.page").joinpath("style.css").read_text(encoding="utf-8"))
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(title="Scaling", style=style, sections=sections)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
