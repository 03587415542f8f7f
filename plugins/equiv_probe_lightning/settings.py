"""What a callback was told: of the network, of the probe, and of what is shown; also from a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import equiv_probe as ep
from equiv_probe.rotations.resolve import rotation_plan
from equiv_probe_lightning.step import STEPS

if TYPE_CHECKING:
    from equiv_probe_lightning.limits import Limits


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


@dataclass(frozen=True)
class Settings:
    """What a callback was told.

    Attributes:
        network: name of the submodule to measure, or None.
        schema: representations, or None.
        options: of :class:`equiv_probe.Probe`.
        stages: that are measured.
        augment: whether the network's training inputs are rotated.
        prog_bar: whether the progress bar shows the share.
        report: where to save it.
        figures: whether loggers get figures.
        verbose: whether to print.
        on_error: ``"raise"`` at the first step, or ``"warn"``.
        limits: of the share.

    Raises:
        EquivProbeError: settings that do not fit.
    """

    network: str | None
    schema: ep.Schema | None
    options: Mapping[str, Any]
    stages: tuple[str, ...]
    augment: bool
    prog_bar: bool
    report: str | bool | None
    figures: bool
    verbose: bool
    on_error: str
    limits: Limits

    def __post_init__(self) -> None:
        unknown = sorted(set(self.stages) - set(STEPS.values()))
        if unknown:
            raise ep.EquivProbeError(f"stages {unknown}", f"some of {list(STEPS.values())}", 'stages=("train", "val")')
        if self.on_error not in {"raise", "warn"}:
            raise ep.EquivProbeError(f"on_error={self.on_error!r}", '"raise" or "warn"', 'on_error="warn"')
        for kind in ("step", "gradients"):  # what is wrong is an error here
            ep.Probe(torch.nn.Identity(), **self.options).schedule(kind, "train")
