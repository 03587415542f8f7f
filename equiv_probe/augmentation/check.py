"""Whether a user's own augmentation is what it should be: Haar, proper, independent, and with labels that rotate along.

>>> import torch, equiv_probe as ep
>>> from equiv_probe.rotations.haar import generators
>>> def three_angles(sample):  # about x, y and z in sequence, each by a uniform angle: not Haar; forces go stale
...     g = torch.eye(3, dtype=torch.float64)
...     for generator in generators():
...         g = torch.linalg.matrix_exp(2 * torch.pi * torch.rand(()) * generator) @ g
...     return {**sample, "pos": sample["pos"] @ g.T}
>>> check = ep.check_augmentation(three_angles)
>>> check.ok, check["Haar"].passed, check["labels: forces"].passed, check["independent"].passed
(False, False, False, True)
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from equiv_probe.augmentation.draws import (
    Source,
    drawn,
    fetched,
    generic_item,
    is_generic,
    of_item,
    of_transform,
    require_generic,
    rounding,
)
from equiv_probe.augmentation.findings import AugmentationCheck, Finding, uniform, without_improper
from equiv_probe.augmentation.grid_check import check_grids, grids_of
from equiv_probe.augmentation.independence import check_batch, check_independence, check_items, check_workers
from equiv_probe.augmentation.label_check import check_labels
from equiv_probe.augmentation.sample_layout import has_positions
from equiv_probe.errors import EquivProbeError
from equiv_probe.live.random_state import RandomState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.augmentation.label_check import Draw
    from equiv_probe.augmentation.sample_layout import Layout
    from equiv_probe.schema.schema import Schema

_LABEL_DRAWS = 8


def check_augmentation(
    transform_or_dataset: Any,
    sample: Any = None,
    schema: Schema | None = None,
    *,
    draws: int = 400,
    alpha: float = 1e-3,
    improper: bool = False,
    workers: int = 0,
    seed: int | None = 0,
    progress: bool = True,
) -> AugmentationCheck:
    r"""Tell whether a user's own random rotations are Haar, proper, independent, and rotate the labels along.

    The rotation of every draw is recovered from the positions (orthogonal Procrustes), relative to the sample, or for
    a dataset to its first draw. They are Haar if at degrees l = 1 … 4 ``V_l = (2l+1)/K Σ χ_l(g_k⁻¹ g_k')`` is χ² with
    ``(2l+1)²`` degrees of freedom (:mod:`equiv_probe.augmentation.uniformity`); then ``E[R] = 0``, ``E[R_ij²] = 1/3``
    and the mean angle is 126.5°. Labels must be ``ρ(g)`` of what they were, to rounding.

    Args:
        transform_or_dataset: a callable from sample to sample, or a dataset whose items are rotated when fetched.
        sample: for a transform, one sample, not flat: a tensor of positions, a dict, a tuple, PyG's ``Data``, or
            voxel grids ``(C, D, H, W)``. A batch of structures shows whether each gets a rotation of its own. None is a
            generic dict.
        schema: what rotates how, for entries whose names do not tell; its ``inputs`` may name the positions.
        draws: K. With 400, three uniform Euler angles are recognised practically always.
        alpha: how often a faultless augmentation may be blamed, over all tests together.
        improper: whether reflections are wanted, half of the time.
        workers: also fetch through a ``DataLoader`` with that many workers, two epochs, and look for rotations that
            two of them, or both epochs, have in common.
        seed: of the global random states during the check, which are put back; None leaves them as they are.
        progress: show a bar in a terminal, lines in a log, once it takes longer than two seconds.

    Returns:
        The findings; ``.ok`` sums them up, ``print`` shows them.

    Raises:
        EquivProbeError: there is nothing to draw from, no positions, only flat molecules, or other atoms afterwards.

    Source: Giné, Ann. Statist. 3 (1975) 1243; Prentice, Biometrika 65 (1978) 169; Mardia and Jupp, Directional
    Statistics (2000), section 13.2.
    """
    if draws < 50:
        raise EquivProbeError(f"draws={draws}", "at least 50, for the tests to be what they say", "draws=400")
    is_dataset = _is_dataset(transform_or_dataset, sample)
    before = RandomState.now()
    try:
        if seed is not None:
            _seed(seed)
        source = of_item(transform_or_dataset, 0) if is_dataset else of_transform(transform_or_dataset, sample)
        grids = grids_of(source.before, schema)
        if grids and not has_positions(source.before, schema):
            return check_grids(source, grids, draws=draws, alpha=alpha, improper=improper, shown=progress)
        if is_dataset:
            source = generic_item(transform_or_dataset, schema)
        layout = source.layout(schema)
        require_generic(source, layout)
        found = [drawn(source, layout, values) for values in fetched(source, draws, shown=progress)]
        place = next(u for u, points in enumerate(layout.points(source.before)) if is_generic(points))
        rotations = torch.stack([one.rotations[place] for one in found])
        findings = list(_motion(source, layout, found, rotations, place, improper=improper, alpha=alpha / 3))
        tolerance = min(1e-3, 2 * max(one.angle_error for one in found))
        findings.append(check_independence(rotations, tolerance, alpha / 3))
        findings += check_batch([one.rotations for one in found], found[0].determined, tolerance, alpha / 3)
        if is_dataset:
            findings += check_items(transform_or_dataset, schema)
        if workers:
            findings.append(check_workers(source.fetch, layout, source.before, tolerance, workers))
        findings += check_labels(source.before, found[:_LABEL_DRAWS], layout, schema)
        findings.append(_in_place(source))
    finally:
        before.restore()
    return AugmentationCheck(tuple(findings), rotations)


def _is_dataset(given: Any, sample: Any) -> bool:
    indexed = hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, (type, nn.Module))
    if indexed and not (callable(given) and sample is not None):
        if len(given) == 0:
            raise EquivProbeError("a dataset without items", "at least one")
        return True
    if not callable(given):
        fix = "ep.check_augmentation(loader.dataset)" if hasattr(given, "dataset") else "ep.check_augmentation(dataset)"
        raise EquivProbeError(f"a {type(given).__name__}", "a transform to call, or a dataset to index", fix)
    return False


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global state is what users' transforms draw from
    torch.manual_seed(seed)


def _motion(
    source: Source, layout: Layout, draws: list[Draw], matrices: Tensor, place: int, *, improper: bool, alpha: float
) -> Iterator[Finding]:
    yield _rigid(source, layout, draws, place)
    found, proper = without_improper(matrices, improper=improper)
    yield found
    eye = torch.eye(3, dtype=matrices.dtype) if source.absolute else proper[0]
    if float((matrices - eye).abs().max()) < min(0.2, 2 * max(one.angle_error for one in draws)):
        yield Finding("Haar", False, "nothing is rotated" if source.absolute else "no fetch is rotated anew")
        return
    yield uniform("Haar", matrices, improper=improper, absolute=source.absolute, alpha=alpha)


def _rigid(source: Source, layout: Layout, draws: list[Draw], place: int) -> Finding:
    motions = [one.motions[place] for one in draws]
    before = layout.points(source.before)[place]
    limit = max(rounding(before, layout.points(one.values)[place]) for one in draws)
    deviation = max(motion.deviation for motion in motions)
    if deviation <= limit:
        return Finding("rigid", True, "distances between atoms stay as they are", deviation)
    stretches = torch.stack([motion.stretches for motion in motions])
    low, high = float(stretches.min()), float(stretches.max())
    uneven = float((stretches[:, 0] - stretches[:, -1]).max())
    if uneven < 1e-4:
        what = f"scaled by {low:.4g} to {high:.4g}"
    elif max(motion.nonlinear for motion in motions) <= limit and len(before) > 4:
        what = f"stretched by {low:.4g} to {high:.4g}"
    else:
        mean = sum(motion.deviation for motion in motions) / len(motions)
        what = f"atoms are displaced against each other, by {mean:.3g} Å on average (root mean square)"
    return Finding("rigid", False, f"not a rigid motion: {what}", deviation)


def _in_place(source: Source) -> Finding:
    written, replaced = (", ".join(sorted(names)) for names in (source.written, source.replaced))
    passed: bool | None = True
    found = "the sample it was given stays as it was"
    if written:
        passed = False
        found = f"writes into tensors that are not its own: {written}; cached data drift from epoch to epoch"
    elif replaced:
        passed = None
        found = (
            f"replaces {replaced} in the very sample it was given, and leaves its tensors alone: fine for samples that "
            "are loaded afresh, wrong for cached ones"
        )
    return Finding("in place", passed, found)
