"""What a report says of an audit besides its structures' numbers; journals hold it, so that parts can be merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from equiv_probe.estimation.controls import Control
from equiv_probe.report.stored_data import converted, plain
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.options import Options
    from equiv_probe_ase.auditing.subject import Findings


class Unit(msgspec.Struct, frozen=True):
    """The unit that a quantity is reported in, and the factor to it from ASE's."""

    unit: str
    factor: float


class About(msgspec.Struct, frozen=True, kw_only=True):
    """An audit without its results.

    Attributes:
        model: that was audited, as it is called.
        source: on which structures.
        structures: how many there are in all.
        part: which of them are measured here, such as ``"3/16"``; empty for all.
        share: how many these are.
        chosen: how the plan was chosen, if it was not given.
        design, replicates, improper, seed, orientation: of the rotation plan.
        center, loss, rel_err, max_rotations, offsets: as of :func:`equiv_probe_ase.audit`.
        is_moved: whether moved copies were evaluated.
        units: of the quantities that were measured.
        precision: that the model works in.
        evaluator: how it was evaluated.
        versions: of the packages behind it.
        controls: of the way it was evaluated.
        notes: on the structures, their labels and the calculator.
    """

    model: str
    source: str
    structures: int
    part: str = ""
    share: int
    chosen: str = ""
    design: str
    replicates: int
    improper: bool
    seed: int
    orientation: tuple[float, float, float, float] | None = None
    center: str
    loss: str
    rel_err: float | None = None
    max_rotations: int
    offsets: dict[str, float] | None = None
    is_moved: bool
    units: dict[str, Unit]
    precision: str
    evaluator: str
    versions: str
    controls: list[Control] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    @classmethod
    def of(cls, findings: Findings, options: Options, **stated: Any) -> About:
        """From what is known of the calculator and what was asked; ``stated`` are the structures, and notes."""
        plan = options.plan
        return cls(
            model=findings.label,
            design=plan.design,
            replicates=plan.R,
            improper=plan.improper,
            seed=plan.seed,
            orientation=plan.orientation,
            center=str(options.center),
            loss=options.loss,
            rel_err=options.rel_err,
            max_rotations=options.max_rotations,
            offsets=None if options.offsets is None else dict(options.offsets),
            is_moved=options.is_moved,
            units={name: Unit(quantity.unit, quantity.factor) for name, quantity in findings.quantities.items()},
            precision=str(findings.precision).removeprefix("torch."),
            evaluator=findings.evaluator,
            versions=findings.versions,
            controls=list(findings.controls),
            **stated,
        )

    @classmethod
    def stored(cls, entry: Mapping[str, Any]) -> About:
        """From the first line of a journal.

        Raises:
            EquivProbeError: something in it is missing or of another kind.
        """
        return converted(dict(entry), cls)

    def to_store(self) -> dict[str, Any]:
        """For the first line of a journal."""
        found: dict[str, Any] = plain(self)
        return found

    @property
    def rotation_plan(self) -> RotationPlan:
        """The plan of every structure."""
        return RotationPlan(self.design, self.replicates, self.improper, self.seed, orientation=self.orientation)

    def protocol(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """How structures were rotated and evaluated, for the report."""
        more = f", more until ± {100 * self.rel_err:g} %" if self.rel_err else ""
        return {
            "plan": str(self.rotation_plan) + more,
            **({"choice of the plan": self.chosen} if self.chosen else {}),
            "rotations": sum(entry["rotations"] for entry in records),
            "distinct orientations": sum(entry.get("orientations", entry["rotations"]) for entry in records),
            "center": self.center,
            **({"part": self.part} if self.part else {}),
            "precision": self.precision,
            "evaluator": self.evaluator,
        }
