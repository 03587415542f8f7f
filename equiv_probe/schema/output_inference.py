"""Which representation every output of a call carries, from names and shapes, and what among them is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.representations import representation as reps
from equiv_probe.schema.ambiguity import ambiguous
from equiv_probe.schema.doubtful_forms import contradicted
from equiv_probe.schema.grid_inference import guess_grid
from equiv_probe.schema.undeclared import UndeclaredError, noted
from equiv_probe.schema.usual_names import CELLS, is_fractional, is_hidden, plain, usual

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation

Found = tuple["Representation", str]
"""A representation, and why."""
BY_SHAPE = "a last axis of 3"
"""How the reason begins for outputs that are vectors by their shape alone."""


def infer_outputs(
    outputs: Mapping[str, Any],
    known: Mapping[str, Representation],
    points: list[Tensor],
    boxes: list[tuple[int, ...]],
    *,
    in_cells: bool,
    problems: list[UndeclaredError],
) -> dict[str, Found]:
    """What is found out about the outputs; counts, features inside of the network and its own loss are left alone."""
    given = {n: v for n, v in outputs.items() if n not in known and isinstance(v, torch.Tensor)}
    asked = {n: v for n, v in given.items() if v.is_floating_point() and not _is_beside(n, tuple(v.shape))}
    found = {}
    for name, value in (asked if asked or known else given).items():
        with noted(problems):
            found[name] = infer_output(name, value, points, boxes, in_cells=in_cells)
    return found


def _is_beside(name: str, shape: tuple[int, ...]) -> bool:
    """Whether an output is beside what a network is asked for: features, its loss, the strain it is derived by."""
    return is_hidden(name) or (plain(name) == "displacement" and shape[-2:] == (3, 3))


def infer_output(
    name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]], *, in_cells: bool = False
) -> Found:
    """One output's representation and the reason; raises where several would do."""
    if is_fractional(name):
        return reps.scalar, "its name: fractional coordinates do not rotate"
    if found := settled_by_name("outputs", name, value, points, boxes):
        return found
    shape = tuple(value.shape)
    if shape[-1:] not in {(3,), (6,), (9,)}:
        return reps.scalar, f"its shape {shape} has no axis of Cartesian components"
    if len(shape) >= 2 and shape[-1] == 3 and shape[-2] != 3:
        return reps.vector, f"{BY_SHAPE}, shape {shape}; if it is a place rather than an arrow, it is ep.point"
    if in_cells and shape[-2:] == (3, 3) and len(shape) == 3:
        return reps.tensor(2), f"a matrix for each structure, beside a cell: a stress, shape {shape}"
    raise ambiguous("outputs", name, value, points)


def settled_by_name(
    role: str, name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]]
) -> Found | None:
    """What grids, whole numbers and usual names settle."""
    shape = tuple(value.shape)
    by_name = usual(name, shape)
    if found := guess_grid(role, name, value, by_name=by_name, points=points, boxes=boxes):
        return found
    if not value.is_floating_point():
        return reps.fixed, f"{value.dtype} values do not rotate"
    if problem := contradicted(role, name, value, by_name, points):
        raise problem
    if plain(name) in CELLS and shape[-1:] == (6,):
        return reps.fixed, f"lengths and angles of a cell, shape {shape}, do not rotate"
    if plain(name) in CELLS and shape[-2:] != (3, 3):
        what = f"{role}[{name!r}] of shape {shape}, which could be the lengths of a box or one cell vector"
        raise UndeclaredError(role, name, what, "ep.fixed", more=" or ep.vector")
    if by_name is not None and by_name.fits(shape):
        why = "its name" if not by_name.event_shape else f"its name, and its shape {shape} fits"
        return by_name, why
    return None
