"""Schemas, plans and cadences as configuration files write them: words, numbers, lists and dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equiv_probe as ep
from equiv_probe.rotations.resolve import rotation_plan


def schema(value: Any) -> ep.Schema | None:
    """A schema from ``{"inputs": {"pos": "point"}, "outputs": {...}}``, also with ``targets``, ``batch``, ``mask``.

    Raises:
        EquivProbeError: another key.
    """
    if value is None or isinstance(value, ep.Schema):
        return value
    known = {"inputs", "outputs", "targets", "batch", "mask"}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise ep.EquivProbeError(f"schema={value!r}", f"a mapping with some of {sorted(known)}", "ep.Schema(...)")
    inputs, outputs, targets = (value.get(key) or {} for key in ("inputs", "outputs", "targets"))
    return ep.Schema(inputs, outputs, targets, batch=value.get("batch"), mask=value.get("mask"))


def plan(value: Any) -> ep.RotationPlan | None:
    """A plan from the name of its design, or from a mapping of the plan's arguments.

    >>> print(plan({"design": "klein", "replicates": 2}))
    2 × klein = 8 rotations, degree 1, seed 0
    """
    found: ep.RotationPlan | None = rotation_plan(value)
    return found
