"""What is asked of an audit of a sampler, beside the sampler and its initial noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.outputs import END_POINTS
from equiv_probe.representations.representation import CartesianTensor, Representation
from equiv_probe.representations.spelling import representation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.generative.noise import Rotates

Frames = Literal["along", "fixed", "conjugate", "left", "right"]


@dataclass(frozen=True)
class Options:
    """Arguments of :func:`equiv_probe.audit_sampler`, as there; ``outputs`` by name."""

    outputs: Mapping[str, Representation]
    path: bool
    per_sample: bool
    rotates: Rotates | None
    frames: Frames
    law: bool | int | None
    foreign: Literal["refuse", "same"]
    unit: str | Mapping[str, str]
    grad: bool
    seed: int

    def __post_init__(self) -> None:
        """Refuse what no generator takes."""
        if self.seed < 0:
            raise EquivProbeError(f"seed={self.seed}", "a seed of 0 or more")

    def unit_of(self, name: str, rep: Representation) -> str:
        """Lengths have the unit that was given, anything else its own."""
        if not isinstance(self.unit, str):
            return self.unit.get(name, "")
        return self.unit if isinstance(rep, CartesianTensor) and rep.rank == 1 else "(own unit)"


def by_name(
    outputs: Representation | str | Mapping[str, Representation | str] | None,
) -> dict[str, Representation]:
    """Declared end points; a single representation is that of the only tensor."""
    given = {END_POINTS: outputs} if isinstance(outputs, (Representation, str)) else outputs or {}
    return {name: representation(rep) for name, rep in given.items()}
