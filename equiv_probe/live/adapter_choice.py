"""Which adapter a call needs: the plugins are asked, one after another."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from equiv_probe.live import plugins
from equiv_probe.live.adapters import CallAdapter
from equiv_probe.live.structure_lists import StructureListAdapter, structure_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from equiv_probe.live.adapters import Adapter


def adapter_for(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Adapter:
    """The adapter of the plugin that knows a call's batch, or that of tensors in containers and lists of structures."""
    for read in _readers():
        adapter = read(module, args, kwargs)
        if adapter is not None:
            return adapter
    return StructureListAdapter(module) if structure_list(args, kwargs) else CallAdapter(module)


@cache
def _readers() -> list[Callable[[Any, tuple[Any, ...], dict[str, Any]], Adapter | None]]:
    return [plugin.adapter for plugin in plugins.installed()[0] if plugin.adapter is not None]
