"""Whether an augmentation of voxel grids rotates as it should: by which rotation each draw moved the voxels.

Rotations that take voxels to voxels are recognised exactly. Of rotations that interpolate the vectors

    d_i = Σ_p w_i(|p|) f(p) p,        p about the middle of the box, w_i zero outside of the ball that it holds,

rotate as the field does, ``d_i ↦ g d_i``, to what interpolation leaves of them: g is found from four of them by
orthogonal Procrustes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import stats

from equiv_probe.augmentation.draws import fetched
from equiv_probe.augmentation.findings import NEW, SAME, AugmentationCheck, Finding, uniform, without_improper
from equiv_probe.augmentation.sample_layout import read
from equiv_probe.augmentation.uniformity import recipe
from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid, grid
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from equiv_probe.augmentation.draws import Source
    from equiv_probe.schema.schema import Schema

CLOSE = 0.25
"""Part of the moments that a rotation may leave unexplained: of noise between voxels a tenth is usual."""
_RADII = (0.35, 0.55, 0.8)


def grids_of(values: Mapping[str, Tensor], schema: Schema | None) -> dict[str, Grid]:
    """The grids of a sample: those that the schema declares; without a schema, all of one box of four voxels or more.

    Args:
        values: of the sample, by name.
        schema: as far as there is one.
    """
    if schema is not None:
        declared = {**schema.inputs, **schema.outputs, **schema.targets}
        return {name: rep for name, rep in declared.items() if isinstance(rep, Grid) and name in values}
    fields = {name: value for name, value in values.items() if value.ndim >= 3 and min(value.shape[-3:]) >= 4}
    if len({value.shape[-3:] for value in fields.values()}) != 1:
        return {}
    return {name: grid(channel_axis=value.ndim > 3) for name, value in fields.items()}


@dataclass(frozen=True)
class _Motion:
    """How one draw moved a grid: the rotation ``(3, 3)``, whether to the last voxel, and what it leaves unexplained."""

    rotation: Tensor
    exact: bool
    misfit: float


def check_grids(
    source: Source, grids: Mapping[str, Grid], *, draws: int, alpha: float, improper: bool, shown: bool
) -> AugmentationCheck:
    """The findings about an augmentation of grids.

    Args:
        source: to draw from.
        grids: of the sample; the first shows the rotation, the others must rotate along.
        draws: how many.
        alpha: level of the tests, all together.
        improper: whether reflections are wanted.
        shown: whether to show a progress bar.

    Raises:
        EquivProbeError: the grid is symmetric, or is not there after a draw.
    """
    first = next(iter(grids))
    _require_generic(first, source.before[first], grids[first])
    after = [read(values) for values in fetched(source, draws, shown=shown)]
    for values in after:
        if first not in values or values[first].shape[-3:] != source.before[first].shape[-3:]:
            raise EquivProbeError(
                f"the grid {first!r}, gone or of another shape after a draw", "the same voxels, rotated", "draw by draw"
            )
    reference = _Reference(source.before[first], grids[first])
    found = [reference.motion(values[first]) for values in after]
    rotations = torch.stack([one.rotation for one in found])
    box = grids[first], tuple(source.before[first].shape[-3:])
    findings = list(_rotations(found, rotations, source, box, alpha=alpha / 2, improper=improper))
    for name in list(grids)[1:]:
        if all(name in values for values in after):
            labels = [values[name] for values in after]
            findings.append(_label(name, source.before[name], labels, grids[name], found))
    return AugmentationCheck(tuple(findings), rotations)


def _single(value: Tensor, rep: Grid) -> Tensor:
    """One structure's grid with an axis of channels, ``(C, D, H, W)`` float64; of a batch the first."""
    value = torch.as_tensor(value).detach().cpu().double()
    value = value.as_subclass(torch.Tensor)
    if not rep.channel_axis:
        value = value.unsqueeze(-4)
    return value.reshape(-1, *value.shape[-4:])[0]


def _lengths(value: Tensor, rep: Grid) -> Tensor:
    """What of a grid only moves: scalars, and the lengths of vectors, ``(C', D, H, W)``."""
    parts, start = [], 0
    for count, field in rep.fields:
        size = math.prod(field.event_shape)
        part = value[start : start + count * size].reshape(count, size, *value.shape[-3:])
        parts.append(part[:, 0] if size == 1 else part.norm(dim=1))
        start += count * size
    return torch.cat(parts) if parts else value


