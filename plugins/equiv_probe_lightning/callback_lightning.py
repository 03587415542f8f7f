"""The callback for ``lightning``."""

from __future__ import annotations

from lightning.pytorch import Callback

from equiv_probe_lightning.callback import Measuring


class EquivarianceCallback(Measuring, Callback):
    """The callback for ``lightning``; see :class:`equiv_probe_lightning.callback.Measuring`."""
