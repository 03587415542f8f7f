"""The probe for PyG models, and a transform that rotates graphs as a whole.

``ep.Probe``, ``ep.augment`` and ``ep.Twirled`` read PyG's calls by themselves; :func:`attach` adds the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equiv_probe_pyg.attachment import attach
    from equiv_probe_pyg.random_rotation import RandomRotation

__all__ = ["RandomRotation", "attach"]


def __getattr__(name: str) -> Any:
    # Not imported up front: the probe loads this package to learn of its adapter, with or without PyG.
    if name == "attach":
        from equiv_probe_pyg.attachment import attach

        return attach
    if name == "RandomRotation":
        from equiv_probe_pyg.random_rotation import RandomRotation

        return RandomRotation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
