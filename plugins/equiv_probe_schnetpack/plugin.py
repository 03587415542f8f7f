"""The entry point: tells the instrument about this plugin without importing SchNetPack."""

from __future__ import annotations

from equiv_probe.live.plugins import Plugin
from equiv_probe_schnetpack.batches import adapter
from equiv_probe_schnetpack.training import training

plugin = Plugin(name="schnetpack", framework="schnetpack", packages=("schnetpack",), adapter=adapter, training=training)
