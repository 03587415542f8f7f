"""Tensors whose numbers or shape contradict their name: rotations in disguise, components that are laid out otherwise.

>>> rows = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
>>> print(contradicted("inputs", "q", rows, None, []).likely)
ep.quaternion
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.representations import representation as reps
from equiv_probe.schema.hidden_coordinates import readable
from equiv_probe.schema.undeclared import UndeclaredError
from equiv_probe.schema.usual_names import CELLS, plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.representations.representation import Representation

UNIT = 1e-3
"""How far from one lengths of quaternions and products of axes may be, in half precision too."""
FEWEST = 3
"""Rows or matrices that must agree."""
_MOMENTS = {"magmom", "magmoms"}


def contradicted(
    role: str, name: str, value: Tensor, by_name: Representation | None, points: list[Tensor]
) -> UndeclaredError | None:
    """The question to ask where values or shape contradict a name, or what a shape alone would say; else None."""
    shape = tuple(value.shape)
    likely, expected = "", "a declaration"
    what = "" if by_name is None else f", by its name ep.{by_name}"
    more = " or ep.fixed to leave it as it is" if role == "inputs" else " or ep.scalar"
    fits = by_name is not None and by_name.fits(shape)
    if shape[-1:] in {(4,), (7,)} and not (fits and by_name != reps.scalar) and _are_quaternions(value[..., :4]):
        likely = "ep.quaternion" if shape[-1] == 4 else 'ep.frame("quaternion")'
        what += f", {'rows' if shape[-1] == 4 else 'its first four columns'} of length one: unit quaternions?"
        more = f" where w comes first,{more}"
    elif by_name in {reps.point, reps.vector} and plain(name) not in CELLS and _are_rotations(value):
        likely, what, more = "ep.orientation", f"{what}, by its values rotation matrices", f", ep.{by_name},{more}"
    elif plain(name) in _MOMENTS and shape[-1:] == (3,) and any(shape == one.shape for one in points):
        likely, what, more = "ep.axial", f"{what}, with three components for each atom: not collinear?", " or ep.scalar"
    elif by_name is None or not by_name.event_shape or fits or not value.is_floating_point():
        return None
    elif isinstance(by_name, reps.CartesianTensor) and by_name.rank == 2 and shape[-1:] == (5,):
        likely, what = 'ep.irreps("1x2e")', f"{what}: five numbers could be its traceless part"
        more = f" where they are in e3nn's basis,{more}"
    elif any(shape in _other_layouts(one) for one in points):
        what, expected = (
            f"{what}, with components that do not lie along the last axis",
            "a last axis of three components",
        )
        likely, more = "ep.fixed", " or transpose it in a wrapper of the network"
    if not likely:
        return None
    return UndeclaredError(role, name, f"{role}[{name!r}] of shape {shape}{what}", likely, more=more, expected=expected)


def _other_layouts(points: Tensor) -> list[tuple[int, ...]]:
    """The shapes of arrows of the same atoms with components first, or flat."""
    *lead, atoms, width = points.shape if points.ndim > 1 else (1, 1)
    if width != 3 or atoms == 3:
        return []
    return [(*lead, 3, atoms), *([(*lead, 3 * atoms)] if lead else [])]


def _are_quaternions(value: Tensor) -> bool:
    """Whether rows of four have length one, and are neither classes nor probabilities."""
    if not readable(value) or value.shape[:-1].numel() < FEWEST:
        return False
    value = value.detach()
    is_unit = (value.float().norm(dim=-1) - 1).abs().max() <= UNIT
    return bool(is_unit & (value < 0).any() & (value.std(-1) > UNIT).all() & ~((value == 0) | (value.abs() == 1)).all())


def _are_rotations(value: Tensor) -> bool:
    """Whether matrices are orthogonal and proper, and not all the same."""
    if value.shape[-2:] != (3, 3) or not readable(value) or value.shape[:-2].numel() < FEWEST:
        return False
    flat = value.detach().float().reshape(-1, 3, 3)
    apart = (flat @ flat.mT - torch.eye(3, device=flat.device)).abs().max()
    return bool((apart <= UNIT) & (torch.linalg.det(flat) > 0).all() & (flat.std(0).max() > UNIT))
