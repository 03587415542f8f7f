"""What every result of a fit of losses says beside its numbers."""

from __future__ import annotations

from typing import Any

import msgspec

from equiv_probe.report.record import Record


class Estimated(Record, frozen=True, kw_only=True):
    """A result of a fit of losses.

    Attributes:
        notes: what a reader must know to use the numbers.
        level: of the intervals.
        protocol: how it was made.
        name: of what was fitted, such as the model.
        source: of the runs.
        unit: of the loss.
    """

    notes: list[str] = msgspec.field(default_factory=list)
    level: float = 0.95
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)
    name: str = ""
    source: str = ""
    unit: str = ""