def _cube(rep: Grid, shape: tuple[int, ...]) -> Tensor:
    """The rotations, proper and improper, that keep the box."""
    both = RotationPlan("cube", improper=True).rotations()[0]
    plain = grid(axes=rep.axes, spacing=rep.spacing)
    kept = []
    for g in both:
        try:
            if plain.rotate(torch.zeros(1, *shape), g).shape[-3:] == shape:
                kept.append(g)
        except EquivProbeError:  # axes of different spacing
            continue
    return torch.stack(kept)


def _require_generic(name: str, value: Tensor, rep: Grid) -> None:
    field = _lengths(_single(value, rep), rep)
    plain = grid(axes=rep.axes, spacing=rep.spacing)
    alike = [torch.equal(plain.rotate(field, g), field) for g in _cube(rep, tuple(field.shape[-3:]))]
    if sum(alike) > 1:
        raise EquivProbeError(
            f"the grid {name!r}, which {sum(alike) - 1} rotations or reflections of its box leave as it is",
            "a grid without symmetry, whose rotation can be told",
            "another sample, such as sample=dataset[1]",
        )


class _Reference:
    """A grid before any draw, with what is needed to tell how it moved.

    Args:
        before: the grid.
        rep: what it is.
    """

    def __init__(self, before: Tensor, rep: Grid) -> None:
        self.rep, self.plain = rep, grid(axes=rep.axes, spacing=rep.spacing)
        self.field = _lengths(_single(before, rep), rep)
        self.vectors, self.group = _vectors(self.field, rep), _cube(rep, tuple(self.field.shape[-3:]))

    def motion(self, after: Tensor) -> _Motion:
        """The rotation that took the field to another: one of the box if that is exact, or the nearest to the moments.

        It is improper only where that explains the moments far better.
        """
        new = _lengths(_single(after, self.rep), self.rep)
        x, y = self.vectors, _vectors(new, self.rep)
        likely = (torch.einsum("gij,nj->gni", self.group, x) - y).flatten(1).norm(dim=1).argsort()[:2]
        for g in self.group[likely]:
            if float((self.plain.rotate(self.field, g) - new).abs().max()) <= 1e-5 * float(self.field.abs().max()):
                return _Motion(g, True, 0.0)
        u, _, vh = torch.linalg.svd(y.mT @ x)
        sign = float(torch.linalg.det(u @ vh).sign())
        tries = [u @ torch.diag(torch.tensor([1.0, 1.0, last]).double()) @ vh for last in (sign, -sign)]
        misfits = [float((y - x @ g.mT).norm() / y.norm().clamp_min(1e-300)) for g in tries]
        best = 1 if misfits[1] < 0.5 * misfits[0] else 0  # the vectors of one channel lie nearly in a plane
        return _Motion(tries[best], False, misfits[best])


def _vectors(field: Tensor, rep: Grid) -> Tensor:
    """The vectors of the module's docstring, of each channel, and ``Q d`` of their second moments, ``(4 C, 3)``."""
    shape = field.shape[-3:]
    p = rep.coordinates(shape)
    r = p.norm(dim=-1) / min(rep.half_lengths(shape))
    found = []
    for radius in _RADII:
        weight = torch.where(r < 1, torch.exp(-((r / radius) ** 2)) * (1 - r**2), 0.0)
        found.append(torch.einsum("cijk,ijk,ijka->ca", field, weight, p))
    weight = torch.where(r < 1, 1 - r**2, 0.0)
    second = torch.einsum("cijk,ijk,ijka,ijkb->cab", field, weight, p, p)
    found.append(torch.einsum("cab,cb->ca", second, found[1]))
    return torch.cat([one / one.norm(dim=1, keepdim=True).mean().clamp_min(1e-300) for one in found])


