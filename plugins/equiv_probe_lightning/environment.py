"""Callbacks for every Trainer, asked for by the environment variable ``EQUIV_PROBE``.

Lightning imports this for every Trainer of everyone who has this package installed: it costs nothing if unset.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_made: list[str] = []
"""Kinds of callbacks that were made."""


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
    callback = import_module(f"equiv_probe_lightning.{kind}").EquivarianceCallback(
        **{"report": True, "on_error": "warn", **asked}
    )
    callback.from_environment = True
    _made.append(kind)
    return [callback]


def at_import_of_torch() -> None:
    """Where the variable is set, and in the end nobody has read it: say in one line who does.

    torch calls this when it is imported (as a "backend"), in every process of everyone who has this package installed.
    """
    text = os.environ.get("EQUIV_PROBE", "")
    if text.lower() in {"", "0", "false", "off", "no"} or os.environ.get("RANK", "0") != "0":
        return
    import atexit
    import multiprocessing

    if multiprocessing.parent_process() is None:
        atexit.unregister(_say_who_reads)  # once, however often torch finds this
        atexit.register(_say_who_reads)


def _was_read() -> bool:
    """Whether a Trainer, a dynamics, the command line or a probe of the user's own was at work."""
    if _made or "equiv_probe.cli.main" in sys.modules:
        return True
    of_ase = sys.modules.get("equiv_probe_ase.dynamics.environment")  # which is loaded with ASE, whatever that is for
    return "equiv_probe.probe.probe" in sys.modules if of_ase is None else bool(of_ase._monitors)


def _say_who_reads() -> None:
    if not _was_read():
        print(
            f"equiv_probe: EQUIV_PROBE={os.environ['EQUIV_PROBE']} is for Lightning's Trainer and ASE's dynamics, and "
            "nothing was measured. A loop of your own: equiv-probe run train.py; or in it, with ep.Probe(model) as "
            "probe: loss = probe.step(lambda: ...)",
            file=sys.stderr,
        )
