"""The entry point: tells ``equiv-probe`` about this plugin without importing Lightning."""

from __future__ import annotations

from equiv_probe.live.plugins import Plugin

plugin = Plugin(name="lightning", framework="pytorch_lightning", packages=("pytorch-lightning", "lightning"))
