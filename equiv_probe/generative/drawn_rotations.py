"""Which random draws of a sampler become rotations: 3×3 orthogonal matrices made from draws alone, seen as they are made.

Public codes make them in many ways (normalised quaternions, QR of Gaussian matrices, Euler angles, an angle about a
random axis), so they are recognised by what the draws become, not by how. Every tensor is followed by its storage: it
comes from the sampler's state (the noise, and all that was computed from it), from draws alone, or from neither. A 3×3
matrix from draws alone that is orthogonal is a rotation that was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from scipy import stats
from torch.multiprocessing.reductions import StorageWeakRef

from equiv_probe.estimation.spectrum import character
from equiv_probe.rotations.plan import angles, haar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

Way = Literal["same", "conjugate", "left", "right"]
WAYS: dict[Way, str] = {
    "same": "the same in every run",
    "conjugate": "rotating along as g R g⁻¹, as rotations of the state that are never undone do",
    "left": "rotating along as g R, as the orientations of rigid bodies do",
    "right": "rotating along as R g⁻¹, as frames that are undone do",
}
"""How a drawn rotation goes with a rotation g of all noise: each as likely as R, if R is Haar."""
NOT_AS_LIKELY = 1e-3
"""Drawn rotations with a p-value below this are not taken along: in another frame they are not as likely."""
_TOLERANCE = 1e-3
_COPIES = {"clone", "_to_copy", "repeat", "index", "index_select", "gather", "cat", "stack", "copy_", "constant_pad_nd"}
_BY_SHAPE_ALONE = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
_PRUNED = 20_000


@dataclass(frozen=True)
class Made:
    """One tensor of rotations that draws became.

    Attributes:
        matrices: ``(..., 3, 3)`` float64, as they were made.
        where: file and line of the sampler's code.
        draws: ordinals of the draws that they were made from.
        parents: earlier ones that they were made from.
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


@dataclass
class Following:
    """Follows all tensors of one run.

    Args:
        start: the initial noise.
        where: file and line of the sampler's code.
        on_made: what is called with the number of each :class:`Made` and its tensor, as it is made.

    Attributes:
        made: rotations that were drawn, in order.
    """

    start: Tensor
    where: Callable[[], str]
    on_made: Callable[[int, Tensor], None]
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

    def after(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
        """Follow an operator's answer."""
        name = func._schema.name.removeprefix("aten::")
        if name.endswith(_BY_SHAPE_ALONE):
            return
        known = [one for t in _tensors((args, kwargs)) if (one := self._known(t)) is not None]
        if not known:
            return
        state = any(one.state for one in known)
        draws = frozenset().union(*(one.draws for one in known if not one.state))
        made = frozenset().union(*(one.made for one in known if not one.state))
        if state:
            self._used |= made
        writes = func._schema.is_mutable
        for tensor in _tensors((answer,)):
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
            self._origins = {k: one for k, one in self._origins.items() if one.ref and not one.ref.expired()}
            self._prune_at = len(self._origins) + _PRUNED
        before = self._origins.get(key)
        writes = 0 if before is None else before.writes + 1
        ref = StorageWeakRef(tensor.untyped_storage()) if before is None else before.ref
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


def _are_orthogonal(tensor: Tensor) -> bool:
    """Whether all matrices are orthogonal, and not all the identity."""
    if tensor.numel() == 0:
        return False
    wide = tensor.detach().double() if tensor.device.type != "mps" else tensor.detach().cpu().double()
    eye = torch.eye(3, dtype=wide.dtype, device=wide.device)
    return bool(((wide @ wide.mT - eye).abs() < _TOLERANCE).all()) and bool(((wide - eye).abs() > _TOLERANCE).any())


def chance_of_law(matrices: Tensor, way: Way) -> float:
    """p-value of the hypothesis that rotations which go along in a way are as likely as before.

    For ``g R`` and ``R g⁻¹`` that is Haar; for ``g R g⁻¹`` an axis in all directions alike is enough, at any angle.

    Args:
        matrices: independent ones, ``(K, 3, 3)``; signs are dropped.
        way: how they go along.
    """
    proper = matrices * torch.linalg.det(matrices).sign()[:, None, None]
    return 1.0 if way == "same" else _isotropy(proper) if way == "conjugate" else _uniformity(proper)


def _uniformity(proper: Tensor) -> float:
    """The Sobolev statistic ``V_l = (2l+1)/K Σ_{k,k'} χ_l(g_k⁻¹ g_k')``, χ² with ``(2l+1)²`` degrees of freedom if Haar.

    Of degrees 1 and 2 the smaller p-value, times two: every recipe in use that is not Haar shows at one of them.
    Source: Giné, Ann. Statist. 3 (1975) 1243.
    """
    angle = angles(proper[:, None].mT @ proper[None])
    found = []
    for degree in (1, 2):
        value = (2 * degree + 1) / len(proper) * float(character(angle, degree).sum())
        found.append(float(stats.chi2.sf(value, (2 * degree + 1) ** 2)))
    return min(1.0, 2 * min(found))


def _isotropy(proper: Tensor, copies: int = 200) -> float:
    """Whether axes prefer no direction: the means of R and of R ⊗ R, beside those of ``h_k R_k h_k⁻¹`` with random h.

    Squared distances from the mean over random ``h``, which keep every angle; their upper tail by a gamma law of the
    same mean and variance.
    """
    generator = torch.Generator().manual_seed(0)
    means = [_powers(proper)]
    for _ in range(copies):
        h = haar(len(proper), generator)
        means.append(_powers(h @ proper @ h.mT))
    stacked = torch.stack(means)
    squares = (stacked - stacked[1:].mean(0)).square().sum(1)
    mean, variance = float(squares[1:].mean()), float(squares[1:].var())
    if variance <= 0:
        return 1.0
    return float(stats.gamma.sf(float(squares[0]), mean**2 / variance, scale=variance / mean))


def _powers(rotations: Tensor) -> Tensor:
    """Means of R and of R ⊗ R, ``(90,)``."""
    second = torch.einsum("kab,kcd->abcd", rotations, rotations) / len(rotations)
    return torch.cat([rotations.mean(0).flatten(), second.flatten()])
