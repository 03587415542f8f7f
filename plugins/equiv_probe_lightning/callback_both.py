"""The callback for both of Lightning's packages, where both are installed and it is not known which will be used."""

from __future__ import annotations

from lightning.pytorch import Callback as OfLightning
from pytorch_lightning import Callback as OfPytorchLightning

from equiv_probe_lightning.callback import Measuring


class EquivarianceCallback(Measuring, OfPytorchLightning, OfLightning):  # type: ignore[misc]
    """The callback for both of Lightning's packages; see :class:`equiv_probe_lightning.callback.Measuring`."""
