"""The activations of a network: each tensor once, however many calls it goes through, and where it is met first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from equiv_probe.diagnosis.layers.carried import SCALAR, Carried, declared

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from equiv_probe.diagnosis.layers.calls import Call, CallKey

Place = tuple["CallKey", Literal["in", "out"], str]
"""Where a tensor is met: going into or coming out of a call, by name."""


@dataclass
class Site:
    """One activation.

    Attributes:
        place: where it is met first in an evaluation.
        shape: of it.
        dtype: of it.
        claimed: representation that the module declares.
        carried: representation that it has.
        how: how that is known.
        mean: of the rotated-back activations.
        error: root mean square of what rotation makes of it under that representation.
        size: root mean square.
        floor: what rounding of the inputs makes of it.
        fit: part of its error that fitted orthogonal matrices explain, NaN where that was not asked.
        fit_is_enough: whether there were rows enough for that.
        changes: at how many rotations whole numbers are other ones.
        reordered: whether they come in another order at some rotations.
        lost: why it could not be measured at some rotations.
    """

    place: Place
    shape: torch.Size
    dtype: torch.dtype
    claimed: Carried | None = None
    carried: Carried = SCALAR
    how: Literal["declared", "inferred", "none"] = "inferred"
    mean: Tensor | None = None
    error: float = float("nan")
    size: float = float("nan")
    floor: float = 0.0
    fit: float = float("nan")
    fit_is_enough: bool = True
    changes: int = 0
    reordered: bool = False
    lost: str = ""

    @property
    def is_floating(self) -> bool:
        """Whether it has numbers that rotate."""
        return self.dtype.is_floating_point

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return 0 in self.shape


@dataclass
class CallRecord:
    """A call as it was first seen, with its activations.

    Attributes:
        key: which.
        kind: class of the module.
        depth: how many calls it is inside of.
        parent: that it is inside of, by its place in the order.
        inputs: activations that go in, by name.
        outputs: activations that come out, by name.
        finished: whether it came to its end.
    """

    key: CallKey
    kind: str
    depth: int
    parent: int | None
    module: nn.Module
    inputs: dict[str, Site] = field(default_factory=dict)
    outputs: dict[str, Site] = field(default_factory=dict)
    finished: bool = False


class Discovery:
    """A visitor that finds out which calls there are, in the order of the data flow, and which tensors are the same.

    Attributes:
        calls: in the order in which they begin.
        sites: in the order in which they are met.
    """

    def __init__(self) -> None:
        self.calls: list[CallRecord] = []
        self.sites: list[Site] = []
        self._known: dict[tuple[int, int], Site] = {}
        self._kept: list[Tensor] = []  # so that no other tensor gets the address of one that is gone
        self._open: list[int] = []

    def enter(self, call: Call) -> None:
        """See :class:`Visitor`."""
        del self._open[call.depth :]
        parent = self._open[-1] if self._open else None
        found = CallRecord(call.key, type(call.module).__name__, call.depth, parent, call.module)
        found.inputs = {name: self._site(call, "in", name, value) for name, value in call.inputs.items()}
        self._open.append(len(self.calls))
        self.calls.append(found)

    def leave(self, call: Call) -> None:
        """See :class:`Visitor`."""
        found = next(one for one in reversed(self.calls) if one.key == call.key)
        found.outputs = {name: self._site(call, "out", name, value) for name, value in call.outputs.items()}
        found.finished = True

    def close(self) -> None:
        """Let go of the tensors."""
        self._known, self._kept = {}, []

    def _site(self, call: Call, side: Literal["in", "out"], name: str, value: Tensor) -> Site:
        identity = (id(value), -1 if value.is_inference() else value._version)
        if identity not in self._known:
            claimed = declared(call.module, value.shape) if side == "out" else None
            self._known[identity] = Site((call.key, side, name), value.shape, value.dtype, claimed)
            self.sites.append(self._known[identity])
            self._kept.append(value)
        return self._known[identity]
