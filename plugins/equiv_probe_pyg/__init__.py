"""The probe for PyG models, and a transform that rotates graphs as a whole.

``ep.Probe``, ``ep.augment`` and ``ep.Twirled`` read PyG's calls by themselves; :func:`attach` adds the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.lazy_names import lazily

if TYPE_CHECKING:
    from equiv_probe_pyg.attachment import attach
    from equiv_probe_pyg.random_rotation import RandomRotation

__all__ = ["RandomRotation", "attach"]

# The command line and the probe load this package to learn of the plugin, with or without its framework.
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "attachment": ("attach",),
            "random_rotation": ("RandomRotation",),
        },
    )
