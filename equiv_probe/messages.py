"""What the package has to say while it works: the logger ``equiv_probe``.

As long as nobody has configured logging, its messages are written to stderr as they are: what was assumed must be seen.
Where there are handlers (``logging.basicConfig()``, Hydra, a notebook's own) they get them instead, and
``logging.getLogger("equiv_probe").setLevel(logging.ERROR)`` silences them. Results are printed, not logged.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("equiv_probe")


class _UntilConfigured(logging.Handler):
    """Writes to whatever stderr is now, unless the root logger has handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


logger.addHandler(_UntilConfigured())
if logger.level == logging.NOTSET:  # somebody may have chosen one before
    logger.setLevel(logging.INFO)
