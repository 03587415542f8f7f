"""The logger speaks on stderr until somebody configures logging, and through their handlers from then on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from equiv_probe.messages import logger

if TYPE_CHECKING:
    import pytest


def test_nobody_configured_logging(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger.info("equiv_probe assumes something")
    logger.debug("and thinks aloud")
    assert tuple(capsys.readouterr()) == ("", "equiv_probe assumes something\n")


def test_somebody_did(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    logger.info("equiv_probe assumes something")  # pytest's handlers are on the root logger
    assert capsys.readouterr().err == ""
    assert [(one.name, one.levelname, one.message) for one in caplog.records] == [
        ("equiv_probe", "INFO", "equiv_probe assumes something")
    ]


def test_it_can_be_silenced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logger, "level", logging.ERROR)
    logger.manager._clear_cache()  # type: ignore[attr-defined] - as setLevel does
    logger.info("equiv_probe assumes something")
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    logger.manager._clear_cache()  # type: ignore[attr-defined]
