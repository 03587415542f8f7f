"""A rotation plan from what a person writes: the plan itself, the name of its design, or its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, overload

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.plan import RotationPlan

AUTO: Final = "auto"


@dataclass(frozen=True)
class AutoPlan:
    """A plan that is still to be chosen: the cheapest design that leaves little enough of the equivariance error.

    Args:
        replicates: of the plan to be chosen; what they leave together counts.
        improper: average over O(3).
        seed: of the plan, and of the rotations that the choice is made with.
        target: what the average may be off by: a fraction of what one rotation is off by, or numbers in the units of
            the outputs that are named, ``{"forces": 1e-3}``.

    Raises:
        EquivProbeError: a target that is not positive.
    """

    replicates: int = 1
    improper: bool = False
    seed: int = 0
    target: float | Mapping[str, float] = 0.05

    def __post_init__(self) -> None:
        targets = self.target.values() if isinstance(self.target, Mapping) else [self.target]
        if not targets or not all(value > 0 for value in targets):
            raise EquivProbeError(f"target={self.target!r}", "a positive fraction, or numbers by output", "target=0.05")

    @property
    def wanted(self) -> str:
        """The target in words."""
        if isinstance(self.target, Mapping):
            return ", ".join(f"{name} within {value:g}" for name, value in self.target.items())
        return f"at most {100 * self.target:g} %"

    def allowed(self, output: str, orbit: float) -> float:
        """What the average of an output may be off by, in its units, where one rotation is off by ``orbit``."""
        return self.target.get(output, float("inf")) if isinstance(self.target, Mapping) else self.target * orbit

    def plan(self, design: str) -> RotationPlan:
        """The plan, of the design that was chosen."""
        return RotationPlan(design, self.replicates, self.improper, self.seed)


PlanLike = RotationPlan | AutoPlan | str | Mapping[str, Any]
"""What is taken wherever a plan is."""


def auto_plan(given: PlanLike | None, **usual: Any) -> AutoPlan | None:
    """What ``"auto"`` or ``{"design": "auto", …}`` asks for, with the caller's own defaults; None for other plans."""
    if isinstance(given, AutoPlan):
        return given
    if given == AUTO:
        return AutoPlan(**usual)
    if not isinstance(given, Mapping) or given.get("design") != AUTO:
        return None
    said = {name: value for name, value in given.items() if name != "design" and value is not None}
    try:
        return AutoPlan(**{**usual, **said})
    except TypeError as error:
        raise EquivProbeError(f"the plan {given!r} ({error})", '{"design": "auto", "target": 0.05}') from error


@overload
def rotation_plan(given: PlanLike) -> RotationPlan: ...
@overload
def rotation_plan(given: None) -> None: ...
@overload
def rotation_plan(given: PlanLike | None) -> RotationPlan | None: ...
def rotation_plan(given: PlanLike | None) -> RotationPlan | None:
    """The plan that was given, or that a string or a mapping describes.

    Args:
        given: a plan, the name of a design such as ``"icosahedral"``, or the plan's arguments,
            ``{"design": "klein", "replicates": 2}``; None is passed on, for whoever has a default.

    Raises:
        EquivProbeError: another name, or other arguments.

    >>> print(rotation_plan("icosahedral"))
    4 × icosahedral = 240 rotations, degree 5, seed 0
    """
    if given is None or isinstance(given, RotationPlan):
        return given
    if isinstance(given, AutoPlan) or auto_plan(given) is not None:
        found = f"plan={given!r} where nothing is measured before the rotations are drawn"
        raise EquivProbeError(found, "the name of a design", 'plan="auto" of audit or TwirledCalculator')
    try:
        return RotationPlan(given) if isinstance(given, str) else RotationPlan(**given)
    except TypeError as error:
        expected = '"tetrahedral", or {"design": "tetrahedral", "replicates": 4}'
        raise EquivProbeError(f"the plan {given!r} ({error})", expected, 'ep.RotationPlan("tetrahedral")') from error
