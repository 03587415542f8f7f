"""What a local worker of Dask does when it starts; imported there, and light."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001 - Dask's interface
    """Leave Ctrl-C to the process that started the worker, which ends it in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
