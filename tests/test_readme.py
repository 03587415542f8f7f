"""The README's Python examples run and print what they say they print."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 10


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_prints_what_its_comment_says(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them saves a report
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), {})
    said = re.findall(r"^(?:print\(.*\)  )?# (.+)$", block, flags=re.MULTILINE)[-1]
    # Figures at round-off differ from machine to machine; the words, and the figures that mean something, do not.
    words = re.sub(r"[\d.]+e-\d+", "<tiny>", said).split()
    assert re.sub(r"[\d.]+e-\d+", "<tiny>", printed.getvalue()).split() == words
