"""Progress is said once work takes long: by a bar in a terminal, by ever fewer lines in a log."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest  # noqa: TC002 - fixtures are typed by it

from equiv_probe import progress as module
from equiv_probe.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(count: int, **how: bool | int) -> None:
    with progress(count, "squares", **how) as advance:  # type: ignore[arg-type]
        for _ in range(count):
            advance(1)


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO, "equiv_probe")
    work(1000)
    assert not caplog.records
    assert capsys.readouterr().err == ""


def test_a_log_gets_lines_at_times_that_double(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of one second a piece: lines after more than 2, 6, 14 and 30 seconds, the last of which is beyond 20."""
    caplog.set_level(logging.INFO, "equiv_probe")
    seconds = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    work(20)
    left = {3: 17, 7: 13, 15: 5}
    assert caplog.messages == [f"squares: {done} of 20, {seconds} s left" for done, seconds in left.items()]


def test_a_log_of_a_long_run_gets_lines_at_least_every_ten_minutes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "equiv_probe")
    seconds = iter(range(0, 100_000, 100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with progress(30, "models", "structures", done=10) as advance:
        for _ in range(20):
            advance(1)
    done = [int(message.split()[1]) for message in caplog.messages]
    assert caplog.messages[0] == "models: 11 of 30 structures, 1900 s left"
    assert done == [11, 13, 17, 24]


def test_a_terminal_gets_a_bar_that_counts_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with progress(4, "squares", done=2) as advance:
        advance(1)
        time.sleep(0.5)
    assert "3/4" in terminal.getvalue()
    assert not caplog.records


def test_what_is_not_to_be_shown_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "equiv_probe")
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    work(5, shown=False)
    assert not caplog.records
    assert capsys.readouterr().err == ""
