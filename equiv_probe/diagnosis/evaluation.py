"""Evaluating a model at many rotations, at some of which it may fail or give what is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError, in_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from equiv_probe.orbit.rotated_model import RotatedModel


@dataclass(frozen=True)
class Evaluated:
    """Outputs at rotated inputs.

    Attributes:
        rotations: at which there are outputs, ``(K, 3, 3)``.
        values: rotated back, ``(K, *S)`` by output.
        refused: why there are none at others.
        nonfinite: outputs that were not finite, and at how many rotations; these rotations are left out too.
    """

    rotations: Tensor
    values: dict[str, Tensor]
    refused: list[str]
    nonfinite: dict[str, int]


def under(context: Callable[[], AbstractContextManager[Any]], predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that is evaluated inside of a context, a new one for each call."""

    def run(inputs: Any) -> Any:
        with context():
            return predict(inputs)

    return run


def left_out(refused: Sequence[str]) -> list[str]:
    """That a model could not be evaluated at some rotations, if there are any, by the reasons of each."""
    count = f"the model could not be evaluated at {len(refused)} rotations, which were left out"
    return [f"{count}: {refused[0]}"] if refused else []


def evaluated(model: RotatedModel, wanted: Tensor, fewest: int) -> Evaluated:
    """Evaluate a model at rotations ``(K, 3, 3)``; one by one where it fails at all of them together.

    Raises:
        EquivProbeError: it could be evaluated at fewer than ``fewest``, or no output is finite.
    """
    refused: list[str] = []
    try:
        rotations, values = wanted, model.rotated_back(wanted)
    except (Exception, SystemExit):  # models raise anything; the reason comes again
        rotations, values = _one_by_one(model, wanted, refused)
    finite = {n: v.reshape(len(v), -1).isfinite().all(1).cpu() for n, v in values.items() if v.numel()}
    usable = [
        name
        for name, good in finite.items()
        if 2 * int(good.sum()) >= len(good) and bool(model.identity[name].isfinite().all())
    ]
    if not usable:
        raise EquivProbeError(f"outputs {list(values)} that are empty or not finite", "finite outputs")
    good = torch.stack([finite[name] for name in usable]).all(0)
    if int(good.sum()) < fewest:
        why = refused[0] if refused else f"outputs that are not finite at {int((~good).sum())}"
        raise EquivProbeError(
            f"a model that fails at rotated inputs ({why})",
            f"one that can be evaluated at {fewest} of {len(wanted)} rotations at least",
        )
    return Evaluated(
        rotations[good],
        {name: values[name][good.to(values[name].device)] for name in usable},
        refused,
        {name: int((~good).sum()) for name, good in finite.items() if not good.all()},
    )


def _one_by_one(model: RotatedModel, wanted: Tensor, refused: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    done, kept = [], []
    for rotation in wanted:
        try:
            done.append(model.rotated_back(rotation[None]))
            kept.append(rotation)
        except (Exception, SystemExit) as error:
            refused.append(in_one_line(error))
    if not done:
        raise EquivProbeError(f"a model that fails at all rotated inputs ({refused[0]})", "one that can be evaluated")
    return torch.stack(kept), {name: torch.cat([one[name] for one in done]) for name in done[0]}
