"""The probe for SchNetPack: a callback for `spktrain`, a hook for `spkmd`, and a data transform.

>>> import equiv_probe_schnetpack
>>> equiv_probe_schnetpack.__all__
['EquivarianceCallback', 'EquivarianceHook', 'RandomRotation']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe_schnetpack.dynamics import EquivarianceHook
    from equiv_probe_schnetpack.random_rotation import RandomRotation

__all__ = ["EquivarianceCallback", "EquivarianceHook", "RandomRotation"]

# Imported when asked for: the command line loads this package to learn of the plugin, with or without SchNetPack.
_MODULES = {
    "EquivarianceCallback": "callback",
    "EquivarianceHook": "dynamics",
    "RandomRotation": "random_rotation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
