"""The entry point: tells ``equiv-probe`` about this plugin without importing PyG."""

from __future__ import annotations

from equiv_probe.plugins import Plugin

plugin = Plugin(name="pyg", framework="torch_geometric", packages=("torch-geometric",))
