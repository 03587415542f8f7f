"""The probe for SchNetPack: a callback for `spktrain`, a hook for `spkmd`, and a data transform.

>>> import equiv_probe_schnetpack
>>> equiv_probe_schnetpack.__all__
['EquivarianceCallback', 'EquivarianceHook', 'RandomRotation']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.lazy_names import lazily

if TYPE_CHECKING:
    from equiv_probe_schnetpack.dynamics import EquivarianceHook
    from equiv_probe_schnetpack.random_rotation import RandomRotation

__all__ = ["EquivarianceCallback", "EquivarianceHook", "RandomRotation"]

# The command line and the probe load this package to learn of the plugin, with or without its framework.
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "callback": ("EquivarianceCallback",),
            "dynamics": ("EquivarianceHook",),
            "random_rotation": ("RandomRotation",),
        },
    )
