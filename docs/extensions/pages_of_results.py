"""Results that are stored as JSON in ``stored/``: each becomes a page of its own, which ``{result} name`` links to."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import equiv_probe as ep

if TYPE_CHECKING:
    from sphinx.application import Sphinx

STORED = Path(__file__).parents[1] / "stored"


class Result(SphinxDirective):
    """The headline of a stored result, as a link to its page; the content says what was measured."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Read the result.

        Raises:
            FileNotFoundError: it is not stored.
        """
        name = self.arguments[0]
        path = STORED / f"{name}.json"
        self.env.note_dependency(str(path))
        document = ep.load(path).document()
        top = document.headline
        up = "../" * self.env.docname.count("/")
        said = f"<p>{escape(top.answer)}</p>" if top is not None else ""
        about = nodes.container()
        about += self.parse_content_to_nodes()
        start = nodes.raw(
            "",
            f'<div class="result"><a class="title" href="{up}pages/{name}.html">{escape(document.name)}</a> '
            f"<span>on {escape(document.source)}</span>{said}",
            format="html",
        )
        return [start, about, nodes.raw("", "</div>", format="html")]


def write(app: Sphinx) -> None:
    """Write the pages."""
    folder = Path(app.srcdir) / "generated" / "extra" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(STORED.glob("*.json")):
        page = folder / f"{path.stem}.html"
        if not page.exists() or page.stat().st_mtime < path.stat().st_mtime:
            ep.load(path).save(page)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register ``{result}``."""
    app.add_directive("result", Result)
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
