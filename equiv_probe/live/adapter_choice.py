"""Which adapter a call needs: the plugins are asked, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from equiv_probe.live import plugins
from equiv_probe.live.adapters import CallAdapter, InputAdapter
from equiv_probe.live.structure_lists import StructureListAdapter, structure_list

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from equiv_probe.live.adapters import Adapter
    from equiv_probe.schema.schema import Schema


def adapter_for(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], schema: Schema | None = None
) -> Adapter:
    """The adapter of the plugin that knows a call's batch, or that of tensors in containers and lists of structures.

    With a schema, a single argument that is no mapping is named as :func:`equiv_probe.twirl` names it.
    """
    for read in _readers():
        adapter = read(module, args, kwargs)
        if adapter is not None:
            return adapter
    if structure_list(args, kwargs):
        return StructureListAdapter(module)
    if schema is not None and len(args) == 1 and not kwargs and not isinstance(args[0], Mapping):
        return InputAdapter(module, list(schema.inputs))
    return CallAdapter(module)


@cache
def _readers() -> list[Callable[[Any, tuple[Any, ...], dict[str, Any]], Adapter | None]]:
    return [plugin.adapter for plugin in plugins.installed()[0] if plugin.adapter is not None]
