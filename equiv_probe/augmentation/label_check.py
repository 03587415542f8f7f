"""Whether the labels of a sample rotated with its positions; and if not, what happened to them instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equiv_probe.augmentation.findings import Finding
from equiv_probe.augmentation.sample_layout import Layout, representation
from equiv_probe.errors import EquivProbeError
from equiv_probe.representations import representation as reps
from equiv_probe.representations.voigt import USUAL_ORDERS
from equiv_probe.schema.hidden_coordinates import Evidence
from equiv_probe.schema.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from equiv_probe.augmentation.alignment import Alignment
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.column_relations import Hidden

_CHANGES = "changes, but not as the positions do"
EPS = float(torch.finfo(torch.float32).eps)
"""Rounding that is granted even to float64: rotation matrices are often made in float32."""


@dataclass(frozen=True)
class Draw:
    """One draw: the sample afterwards by name, and how each structure moved.

    ``angle_error`` is to how many radians the rotations are known, given rounding and deviations; ``determined`` says
    of each structure whether its points tell the rotation.
    """

    values: Mapping[str, Tensor]
    motions: tuple[Alignment, ...]
    angle_error: float
    determined: tuple[bool, ...]

    @property
    def rotations(self) -> Tensor:
        """Of each structure, ``(U, 3, 3)``."""
        return torch.stack([motion.rotation for motion in self.motions])

    @property
    def shifts(self) -> Tensor:
        """Of each structure, ``(U, 3)``."""
        return torch.stack([motion.shift for motion in self.motions])


def check_labels(
    before: Mapping[str, Tensor], draws: list[Draw], layout: Layout, schema: Schema | None
) -> Iterator[Finding]:
    """Compare every entry other than the positions with ``ρ(g)`` of what it was, in several draws.

    Names decide where the schema does not say what rotates how.

    Yields:
        A finding for each entry that rotates, or that changed; one for all that stayed as they should.
    """
    kept: list[str] = []
    named = {name: representation(name, value, schema) for name, value in before.items()}
    known = {layout.name: reps.point, **{n: rep for n, rep in named.items() if rep is not None and n != layout.name}}
    evidence = Evidence(before, known)
    for name, value in before.items():
        if name == layout.name:
            continue
        after = [draw.values.get(name) for draw in draws]
        present = [one for one in after if one is not None]
        if len(present) < len(after):
            yield Finding(f"labels: {name}", None, "is not there any more afterwards")
            continue
        if any(one.shape != value.shape for one in present):
            shapes = f"{tuple(value.shape)} to {tuple(present[0].shape)}"
            yield Finding(f"labels: {name}", False, f"changes its shape, from {shapes}")
            continue
        rep = representation(name, value, schema)
        try:
            hidden = evidence.of(name, value) if rep is None and value.is_floating_point() else None
            if hidden is not None and hidden.representation is None:
                finding: Finding | None = _recomputed(name, hidden, draws, known)
            else:
                rep = hidden.representation if hidden is not None else rep
                finding = _Entry(name, value, present, draws, layout, rep).finding()
        except EquivProbeError as error:  # it belongs to neither atoms, edges nor structures
            finding = Finding(f"labels: {name}", None, f"cannot be judged: {error}")
        if finding is None:
            kept.append(name)
        else:
            yield finding
    if kept:
        yield Finding("what does not rotate", True, f"as it was: {', '.join(kept)}")


def _recomputed(name: str, hidden: Hidden, draws: list[Draw], known: Mapping[str, Representation]) -> Finding:
    """Whether what is made of the coordinates, other than by rotating it, is made anew of the rotated ones."""
    again = [Evidence(draw.values, known).of(name, draw.values[name]) for draw in draws]
    if all(one is not None and one.what == hidden.what and _same(one.rotation, hidden.rotation) for one in again):
        return Finding(f"labels: {name}", True, f"is made anew: {hidden}")
    return Finding(f"labels: {name}", False, f"is stale: {hidden}, and were not made anew after the rotation")


def _same(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return len(first) == len(second) and all(abs(a - b) < 1e-2 for a, b in zip(first, second, strict=True))


@dataclass(frozen=True)
class _Entry:
    name: str
    before: Tensor
    after: list[Tensor]
    draws: list[Draw]
    layout: Layout
    rep: Representation | None

    def finding(self) -> Finding | None:
        """None for what does not rotate and stayed as it was."""
        label = f"labels: {self.name}"
        if isinstance(self.rep, reps.Fixed) or not self.before.is_floating_point() or not self.before.numel():
            same = all(torch.equal(self.before, one) for one in self.after)
            return None if same else Finding(label, False, "changes, though it does not rotate")
        if not bool(torch.isfinite(self.before).all()):
            return Finding(label, None, "holds values that are not finite")
        unchanged = self._error(lambda _: self._before, exact=True)
        if self.rep is None:
            return self._unknown(label, unchanged)
        if not self.rep.event_shape:
            return None if unchanged <= 1 else Finding(label, False, f"changes, though it is ep.{self.rep}", unchanged)
        return self._known(label, self.rep, unchanged)

    def _known(self, label: str, rep: Representation, unchanged: float) -> Finding:
        if max(draw.angle_error for draw in self.draws) > 0.1:
            return Finding(label, None, "cannot be judged: the positions' own motion is not rigid enough")
        rotated = self._error(lambda draw: self._rotated(rep, draw))
        if rotated <= 1:
            if unchanged <= 1:
                why = "a rotation does not change it in this sample: nothing can be said about it"
                return Finding(label, None, why)
            return Finding(label, True, f"rotates with the positions, as ep.{rep}", rotated)
        if unchanged <= 1:
            return Finding(label, False, "is stale: the positions were rotated and it was not", rotated)
        return Finding(label, False, self._otherwise(rep), rotated)

    def _unknown(self, label: str, unchanged: float) -> Finding | None:
        line = f'schema=ep.Schema(inputs={{...}}, outputs={{"{self.name}": ep.vector}})'
        if unchanged <= 1:
            if self.before.shape[-1:] != (3,):
                return None
            return Finding(
                label, None, f"stays as it was; if it has Cartesian components it is stale: declare it, {line}"
            )
        for other in _candidates(self.before):
            if self._explained(lambda draw, other=other: self._rotated(other, draw)):  # type: ignore[misc]
                return Finding(label, True, f"rotates with the positions, as ep.{other} (found out, not declared)")
            fault = self._otherwise(other)
            if fault != _CHANGES:
                return Finding(label, False, f"{fault}, if it is ep.{other} (found out, not declared)")
        return Finding(label, None, f"changes from draw to draw, and not with the positions; if it should: {line}")

    def _otherwise(self, rep: Representation) -> str:
        if self._explained(lambda draw: self._rotated(rep, draw, inverse=True)):
            return "is rotated by the inverse of the positions' rotation: R where it should be Rᵀ"
        for other in _candidates(self.before):
            if self._explained(lambda draw, other=other: self._rotated(other, draw)):  # type: ignore[misc]
                return f"rotates as ep.{other} and not as ep.{rep}; if that is right, declare it"
        if rep == reps.vector and self.before.shape[-2:] == (3, 3) and self._explained(self._columns):
            return "is rotated by its columns, where its vectors are rows: R @ cell where it should be cell @ Rᵀ"
        if rep == reps.vector and self._error(lambda _: self._before.norm(dim=-1), lambda one: one.norm(dim=-1)) <= 1:
            return "keeps its lengths but is rotated by something else than the positions"
        return _CHANGES

    def _explained(self, candidate: Callable[[Draw], Tensor]) -> bool:
        try:
            return self._error(candidate) <= 1
        except EquivProbeError:
            return False

    @property
    def _before(self) -> Tensor:
        return self.before.detach().cpu().double()

    def _error(
        self,
        expected: Callable[[Draw], Tensor],
        of: Callable[[Tensor], Tensor] = lambda one: one,
        *,
        exact: bool = False,
    ) -> float:
        """Largest difference over the draws, in units of rounding; ``exact`` where no rotation comes in."""
        worst, eps = 0.0, 16 * max(EPS, float(torch.finfo(self.before.dtype).eps))
        for draw, after in zip(self.draws, self.after, strict=True):
            difference = (of(after.detach().cpu().double()) - expected(draw)).abs()
            rounding = eps if exact else eps + 4 * draw.angle_error
            tolerance = rounding * max(float(self.before.abs().max()), float(after.abs().max()), 1e-300)
            if not all(draw.determined) and difference.ndim and self.layout.structures.layout != "one":
                known = torch.tensor(draw.determined)
                difference = difference[self.layout.structures.spread(known, self._before, self.name)]
            worst = max(worst, float(difference.max()) / tolerance if difference.numel() else 0.0)
        return worst

    def _rotated(self, rep: Representation, draw: Draw, *, inverse: bool = False) -> Tensor:
        g = draw.rotations.mT if inverse else draw.rotations
        value, structures = self._before, self.layout.structures
        if not rep.event_shape:
            return value
        rotated = structures.rotate({self.name: value}, Schema({self.name: rep}, {}), g[None])[self.name][0]
        if rep.is_affine:
            own = draw.shifts
            shift = own[0] if structures.layout == "one" else structures.spread(own, value, self.name)
            atoms = rotated.ndim - len(rep.event_shape)
            rotated = rep.translate(rotated, shift[:, None] if shift.ndim == 2 and atoms == 2 else shift)
        return rotated

    def _columns(self, draw: Draw) -> Tensor:
        flipped = _Entry(self.name, self._before.mT, self.after, self.draws, self.layout, self.rep)
        return flipped._rotated(reps.vector, draw).mT


def _candidates(value: Tensor) -> list[Representation]:
    shape = tuple(value.shape)
    found: list[Representation] = []
    if shape[-1:] == (3,):
        found += [reps.vector, reps.point, reps.axial]
    if shape[-2:] == (3, 3):
        found += [reps.tensor(2)]
    if shape[-1:] == (6,):
        found += [reps.voigt(order, shears) for shears in (1.0, 2.0) for order in USUAL_ORDERS]
    return found
