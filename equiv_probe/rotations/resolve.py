"""A rotation plan from what a person writes: the plan itself, the name of its design, or its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.plan import RotationPlan

PlanLike = RotationPlan | str | Mapping[str, Any]
"""What is taken wherever a plan is."""


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
    try:
        return RotationPlan(given) if isinstance(given, str) else RotationPlan(**given)
    except TypeError as error:
        expected = '"tetrahedral", or {"design": "tetrahedral", "replicates": 4}'
        raise EquivProbeError(f"the plan {given!r} ({error})", expected, 'ep.RotationPlan("tetrahedral")') from error
