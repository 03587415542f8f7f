"""The callback for ``pytorch_lightning``."""

from __future__ import annotations

from pytorch_lightning import Callback

from equiv_probe_lightning.callback import Measuring


class EquivarianceCallback(Measuring, Callback):
    """The callback for ``pytorch_lightning``; see :class:`equiv_probe_lightning.callback.Measuring`."""
