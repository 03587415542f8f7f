"""Callbacks for every Trainer, asked for by the environment variable ``EQUIV_PROBE``."""

from __future__ import annotations

from typing import Any


def lightning_callbacks() -> list[Any]:
    """Return the callbacks for ``lightning``."""
    return []


def pytorch_lightning_callbacks() -> list[Any]:
    """Return the callbacks for ``pytorch_lightning``."""
    return []
