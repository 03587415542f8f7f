"""What a probe measured, as a report."""

from __future__ import annotations

import math
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.estimates import flattened
from equiv_probe.estimation.loss_verdict import verdict_of_loss
from equiv_probe.estimation.running import USER_DEFINED
from equiv_probe.estimation.verdict import verdict
from equiv_probe.results.measured import Labelled, Measured
from equiv_probe.results.quantity_tables import OWN_LOSS
from equiv_probe.results.report import Report
from equiv_probe.schema.grid_plans import exact_grids
from equiv_probe.schema.schema import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from equiv_probe.estimation.estimates import Sums
    from equiv_probe.estimation.running import Running
    from equiv_probe.probe.readings import Readings
    from equiv_probe.results.gradient_record import GradientRecord
    from equiv_probe.results.over_time import OverTime

BLIND = [
    "wrong but equivariant kernels",
    "a sign or unit that is wrong in every frame",
    "forces that are no gradient of the energy",
]
BETWEEN = (
    "what shows between right angles alone: grids were rotated by the cube's (or the box's) rotations, which move "
    "voxels onto voxels; ep.audit_grid takes all rotations, by interpolation"
)

VISIBLE = 1e-5
"""A share that reads like broken symmetry."""
_OF_ONE = (
    "{} was measured on one batch alone: its error bars are over rotations, not over batches. "
    "A longer run or a larger cost= measures more."
)


def report_of(
    probe: Readings,
    *,
    sums: Mapping[tuple[str, str], Sums] | None = None,
    over: Iterable[OverTime] | None = None,
    source: str = "a live run",
    protocol: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    notes: Iterable[str] = (),
    complete: bool = True,
    gradients: Mapping[str, GradientRecord] | None = None,
) -> Report:
    """Make the report of a probe.

    Args:
        probe: the probe.
        sums: by stage and output; None is its own, of training over the window, of other stages over everything.
        over: losses in bins; None is the probe's own, likewise.
        source: what it was measured on.
        protocol: more lines beside the numbers.
        history: earlier estimates.
        notes: what a reader must know.
        complete: False if the run was interrupted.
        gradients: by stage and output, as in the report; None is the probe's own, over the latest measurements.
    """
    if gradients is None:
        gradients = {} if probe.gradients is None else probe.gradients.shown()
    if sums is None:
        sums = {k: one.shown(one.window if k[0] == "train" else one.everything) for k, one in probe.running.items()}
    if over is None:
        over = [probe.over_time(*key) for key in sorted(probe.binned)]
    sums = {key: one.to("cpu") for key, one in sums.items()}
    alone = {key for key, one in sums.items() if key in probe.running and probe.running[key].of_one(one)}
    rows = [dict(entry) for entry in history]
    steps = {(entry.get("stage"), entry.get("output")): entry.get("step") for entry in rows}  # the last one counts
    measured = [
        _measured(key, one, 1 if key in alone else int(one.count), probe.running.get(key), steps.get(key))
        for key, one in sorted(sums.items())
        if not _is_nothing(key, sums)
    ]
    return Report(
        model=type(probe.live.network).__name__,
        source=source,
        protocol={**_protocol(probe), **(protocol or {})},
        measured=measured,
        failures=[{"name": "a step", "error": failure} for failure in probe.failures],
        notes=[
            *notes,
            *probe.notes,
            *(note for part in (probe.over, probe.gradients) if part for note in part.notes),
            *(_OF_ONE.format(shown("/".join(key))) for key in sorted(alone)),
            *(f"{m.title}: {m.sentence}." for m in measured if _looks_broken(m)),
        ],
        blind_spots=[*BLIND, *([BETWEEN] if probe.schema is not None and exact_grids(probe.schema) else [])],
        complete=complete,
        history=rows,
        over=list(over),
        gradients=dict(gradients),
        controls=probe.controls,
    )


def _protocol(probe: Readings) -> dict[str, Any]:
    return {
        "training": f"{probe.light}, the latest {probe.window} measurements",
        "evaluation": f"{probe.plan}",
        "rotations from seed": probe.seed,
        "seconds measuring": round(sum(schedule.seconds for schedule in probe.schedules.values()), 3),
        **probe.schedules.lines(),
        "equiv-probe": metadata.version("equiv-probe"),
        "torch": torch.__version__,
    }


def _is_nothing(key: tuple[str, str], sums: Mapping[tuple[str, str], Sums]) -> bool:
    """Whether a loss is zero beside others of its stage that are not: that of labels that there are none of."""
    return sums[key].total.value == 0 and any(stage == key[0] and one.total.value for (stage, _), one in sums.items())


def _looks_broken(m: Measured) -> bool:
    """Whether a row reads like a small breakage, and is none."""
    return m.verdict == "round-off" and m.labelled is not None and abs(m.labelled.share) > VISIBLE


def _measured(key: tuple[str, str], sums: Sums, structures: int, running: Running | None, step: int | None) -> Measured:
    loss = USER_DEFINED if running is None else running.loss
    floor = math.nan if running is None or running.floor is None else float(running.floor)
    equiv, total = sums.equiv, sums.total
    labelled = not math.isnan(total.value)
    found = None
    if labelled:
        found = Labelled(loss=loss, unit=OWN_LOSS, structures=structures, **flattened(sums.by_name, ("equiv", "share")))
        precision = 0.0 if running is None else running.precision
        judged = verdict_of_loss(equiv.value, equiv.stderr, total.value, floor, precision)
    else:
        floor = _root(floor)
        judged = verdict(_root(equiv.value), floor, math.nan, "")
    known = judged.kind != "unknown"
    return Measured(
        name="/".join(key),
        unit=OWN_LOSS if labelled else "the output's",
        structures=structures,
        rms=math.nan if labelled else _root(equiv.value),
        rms_interval=(math.nan, math.nan) if labelled else (_root(equiv.low), _root(equiv.high)),
        equiv=equiv.value,
        equiv_stderr=equiv.stderr,
        relative=math.nan,
        floor=floor,
        nondeterminism=math.nan,
        verdict=judged.kind if known else "",
        sentence=judged.sentence if known else "",
        labelled=found,
        step=step,
    )


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0)) if math.isfinite(value) else math.nan
