"""Which rotations a twirled calculator averages over, as an argument and as a word on the command line."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.orientation import HIGHEST
from equiv_probe.rotations.designs import GROUP_ORDERS
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import AUTO, AutoPlan, PlanLike, auto_plan, rotation_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode: TypeAlias = Literal["average", "random-frame"]
RANDOM_FRAME: Final = "random-frame"
ORIENTED: Final = "oriented"


def asked_of(
    mode: str, plan: PlanLike | None, target: float | Mapping[str, float] | None, seed: int | None
) -> AutoPlan | None:
    """What ``plan="auto"`` asks for, one replicate by default; None for a plan that is given.

    Raises:
        EquivProbeError: it is asked for a random frame, or a target without it.
    """
    asked = auto_plan(plan)
    if asked is None and target is not None:
        raise EquivProbeError(f"target={target!r} for plan={plan!r}", "no target, or a plan to choose", 'plan="auto"')
    if asked is not None and mode == RANDOM_FRAME:
        raise EquivProbeError(f"plan={plan!r} for one random frame", "no plan", f'mode="{RANDOM_FRAME}", plan=None')
    given: dict[str, Any] = {"target": target, "seed": seed}
    return asked and replace(asked, **{name: value for name, value in given.items() if value is not None})


def is_oriented(orient: bool | None, asked: AutoPlan | None, plan: RotationPlan, mode: str) -> bool:
    """Whether a plan is to be laid into the model's frame: by default one that is chosen.

    Raises:
        EquivProbeError: it is asked of a plan that has no orientation, has one, or is of too high a degree.
    """
    if not orient or asked:
        return bool(asked) if orient is None else orient
    if mode == RANDOM_FRAME or not plan.is_rotated or plan.orientation or not 0 < plan.degree < HIGHEST:
        raise EquivProbeError(
            f"orient=True for {plan}",
            f"a design of a degree from 1 to {HIGHEST - 1} that is rotated at random and has no orientation yet",
            'TwirledCalculator(calculator, "octahedral", orient=True)',
        )
    return True


def plan_of(mode: str, plan: PlanLike | None, *, redraw: bool = False, seed: int | None = None) -> RotationPlan:
    """The plan of a mode: one icosahedral replicate by default, one Haar rotation for a random frame.

    Raises:
        EquivProbeError: an unknown mode, a plan or a seed that is none, a plan for a random frame, or one that cannot
            be rotated anew.
    """
    if plan == RANDOM_FRAME:
        raise EquivProbeError(f"plan={plan!r}", "a RotationPlan, or the name of a design", f'mode="{RANDOM_FRAME}"')
    plan = rotation_plan(plan)
    if seed is not None and not isinstance(seed, Integral):
        raise EquivProbeError(f"seed={seed!r}", "a whole number")
    if mode not in {"average", RANDOM_FRAME}:
        raise EquivProbeError(f"mode={mode!r}", f'"average" or "{RANDOM_FRAME}"')
    if mode == RANDOM_FRAME:
        if plan is not None:
            raise EquivProbeError(f"{plan} for one random frame", "no plan", f'mode="{RANDOM_FRAME}", plan=None')
        plan = RotationPlan("haar", replicates=1)
    plan = plan or RotationPlan("icosahedral", replicates=1)
    if redraw and not plan.is_random:
        raise EquivProbeError(f"redraw=True for {plan}", "a plan that is rotated at random", "redraw=False")
    return plan if seed is None else replace(plan, seed=int(seed))


def parse_twirl(text: str) -> dict[str, Any]:
    """Arguments of a twirled calculator from ``random-frame``, ``auto`` or ``<design>[:<replicates>][:oriented]``.

    Raises:
        EquivProbeError: an unknown design, or replicates that are no number.

    >>> parse_twirl("tetrahedral:2")["plan"].size, parse_twirl("octahedral:oriented")["orient"]
    (24, True)
    >>> parse_twirl("random-frame")
    {'mode': 'random-frame'}
    """
    if text == RANDOM_FRAME:
        return {"mode": RANDOM_FRAME}
    if text == AUTO:
        return {"plan": AutoPlan()}
    design, *further = text.split(":")
    oriented = further[-1:] == [ORIENTED]
    replicates = ":".join(further[:-1] if oriented else further) or "1"
    try:
        if not replicates.isdecimal():
            raise EquivProbeError(f"{replicates!r} replicates", "a whole number")
        return {"plan": RotationPlan(design, int(replicates)), "orient": oriented}
    except EquivProbeError as error:
        raise EquivProbeError(
            f"rotations {text!r} ({error.found})",
            f"{RANDOM_FRAME}, {AUTO}, or <design>[:<replicates>][:{ORIENTED}]: {', '.join(GROUP_ORDERS)}, "
            "design-<degree>, lebedev-<degree>, product-<directions>x<angles>, haar or cube",
            f"--twirl icosahedral, --twirl tetrahedral:4, or --twirl octahedral:{ORIENTED}",
        ) from error
