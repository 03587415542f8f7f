"""Whether an augmentation of voxel grids rotates as it should: by which rotation each draw moved the voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import stats

from equiv_probe.augmentation.draws import fetched
from equiv_probe.augmentation.findings import NEW, SAME, AugmentationCheck, Finding, uniform, without_improper
from equiv_probe.augmentation.grid_motion import Reference, lengths, single, vectors
from equiv_probe.augmentation.sample_layout import read
from equiv_probe.augmentation.uniformity import recipe
from equiv_probe.errors import EquivProbeError
from equiv_probe.representations.grids import Grid, grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from equiv_probe.augmentation.draws import Source
    from equiv_probe.augmentation.grid_motion import Motion
    from equiv_probe.schema.schema import Schema

CLOSE = 0.25
"""Part of the moments that a rotation may leave unexplained: of noise between voxels a tenth is usual."""


def grids_of(values: Mapping[str, Tensor], schema: Schema | None) -> dict[str, Grid]:
    """The grids of a sample: those that the schema declares; without one, all of one box of four voxels or more."""
    if schema is not None:
        declared = {**schema.inputs, **schema.outputs, **schema.targets}
        return {name: rep for name, rep in declared.items() if isinstance(rep, Grid) and name in values}
    fields = {name: value for name, value in values.items() if value.ndim >= 3 and min(value.shape[-3:]) >= 4}
    if len({value.shape[-3:] for value in fields.values()}) != 1:
        return {}
    return {name: grid(channel_axis=value.ndim > 3) for name, value in fields.items()}


def check_grids(
    source: Source, grids: Mapping[str, Grid], *, draws: int, alpha: float, improper: bool, shown: bool
) -> AugmentationCheck:
    """The findings about an augmentation of grids: the first shows the rotation, the others must rotate along.

    Raises:
        EquivProbeError: the grid is symmetric, or is not there after a draw.
    """
    first = next(iter(grids))
    reference = Reference(source.before[first], grids[first])
    reference.require_generic(first)
    after = [read(values) for values in fetched(source, draws, shown=shown)]
    for values in after:
        if first not in values or values[first].shape[-3:] != source.before[first].shape[-3:]:
            raise EquivProbeError(
                f"the grid {first!r}, gone or of another shape after a draw", "the same voxels, rotated", "draw by draw"
            )
    found = [reference.motion(values[first]) for values in after]
    rotations = torch.stack([one.rotation for one in found])
    findings = list(_rotations(found, rotations, source, reference.group, alpha=alpha / 2, improper=improper))
    for name in list(grids)[1:]:
        if all(name in values for values in after):
            labels = [values[name] for values in after]
            findings.append(_label(name, source.before[name], labels, grids[name], found))
    return AugmentationCheck(tuple(findings), rotations)


def _rotations(
    found: list[Motion],
    rotations: Tensor,
    source: Source,
    group: Tensor,
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
    group = group if improper else group[torch.linalg.det(group) > 0]
    yield from _counts(rotations if improper else proper, group, alpha)


def _counts(rotations: Tensor, group: Tensor, alpha: float) -> Iterator[Finding]:
    """χ² of how often each element of a finite group was drawn, and of the steps from draw to draw."""
    for name, elements in (("uniform", rotations), ("independent", rotations[1:] @ rotations[:-1].mT)):
        which = (elements.flatten(1)[:, None] - group.flatten(1)).abs().amax(-1).argmin(1)
        times = torch.bincount(which, minlength=len(group))
        statistic, p = map(float, stats.chisquare(times.numpy()))
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


def _label(name: str, before: Tensor, after: list[Tensor], rep: Grid, found: list[Motion]) -> Finding:
    """Whether another grid moved as the first did, its channels included."""
    old, label = single(before, rep), f"labels: {name}"
    exact = grid(*rep.fields, axes=rep.axes, spacing=rep.spacing)
    errors, stale = [], []
    for values, motion in zip(after, found, strict=True):
        new = single(values, rep)
        scale = 1e-5 * max(float(old.abs().max()), 1e-300)
        stale.append(float((new - old).abs().max()) <= scale)
        if motion.exact:
            errors.append(float((exact.rotate(old, motion.rotation) - new).abs().max()) / scale)
    if not all(motion.exact for motion in found):
        errors.append(_unexplained(old, [single(values, rep) for values in after], rep, found))
    if max(errors) <= 1:
        return Finding(label, True, f"rotates with the grid, as ep.{rep}", max(errors))
    rotated = [float((one.rotation - torch.eye(3).double()).abs().max()) > 1e-6 for one in found]
    if all(same for same, moved in zip(stale, rotated, strict=True) if moved):
        return Finding(label, False, "is stale: the grid was rotated and it was not", max(errors))
    reference = Reference(before, rep)
    if not rep.channels.are_scalars and all(reference.motion(values).exact for values in after):
        return Finding(label, False, "its voxels move and the vectors in its channels do not rotate", max(errors))
    return Finding(label, False, "changes, but not as the grid does", max(errors))


def _unexplained(before: Tensor, after: list[Tensor], rep: Grid, found: list[Motion]) -> float:
    """How much worse the first grid's rotations explain another's moments than half of what no rotation explains."""
    x = vectors(lengths(before, rep), rep)
    ours, still = 0.0, 0.0
    for values, motion in zip(after, found, strict=True):
        y = vectors(lengths(values, rep), rep)
        ours += float((y - x @ motion.rotation.mT).norm() / y.norm().clamp_min(1e-300))
        still += float((y @ motion.rotation - y).norm() / y.norm().clamp_min(1e-300))
    return ours / max(0.5 * still, 1e-300)
