"""What the numbers of an audit depend on, besides the model and the structures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.losses import resolve
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from equiv_probe.rotations.plan import RotationPlan


@dataclass(frozen=True)
class Options:
    """The options of an audit, as of :func:`equiv_probe_ase.audit`; ``extra`` are representations of further inputs."""

    plan: RotationPlan
    center: str | Sequence[float]
    extra: Mapping[str, Any]
    loss: str
    rel_err: float | None
    max_rotations: int
    asked: Sequence[str] | None
    offsets: Mapping[str, float] | None = None
    few: bool = False
    """Whether so few structures are measured that their floors do not average out."""

    @property
    def is_moved(self) -> bool:
        """Whether moving a structure must change nothing: not if a centre was named, or a field is among the inputs."""
        return isinstance(self.center, str) and self.center in {"centroid", "cell"} and not self.extra

    def check(self, first: Atoms) -> None:
        """Refuse what could not be measured, before anything is.

        Raises:
            EquivProbeError: a plan without error bars, an impossible centre or limit, or a loss on classes.
        """
        plan, rel_err = self.plan, self.rel_err
        if not plan.is_rotated or plan.R < 2:
            raise EquivProbeError(
                str(plan), "at least two randomly rotated replicates", "RotationPlan(..., replicates=4)"
            )
        if rel_err is not None and not rel_err > 0:
            raise EquivProbeError(f"rel_err={rel_err}", "a positive fraction", "rel_err=0.1")
        if rel_err is not None and self.max_rotations < plan.size:
            raise EquivProbeError(f"max_rotations={self.max_rotations}", f"at least the plan's {plan.size}")
        if getattr(resolve(self.loss), "name", "") == "cross-entropy":
            raise EquivProbeError(
                "loss='cross-entropy'", "a loss on numbers: force fields do not predict classes", "loss='mse'"
            )
        if self.center != "cell":  # which is a matter of each structure
            Rotator(first, self.center).pivot()  # an impossible centre is the caller's mistake, not a structure's

    def question(self) -> dict[str, Any]:
        """What a journal must agree on before it is resumed."""
        return {
            "plan": str(self.plan),
            "center": str(self.center),
            "inputs": {name: str(rep) for name, rep in self.extra.items()},
            "loss": self.loss,
            "rel_err": self.rel_err,
            "max_rotations": self.max_rotations if self.rel_err else None,
            "asked": list(self.asked) if self.asked is not None else None,
        }
