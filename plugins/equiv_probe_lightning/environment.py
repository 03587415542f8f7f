"""Callbacks for every Trainer, asked for by the environment variable ``EQUIV_PROBE``.

Lightning imports this for every Trainer of everyone who has this package installed: it costs nothing if unset.
"""

from __future__ import annotations

import os
from typing import Any


def lightning_callbacks() -> list[Any]:
    """Return the callbacks for ``lightning``."""
    return _callbacks("callback_lightning")


def pytorch_lightning_callbacks() -> list[Any]:
    """Return the callbacks for ``pytorch_lightning``."""
    return _callbacks("callback_pytorch_lightning")


def _callbacks(kind: str) -> list[Any]:
    text = os.environ.get("EQUIV_PROBE", "")
    if text in {"", "0"}:
        return []
    import inspect
    from importlib import import_module

    from equiv_probe.probe import settings
    from equiv_probe_lightning.callback import Measuring

    known = list(inspect.signature(Measuring.__init__).parameters)[1:]
    asked = settings.parse(text, known)
    if asked is None:
        return []
    callback = import_module(f"equiv_probe_lightning.{kind}").EquivarianceCallback(**{"report": True, **asked})
    callback.from_environment = True
    return [callback]
