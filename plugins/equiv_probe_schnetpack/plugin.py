"""The entry point: tells ``equiv-probe`` about this plugin without importing SchNetPack."""

from __future__ import annotations

from equiv_probe.plugins import Plugin

plugin = Plugin(name="schnetpack", framework="schnetpack", packages=("schnetpack",))
