"""From a journal to a report: what the records of structures say together, wherever they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.estimation.controls import MEMORY
from equiv_probe.results.report import Report
from equiv_probe.results.structure_table import StructureTable
from equiv_probe_ase.auditing.controls import controls_of
from equiv_probe_ase.auditing.energy_zero import relative_to_one_zero
from equiv_probe_ase.auditing.gradient_check import torque_notes
from equiv_probe_ase.auditing.notes import notes_on, notes_on_rounding
from equiv_probe_ase.auditing.summary import blind_spots, collected, summarise, unmeasured
from equiv_probe_ase.auditing.worst_structures import worst_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from equiv_probe_ase.auditing.about import About

    Record = dict[str, Any]


def report_of(
    about: About,
    keys: Sequence[str],
    record_of: Callable[[str], Record],
    gradients: Mapping[str, Mapping[str, Any]],
    *,
    complete: bool,
    ran: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Report:
    """The report of structures; each record is read, summed up and let go of.

    Args:
        about: what they were measured with.
        keys: of the structures, in their order.
        record_of: a structure's record.
        gradients: checks whether forces are the energy's gradient.
        complete: whether none is missing.
        ran: what it took, for the protocol.
        notes: that are read first.
    """
    failures: list[dict[str, str]] = []

    def measured_ones() -> Iterator[Record]:
        for key in keys:
            record = record_of(key)
            if "error" in record:
                failures.append({"name": record["name"], "error": record["error"]})
            else:
                yield record

    kept, totals = collected(measured_ones())
    controls = [*about.controls, *controls_of(kept, about.units, moved=about.is_moved)]
    on_torque = torque_notes(kept, gradients) if complete else []
    kept, on_the_zero = relative_to_one_zero(kept, about.loss, about.offsets)
    measured = summarise(kept, totals, about.units, about.loss)
    if any(one.failed and one.name == MEMORY for one in controls):
        measured = [unmeasured(one, "the calculator remembers") for one in measured]
    doubts = [note for one in totals.values() for note in one.notes]
    return Report(
        model=about.model,
        source=about.source,
        protocol={**about.protocol(kept), **ran, "versions": about.versions},
        measured=measured,
        structures=StructureTable.of(_with_details(kept, record_of)),
        failures=failures,
        notes=[
            *notes,
            *on_the_zero,
            *notes_on(about, kept, failures, doubts),
            *notes_on_rounding(about, measured, kept),
            *on_torque,
            *about.notes,
        ],
        blind_spots=blind_spots(about.rotation_plan),
        complete=complete,
        controls=controls,
    )


def _with_details(kept: list[Record], record_of: Callable[[str], Record]) -> list[Record]:
    """Records of which the worst have their geometry and their errors by atom back, for a reader to look at."""
    worst = worst_of(kept)
    return [_whole(entry, record_of(entry["key"])) if entry["key"] in worst else entry for entry in kept]


def _whole(kept: Record, stored: Record) -> Record:
    quantities = {name: {**stored["quantities"][name], **values} for name, values in kept["quantities"].items()}
    return {**stored, "quantities": quantities}
