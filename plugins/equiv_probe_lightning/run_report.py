"""The report of a run, of what all ranks measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from msgspec import structs

from equiv_probe.estimation.estimates import Sums
from equiv_probe.probe.probe_report import report_of
from equiv_probe.results.over_time import OverTime
from equiv_probe_lightning import ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import equiv_probe as ep
    from equiv_probe.results.gradient_record import GradientRecord
    from equiv_probe.results.report import Report


def report(
    probe: ep.Probe,
    trainer: Any,
    merged: dict[ranks.Key, dict[str, Any]] | None,
    notes: list[str],
    *,
    run: str,
    histories: tuple[list[dict[str, Any]], list[tuple[int, dict[str, float]]]],
) -> Report:
    """The report of a run.

    Args:
        probe: which measured.
        trainer: which ran it.
        merged: sums over ranks; None is this rank's own.
        notes: what a reader must know.
        run: its name.
        histories: the estimates after each measurement, and the gradients, by name.
    """
    history, gradients = histories
    sums = over = None
    if merged is not None:
        over = [one for _, one in sorted(in_bins(probe, merged, "report").items())]
        sums = {
            key: ranks.window(state) if key[0] == "train" else Sums(**state["everything"])
            for key, state in merged.items()
        }
        sums = of_one(probe, sums)
    steps = trainer.global_step
    return report_of(
        probe,
        sums=sums,
        over=over,
        source=f"a run of {steps} steps, epoch {trainer.current_epoch}",
        protocol={"steps": steps, "ranks": ranks.world(), "run": run},
        history=history,
        notes=[*notes, *_outdated(probe, history, steps)],
        complete=not notes,
        gradients=_gradients(probe, gradients),
    )


def in_bins(probe: ep.Probe, merged: Mapping[ranks.Key, Mapping[str, Any]], which: str) -> dict[ranks.Key, OverTime]:
    """What was measured in bins, over ranks: of ``"everything"``, or what the ``"report"`` shows of each stage."""
    found = {}
    for key, state in merged.items():
        if probe.over is not None and state.get("binned") and bool(state["binned"]["everything"].any()):
            recent = which == "report" and key[0] == "train"
            rows = torch.stack(state["binned"]["recent"]).sum(0) if recent else state["binned"]["everything"]
            known = {"labelled": state["labelled"], "loss": state["loss"]}
            found[key] = OverTime.of(probe.over.name, probe.over.edges.tolist(), key, rows, **known)
    return found


def of_one(probe: ep.Probe, sums: dict[ranks.Key, Sums]) -> dict[ranks.Key, Sums]:
    """Of a single measurement its replicates, from which its error bar comes."""
    if ranks.world() > 1:
        return sums
    return {key: probe.running[key].shown(one) if key in probe.running else one for key, one in sums.items()}


def _gradients(probe: ep.Probe, rows: list[tuple[int, dict[str, float]]]) -> dict[str, GradientRecord]:
    """The gradients of this rank for a report, and what was logged of all of them."""
    if probe.gradients is None:
        return {}
    found = {}
    for key, entry in probe.gradients.shown().items():
        start = key.removeprefix("train/") + "/"
        history = [
            {"step": step, **{n.removeprefix(start): v for n, v in values.items() if n.startswith(start)}}
            for step, values in rows
        ]
        found[key] = structs.replace(entry, history=history)
    return found


def _outdated(probe: ep.Probe, history: list[dict[str, Any]], now: int) -> list[str]:
    """A line for each evaluation whose numbers are of an earlier epoch than its last, or that has none."""
    last = {entry["stage"]: entry["step"] for entry in history if entry["stage"] in probe.running.stale}
    why = "there was no room in the time for it (cost); cost=None measures every epoch."
    return [
        *(
            f"{stage} is as it was at step {step} of {now}: later epochs were not measured, since {why}"
            for stage, step in last.items()
            if step < now
        ),
        *(
            f"{stage} was not measured: {why}"
            for (kind, stage), one in probe.schedules.items()
            if kind == "step" and stage != "train" and one.step and not one.measured and one.every is not None
        ),
    ]
