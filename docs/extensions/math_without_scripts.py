"""Formulas as MathML, which browsers draw themselves: no script, nothing from a network.

Indices and fractions stand where they belong only in a font that is made for it: the site brings one.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import latex2mathml, unichar2tex

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _markup(latex: str, *, block: bool) -> str:
    made = str(latex2mathml.tex2mathml(latex.translate(unichar2tex.uni2tex_table), as_block=block))
    for fence in "‖⟨⟩":  # which would grow with what stands around them
        made = made.replace(f"<mo>{fence}", f'<mo stretchy="false">{fence}')
    return made


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_markup(node.astext(), block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{_markup(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def _font(app: Sphinx, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        font = files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
        (Path(app.outdir) / "_static" / "math.ttf").write_bytes(font.read_bytes())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("build-finished", _font)
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
