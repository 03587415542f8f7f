"""Which random draws of a sampler become rotations: orthogonal 3×3 matrices from draws alone, seen as they are made.

Public codes make them in many ways (normalised quaternions, QR of Gaussian matrices, Euler angles, an angle about a
random axis), so they are recognised by what the draws become, not by how. Every tensor is followed by its storage: it
comes from the sampler's state (the noise, and all that was computed from it), from draws alone, or from neither. A 3×3
matrix from draws alone that is orthogonal is a rotation that was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.multiprocessing.reductions import StorageWeakRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

Way = Literal["same", "conjugate", "left", "right"]
WAYS: dict[Way, str] = {
    "same": "the same in every run",
    "conjugate": "rotating along as g R g⁻¹, as rotations of the state that are never undone do",
    "left": "rotating along as g R, as the orientations of rigid bodies do, and frames of rows that are undone",
    "right": "rotating along as R g⁻¹, as frames that are undone do",
}
"""How a drawn rotation goes with a rotation g of all noise: each as likely as R, if R is Haar."""
_TOLERANCE = 1e-3
_COPIES = {"clone", "_to_copy", "repeat", "index", "index_select", "gather", "cat", "stack", "copy_", "constant_pad_nd"}
_BY_SHAPE_ALONE = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
_TAKEN_OVER = {"_to_copy", "lift_fresh", "clone"}
FOREIGN = -1
"""In the place of a draw's ordinal, for numbers of NumPy's or Python's."""
_PRUNED = 20_000


@dataclass(frozen=True)
class Made:
    """One tensor of rotations that draws became, ``(..., 3, 3)`` float64, at a line of the sampler's code.

    ``draws`` are the ordinals of the draws that it was made from, ``parents`` earlier rotations likewise.
    """

    matrices: Tensor
    where: str
    draws: frozenset[int]
    parents: frozenset[int]


@dataclass(eq=False)
class _Origin:
    """Where a storage's numbers come from."""

    ref: StorageWeakRef | None
    state: bool = False
    draws: frozenset[int] = frozenset()
    made: frozenset[int] = frozenset()
    writes: int = 0
    examined: int = -1

    @property
    def is_alive(self) -> bool:
        """Whether the storage is still in use."""
        return self.ref is not None and not self.ref.expired()  # type: ignore[no-untyped-call]


