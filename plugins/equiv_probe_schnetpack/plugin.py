"""The entry point: tells the instrument about this plugin without importing SchNetPack, or torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from equiv_probe.live.plugins import Plugin

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.estimation.objectives import Training
    from equiv_probe.live.adapters import Adapter


def _adapter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter | None:
    if "schnetpack" not in sys.modules:
        return None  # then no argument can be one of its batches
    from equiv_probe_schnetpack.batches import adapter

    return adapter(module, args, kwargs)


def _training(module: nn.Module) -> Training | None:
    if "schnetpack.task" not in sys.modules:
        return None
    from equiv_probe_schnetpack.training import training

    return training(module)


plugin = Plugin(
    name="schnetpack", framework="schnetpack", packages=("schnetpack",), adapter=_adapter, training=_training
)
