"""Progress: nothing of what is quick, lines in a log, a bar in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe_ase.auditing import progress
from equiv_probe_ase.auditing.progress import progress_over

if TYPE_CHECKING:
    import pytest


def run(*, shown: bool = True) -> None:
    with progress_over(10, "a model", done=4, shown=shown) as advance:
        for _ in range(3):
            advance(2)


def test_a_log_gets_lines_of_what_takes_long(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    assert not caplog.messages  # it was quick
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    run()
    assert caplog.messages == ["equiv_probe: a model: 6 of 10 structures, 0 s left"]  # the next twenty seconds later
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    run()
    assert [message.partition(" of ")[0][-2:] for message in caplog.messages[1:]] == [" 6", " 8", "10"]
    run(shown=False)
    assert len(caplog.messages) == 4


def test_a_terminal_gets_a_bar(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which Rich takes stderr for a terminal
    run()
    assert "10/10" not in capsys.readouterr().err  # it was quick
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress_over(10, "a model", done=4) as advance:
        advance(6)
    shown = capsys.readouterr()
    assert "10/10" in shown.err
    assert not shown.out
    assert not caplog.messages