@dataclass
class Following:
    """Follows all tensors of one run, and gathers the rotations that were ``made``, in order.

    ``where`` gives the line of the sampler's code, ``on_made`` is called with each rotation's number and tensor, and
    ``foreign`` says whether NumPy or Python have drawn in this run, so that what comes from elsewhere may be theirs.
    """

    start: Tensor
    where: Callable[[], str]
    on_made: Callable[[int, Tensor], None]
    foreign: Callable[[], bool] = lambda: False
    made: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._origins: dict[int, _Origin] = {}
        self._used: set[int] = set()
        self._superseded: set[int] = set()
        self._prune_at = _PRUNED
        self._origin(self.start, state=True)

    def drew(self, call: str, drawn: Tensor, ordinal: int, given: dict[str, Any]) -> None:
        """Note a draw; numbers drawn about the state, such as dropped-out ones, belong to the state."""
        only_shape = call.endswith(("_", "_like", "_functional"))
        inputs = [] if only_shape else [self._known(t) for t in _tensors(given)]
        state = any(one is not None and one.state for one in inputs)
        self._origin(drawn, state=state, draws=frozenset([ordinal]))

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what an operator is given: matrices that were filled in place are complete when they are used."""
        for tensor in _tensors((args, kwargs)):
            if tensor.shape[-2:] == (3, 3) and (origin := self._known(tensor)) is not None:
                self._examine(tensor, origin)

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Follow an operator's output, and give it back (a copy of it where it lies in NumPy's memory)."""
        name = func._schema.name.removeprefix("aten::")
        if name.endswith(_BY_SHAPE_ALONE):
            return output
        known = [one for t in _tensors((args, kwargs)) if (one := self._known(t)) is not None]
        if not known:
            return self._from_elsewhere(name, output)
        state = any(one.state for one in known)
        draws = frozenset().union(*(one.draws for one in known if not one.state))
        made = frozenset().union(*(one.made for one in known if not one.state))
        if state:
            self._used |= made
        writes = func._schema.is_mutable
        for tensor in _tensors((output,)):
            own = self._known(tensor)
            if own is not None and not writes and any(own is one for one in known):
                continue  # a view
            origin = self._origin(tensor, state=state, draws=draws, made=made)
            if state or not draws:
                continue
            if name in _COPIES and tensor.shape[-2:] == (3, 3) and all(one.examined == one.writes for one in known):
                origin.examined = origin.writes
            elif tensor.shape[-2:] == (3, 3):
                self._examine(tensor, origin)
        return output

    def _from_elsewhere(self, name: str, output: Any) -> Any:
        """Look at what was taken over from NumPy's numbers in this run, once these may be random."""
        if name in _TAKEN_OVER and output.shape[-2:] == (3, 3) and self.foreign():
            output = output.clone() if name == "lift_fresh" else output
            self._examine(output, self._origin(output, draws=frozenset([FOREIGN])))
        return output

    def forget(self) -> None:
        """Let go of all tensors; what was made stays."""
        self._origins.clear()
        del self.start

    def targets(self) -> set[int]:
        """Which rotations a sampler uses: not those that only went into others, nor those made from one of these."""
        found: set[int] = set()
        inherited: set[int] = set()
        for place, one in enumerate(self.made):
            if one.parents & (found | inherited):
                inherited.add(place)
            elif place in self._used or place not in self._superseded:
                found.add(place)
        return found

    def _examine(self, tensor: Tensor, origin: _Origin) -> None:
        fresh = origin.draws and not origin.state and origin.examined != origin.writes
        if not fresh or not tensor.is_floating_point() or not _are_orthogonal(tensor):
            return
        place = len(self.made)
        self.made.append(Made(tensor.detach().cpu().double().clone(), self.where(), origin.draws, origin.made))
        self._superseded |= origin.made
        origin.made, origin.examined = frozenset([place]), origin.writes
        self.on_made(place, tensor)

    def _known(self, tensor: Tensor) -> _Origin | None:
        key = _key(tensor)
        return None if key is None else self._origins.get(key)

    def _origin(
        self,
        tensor: Tensor,
        *,
        state: bool = False,
        draws: frozenset[int] = frozenset(),
        made: frozenset[int] = frozenset(),
    ) -> _Origin:
        key = _key(tensor)
        if key is None:
            return _Origin(None, state=True)  # no storage that could be followed
        if len(self._origins) > self._prune_at:
            self._origins = {k: one for k, one in self._origins.items() if one.is_alive}
            self._prune_at = len(self._origins) + _PRUNED
        before = self._origins.get(key)
        writes = 0 if before is None else before.writes + 1
        ref = before.ref if before is not None else _reference(tensor)
        self._origins[key] = _Origin(ref, state, draws, made, writes)
        return self._origins[key]


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list, dict)):
            yield from _tensors(value)


def _key(tensor: Tensor) -> int | None:
    """Names a storage; the weak reference that is kept beside it lets no other storage have the same."""
    try:
        found: int = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None
    return found


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _are_orthogonal(tensor: Tensor) -> bool:
    """Whether all matrices are orthogonal, and not all the identity."""
    if tensor.numel() == 0:
        return False
    wide = tensor.detach().double() if tensor.device.type != "mps" else tensor.detach().cpu().double()
    eye = torch.eye(3, dtype=wide.dtype, device=wide.device)
    return bool(((wide @ wide.mT - eye).abs() < _TOLERANCE).all()) and bool(((wide - eye).abs() > _TOLERANCE).any())
