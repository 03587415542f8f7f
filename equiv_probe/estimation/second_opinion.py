"""A second opinion on the schema: would another representation explain the orbit far better?

The raw outputs of an orbit cost nothing more to pull back under another representation of the same shape. A model whose
"vector" is really three invariants, or whose stress components come in another order, looks broken under the declared
representation and perfect under the right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.representations import frames
from equiv_probe.representations import representation as reps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.representations.representation import Representation

FAR_BETTER = 1e-2
"""The other representation must leave less than this fraction of the declared one's variance."""
BROKEN = 1e-2
"""Asked only where the declared variance is more than this fraction of the prediction's own square."""


def second_opinion(orbit: Orbit, name: str) -> str:
    """One sentence if another representation fits an output far better than the declared one; empty otherwise.

    Args:
        orbit: kept; without the values there is no second opinion.
        name: of the output.
    """
    if orbit.values is None:
        return ""
    declared = orbit.schema.outputs[name]
    if declared.is_whole:  # nothing else has the shape of a grid
        return ""
    values = orbit.values[name].flatten(0, 1)
    variance, size = _variance(values), float(values.square().mean())
    if not variance > BROKEN * size:
        return ""
    rotations = orbit.rotations.flatten(0, 1)
    center = orbit.centers.get(name)
    raw = declared.rotate(values, rotations, center)
    others = [other for other in _others(declared, raw) if center is not None or not other.is_affine]
    best, left = min(
        ((other, _variance(other.rotate_back(raw, rotations, center))) for other in others),
        key=lambda found: found[1],
        default=(declared, variance),
    )
    if not left < FAR_BETTER * variance:
        return ""
    times = f"{variance / max(left, 1e-300):.2g}"
    return (
        f"{name!r} is declared as ep.{declared}, but as ep.{best} it would vary {times} times less over rotations: "
        f'is it one? If so, declare outputs={{"{name}": ep.{best}}}'
    )


def _variance(values: Tensor) -> float:
    return float(values.var(0, correction=0).mean())


def _others(declared: Representation, raw: Tensor) -> Iterator[Representation]:
    """Representations of the same trailing shape that differ from the declared one."""
    shape = tuple(raw.shape[1:])
    candidates: list[Representation] = [reps.scalar]
    if shape[-1:] == (3,):
        candidates += [reps.vector, reps.point, reps.axial]
    if shape[-2:] == (3, 3):
        candidates += [reps.tensor(2), frames.orientation]
    if shape[-1:] == (6,):
        candidates += [reps.voigt(), reps.voigt("xx yy zz xy yz xz"), reps.voigt("xx xy xz yy yz zz")]
    for candidate in candidates:
        if str(candidate) != str(declared):
            yield candidate