def _rotations(
    found: list[_Motion],
    rotations: Tensor,
    source: Source,
    box: tuple[Grid, tuple[int, ...]],
    *,
    alpha: float,
    improper: bool,
) -> Iterator[Finding]:
    """Whether the draws are rotations, proper, uniform and independent."""
    exact, misfit = all(one.exact for one in found), max(one.misfit for one in found)
    between = sum(not one.exact for one in found)
    if misfit > CLOSE:
        yield Finding("rigid", False, f"no rotation explains a draw: {100 * misfit:.0f} % of its moments", misfit)
        return
    how = "voxels move to voxels" if exact else f"{between} of {len(found)} draws interpolate between voxels"
    yield Finding("rigid", True, how, misfit)
    handed, proper = without_improper(rotations, improper=improper)
    yield handed
    if float((rotations - rotations[0]).abs().max()) < 1e-6:
        moved = float((rotations[0] - torch.eye(3).double()).abs().max()) > 1e-6
        yield Finding("uniform", False, SAME if moved or not source.absolute else "nothing is rotated")
        return
    if not exact:
        yield uniform("uniform", rotations, improper=improper, absolute=source.absolute, alpha=alpha)
        return
    group = _cube(*box)
    group = group if improper else group[torch.linalg.det(group) > 0]
    yield from _counts(rotations if improper else proper, group, alpha)


def _counts(rotations: Tensor, group: Tensor, alpha: float) -> Iterator[Finding]:
    """χ² of how often each element of a finite group was drawn, and of the steps from draw to draw."""
    for name, elements in (("uniform", rotations), ("independent", rotations[1:] @ rotations[:-1].mT)):
        which = (elements.flatten(1)[:, None] - group.flatten(1)).abs().amax(-1).argmin(1)
        times = torch.bincount(which, minlength=len(group)).double()
        expected = len(elements) / len(group)
        statistic = float((times - expected).square().sum() / expected)
        p = float(stats.chi2.sf(statistic, len(group) - 1))
        never, passed = int((times == 0).sum()), p >= alpha
        if name == "uniform":
            said = f"uniform over the {len(group)} rotations that keep the box"
            if not passed:
                said = f"not {said}" + (f": {never} of them never come" if never else "")
                axis = recipe(rotations * torch.linalg.det(rotations).sign()[:, None, None], absolute=False)
                said += f"; {axis}" if axis else ""
        else:
            said = NEW if passed else "each draw knows of the one before it"
        yield Finding(name, passed, said, statistic, p)
        if not passed:
            return


def _label(name: str, before: Tensor, after: list[Tensor], rep: Grid, found: list[_Motion]) -> Finding:
    """Whether another grid moved as the first did, its channels included."""
    old, label = _single(before, rep), f"labels: {name}"
    exact = grid(*rep.fields, axes=rep.axes, spacing=rep.spacing)
    errors, stale = [], []
    for values, motion in zip(after, found, strict=True):
        new = _single(values, rep)
        scale = 1e-5 * max(float(old.abs().max()), 1e-300)
        stale.append(float((new - old).abs().max()) <= scale)
        if motion.exact:
            errors.append(float((exact.rotate(old, motion.rotation) - new).abs().max()) / scale)
    if not all(motion.exact for motion in found):
        errors.append(_unexplained(old, [_single(values, rep) for values in after], rep, found))
    if max(errors) <= 1:
        return Finding(label, True, f"rotates with the grid, as ep.{rep}", max(errors))
    rotated = [float((one.rotation - torch.eye(3).double()).abs().max()) > 1e-6 for one in found]
    if all(same for same, moved in zip(stale, rotated, strict=True) if moved):
        return Finding(label, False, "is stale: the grid was rotated and it was not", max(errors))
    reference = _Reference(before, rep)
    if not rep.channels.are_scalars and all(reference.motion(values).exact for values in after):
        return Finding(label, False, "its voxels move and the vectors in its channels do not rotate", max(errors))
    return Finding(label, False, "changes, but not as the grid does", max(errors))


def _unexplained(before: Tensor, after: list[Tensor], rep: Grid, found: list[_Motion]) -> float:
    """How much worse the first grid's rotations explain another's moments than half of what no rotation explains."""
    x = _vectors(_lengths(before, rep), rep)
    ours, still = 0.0, 0.0
    for values, motion in zip(after, found, strict=True):
        y = _vectors(_lengths(values, rep), rep)
        ours += float((y - x @ motion.rotation.mT).norm() / y.norm().clamp_min(1e-300))
        still += float((y @ motion.rotation - y).norm() / y.norm().clamp_min(1e-300))
    return ours / max(0.5 * still, 1e-300)
