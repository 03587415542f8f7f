"""The Lightning callback under SchNetPack's roof, for its configuration files."""

from __future__ import annotations

from equiv_probe_lightning.callback_pytorch_lightning import EquivarianceCallback as LightningCallback


class EquivarianceCallback(LightningCallback):
    """Decompose exactly the loss that an ``AtomisticTask`` trains: each of its outputs, and their weighted sum.

    Losses, weights and constraints are read from the outputs of the task, so nothing has to be said::

        spktrain ... +callbacks.equivariance._target_=equiv_probe_schnetpack.EquivarianceCallback

    Arguments are those of :class:`equiv_probe_lightning.EquivarianceCallback`, and are given the same way:
    ``+callbacks.equivariance.every=20``.
    """
