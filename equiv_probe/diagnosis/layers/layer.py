"""Parts of a trace: tensors that come out of calls, the calls, and the outputs of the model."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from equiv_probe.report.formatting import percent
from equiv_probe.report.record import Part


class Activation(Part, frozen=True):
    """One tensor that comes out of a call.

    Attributes:
        name: in the output.
        shape: of it.
        representation: that it has, in words; where there is none, the nearest.
        how: ``declared`` by the module, ``inferred`` from its orbit, ``none`` that explains it, ``discrete`` for whole
            numbers, or ``unknown``.
        error: root mean square of what rotation makes of it under that representation.
        size: root mean square.
        floor: what rounding of the inputs makes of it.
        broken: whether rounding does not explain the error.
        fit: where no representation explains it, the part of the error that fitted orthogonal matrices explain, at
            rotations that the fit did not see.
        note: what a reader must know.
    """

    name: str
    shape: list[int]
    representation: str
    how: Literal["declared", "inferred", "none", "discrete", "unknown"]
    error: float = math.nan
    size: float = math.nan
    floor: float = math.nan
    broken: bool = False
    fit: float = math.nan
    note: str = ""

    @property
    def nearest(self) -> str:
        """How it rotates, in words; of what is broken, how it nearly does."""
        if self.how != "none":
            nearly = ", broken" if self.broken and self.how != "discrete" else ""
            return f"{self.representation or 'not measured'}{nearly}"
        fit = f" (fitted: {100 * max(0.0, self.fit):.0f} %)" if math.isfinite(self.fit) else ""
        return f"no linear representation{fit}"

    @property
    def label(self) -> str:
        """How it rotates, and how large its error is if it is broken."""
        is_near = self.broken and self.how in {"declared", "inferred"}
        return f"{self.nearest} ({percent(self.relative)})" if is_near else self.nearest

    @property
    def relative(self) -> float:
        """The error beside the size."""
        return self.error / self.size if self.size > 0 else (0.0 if self.error == 0 else math.nan)


class Layer(Part, frozen=True):
    """A call of a submodule.

    Attributes:
        path: of the module in the model, empty for the model itself.
        count: how many times it had been called before.
        kind: class of the module.
        depth: how many calls it is inside of.
        parent: place of the call that it is inside of, −1 for none.
        outputs: what comes out and did not go in.
        broken_before: whether something that goes in is broken already.
        removed: part of the squared error of the output that goes with the group average in the place of what comes out
            of the call; NaN where it was not asked.
        adds: part that the call adds.
        notes: what a reader must know.
    """

    path: str
    count: int
    kind: str
    depth: int
    parent: int
    outputs: list[Activation]
    broken_before: bool = False
    removed: float = math.nan
    adds: float = math.nan
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether something that comes out is broken."""
        return any(one.broken for one in self.outputs)

    @property
    def relative(self) -> float:
        """The largest error beside its size; NaN where nothing that rotates comes out."""
        return max((one.relative for one in self.outputs if math.isfinite(one.relative)), default=math.nan)

    @property
    def label(self) -> str:
        """The module's path, and which call it is where it is called again."""
        return (self.path or "the model") + (f", call {self.count + 1}" if self.count else "")


class TracedOutput(Part, frozen=True):
    """An output of the model.

    Attributes:
        name: of it.
        unit: of the numbers, empty where not known.
        error: equivariance error.
        size: root mean square.
        floor: what rounding leaves.
        broken: whether rounding does not explain the error.
    """

    name: str
    unit: str
    error: float
    size: float
    floor: float
    broken: bool

    @property
    def relative(self) -> float:
        """The error beside the size."""
        return self.error / self.size if self.size > 0 else 0.0
