"""The entry point: tells ``equiv-probe`` about this plugin, and the probe about PyG's calls, without importing PyG."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from equiv_probe.live.plugins import Plugin

if TYPE_CHECKING:
    from torch import nn

    from equiv_probe.live.adapters import Adapter


def _adapter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter | None:
    if "torch_geometric.data" not in sys.modules:
        return None  # then no argument can be a graph
    from equiv_probe_pyg.adapter import GraphAdapter, reads

    return GraphAdapter(module) if reads(module, args, kwargs) else None


plugin = Plugin(name="pyg", framework="torch_geometric", packages=("torch-geometric",), adapter=_adapter)
