"""Which representation every tensor of a call carries, found out from names, values and shapes, with the reasons.

Names come first, then what the values say (one-hot rows, coordinates in disguise), then shapes. What could be several
things is an error that shows the line which declares it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations import representation as reps
from equiv_probe.representations.grids import Grid
from equiv_probe.schema.ambiguity import ambiguous, possibly_fractional, require_rotating
from equiv_probe.schema.grid_inference import could_be_field, guess_grid, looks_like_grid
from equiv_probe.schema.hidden_coordinates import Evidence, readable
from equiv_probe.schema.usual_names import (
    CELLS,
    holds_edges,
    holds_harmonics,
    is_fractional,
    is_predicted,
    plain,
    usual,
)

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation

Found = tuple["Representation", str]
"""A representation, and why."""
BY_SHAPE = "a last axis of 3"
"""How the reason begins for outputs that are vectors by their shape alone."""


@dataclass(frozen=True)
class Assumption:
    """One thing that was inferred: which tensor, as what, and why."""

    role: str
    name: str
    representation: Representation
    reason: str

    def __str__(self) -> str:
        return f"{self.role}[{self.name!r}] is {self.representation}: {self.reason}"


def infer(
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    known_inputs: Mapping[str, Representation],
    known_outputs: Mapping[str, Representation],
) -> tuple[dict[str, Representation], dict[str, Representation], tuple[Assumption, ...]]:
    """The representations of inputs and outputs of one evaluation, the known ones included, and what was assumed.

    Raises:
        EquivProbeError: nothing rotates, or a tensor could carry several representations.
    """
    found = _inputs(inputs, outputs, known_inputs, known_outputs)
    given = {**known_inputs, **{name: rep for name, (rep, _) in found.items()}}
    if all(isinstance(rep, reps.Fixed) for rep in given.values()):
        require_rotating(inputs, known_inputs)
    points, boxes = _geometry(inputs, given)
    found_outputs = {
        name: _output(name, value, points, boxes)
        for name, value in outputs.items()
        if name not in known_outputs and isinstance(value, torch.Tensor)
    }
    roles = (("inputs", found), ("outputs", found_outputs))
    assumptions = [Assumption(role, n, rep, why) for role, group in roles for n, (rep, why) in group.items()]
    return given, {**known_outputs, **{n: rep for n, (rep, _) in found_outputs.items()}}, tuple(assumptions)


def require_nothing_hidden(
    values: Mapping[str, Any], known: Mapping[str, Representation], ignored: Container[str] = ()
) -> None:
    """Raise EquivProbeError if an input of which a schema says nothing holds coordinates. Waits for the device, once.

    ``ignored`` are names that are no inputs of the network, such as its outputs; those of labels are known.
    """
    evidence = Evidence(values, known)
    for name, value in values.items():
        if name in known or name in ignored or is_predicted(name):
            continue
        if not isinstance(value, torch.Tensor) or _is_one_hot(value):
            continue
        by_name = usual(name, tuple(value.shape))
        hidden = None if by_name is not None and not by_name.event_shape else evidence.of(name, value)
        if hidden is not None:
            line = f"ep.{hidden.representation}" if hidden.representation else "ep.fixed"
            raise EquivProbeError(
                f"inputs[{name!r}], of which the schema says nothing: {hidden}",
                "coordinates that rotate with the rest",
                f'ep.Schema(inputs={{..., "{name}": {line}}}, ...), or ep.fixed to leave them as they are',
            )


def _inputs(
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    known: Mapping[str, Representation],
    known_outputs: Mapping[str, Representation],
) -> dict[str, Found]:
    """What is found out about the inputs, in their order: names before values, values before shapes."""
    pending = {n: v for n, v in inputs.items() if n not in known and isinstance(v, torch.Tensor)}
    found: dict[str, Found] = {}
    for name, value in pending.items():
        by_name = usual(name, tuple(value.shape))
        is_volume = looks_like_grid(value) or could_be_field(value)
        if by_name is None or not by_name.event_shape or is_volume or not value.is_floating_point():
            continue
        if by_name.fits(value.shape) and not (plain(name) in CELLS and value.shape[-2:] != (3, 3)):
            _require_cartesian(name, value, by_name, inputs)
            found[name] = by_name, f"its name, and its shape {tuple(value.shape)} fits"
    if not any(rep.is_affine for rep in (*known.values(), *(rep for rep, _ in found.values()))):
        first = next((n for n, v in pending.items() if n not in found and _could_be_points(n, v)), None)
        if first is not None:
            found[first] = _first(first, pending[first], inputs)
    given = {**known, **{name: rep for name, (rep, _) in found.items()}}
    evidence = Evidence(inputs, given)
    given_outputs = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    for name, value in pending.items():
        if name not in found:
            before = _geometry(inputs, {**given, **{n: rep for n, (rep, _) in found.items()}}, until=name)
            output = given_outputs.get(name.rpartition(".")[2])
            same = before[0] and output is not None and output.shape == value.shape
            try:
                found[name] = _input(name, value, evidence, *before)
            except EquivProbeError:
                if not same:
                    raise
                # Named and shaped like an output, as in self-conditioning: what it could not be alone, it is.
                like = name.rpartition(".")[2]
                representation = known_outputs.get(like) or _output(like, value, *before)[0]
                found[name] = representation, f"the output of that name, shape {tuple(value.shape)}"
    return {name: found[name] for name in pending}


def _geometry(
    inputs: Mapping[str, Any], given: Mapping[str, Representation], until: str | None = None
) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """The points, and the shapes of the grids, among the inputs before one of them."""
    names = itertools.takewhile(lambda name: name != until, inputs)
    known = [(given[name], inputs[name]) for name in names if name in given and isinstance(inputs[name], torch.Tensor)]
    points = [value for rep, value in known if rep.is_affine]
    return points, [tuple(value.shape[-3:]) for rep, value in known if isinstance(rep, Grid)]


def _could_be_points(name: str, value: Tensor) -> bool:
    """Whether a tensor may be the positions: floating ``(..., N, 3)``, not one-hot, and named like nothing else."""
    shape = tuple(value.shape)
    shaped = value.is_floating_point() and len(shape) >= 2 and shape[-1] == 3 and shape[-2] != 3
    if not shaped or looks_like_grid(value) or could_be_field(value):
        return False
    return not _is_one_hot(value) and usual(name, shape) is None


def _first(name: str, value: Tensor, inputs: Mapping[str, Any]) -> Found:
    """The first floating input with a last axis of 3, where no name says what the positions are."""
    shape = tuple(value.shape)
    if holds_edges(name):
        return reps.vector, f"three components of edges without positions beside them, shape {shape}"
    cells = _cells(inputs)
    if cells:
        what = f"inputs[{name!r}] of shape {shape} beside the cell {cells[0]!r}, which could be fractional or Cartesian"
        raise possibly_fractional(what, name, cells[0])
    return reps.point, f"the first floating input with a last axis of 3, shape {shape}"


def _cells(inputs: Mapping[str, Any]) -> list[str]:
    """The inputs that are three vectors of a cell."""
    return [
        name
        for name, value in inputs.items()
        if plain(name) in CELLS and isinstance(value, torch.Tensor) and value.shape[-2:] == (3, 3)
    ]


def _require_cartesian(name: str, value: Tensor, by_name: Representation, inputs: Mapping[str, Any]) -> None:
    """Raise EquivProbeError for positions by name that all lie between 0 and 1 beside a cell that is larger."""
    cells = _cells(inputs) if isinstance(by_name, reps.Point) else []
    if not cells or not readable(value) or not readable(inputs[cells[0]]) or value[..., 0].numel() < 4:
        return
    inside = bool(((value >= 0) & (value <= 1)).all()) and float(value.detach().max()) > 0
    edges = inputs[cells[0]].detach().norm(dim=-1)
    if inside and float(edges.min()) > 2:
        what = f"inputs[{name!r}], all between 0 and 1, beside the cell {cells[0]!r}: they could be fractional"
        raise possibly_fractional(what, name, cells[0])


def _is_one_hot(value: Tensor) -> bool:
    """Whether all numbers are 0 or 1, and there are both: classes or flags, no coordinates."""
    if not readable(value) or value.ndim < 2:
        return False
    value = value.detach()
    return bool(((value == 0) | (value == 1)).all() & value.any() & ~value.bool().all())


def _input(name: str, value: Tensor, evidence: Evidence, points: list[Tensor], boxes: list[tuple[int, ...]]) -> Found:
    """One input's representation and the reason; raises where several would do."""
    if found := _settled("inputs", name, value, points, boxes):
        return found
    shape = tuple(value.shape)
    if _is_one_hot(value):
        return reps.fixed, f"its values are 0 and 1, shape {shape}"
    if hidden := evidence.of(name, value):
        if hidden.representation is None:
            raise EquivProbeError(
                f"inputs[{name!r}] of shape {shape}: {hidden}; {hidden.why_not}",
                "what the network sees of the geometry made from the inputs that rotate",
                f"make {name!r} inside of the probed module (T.Cartesian and T.LocalCartesian with norm=False also "
                f'rotate), or ep.Schema(inputs={{"{name}": ep.fixed}}, ...) to leave it as it is',
            )
        return hidden.representation, f"{hidden}, shape {shape}"
    if holds_harmonics(name) and shape[-1:] in {(4,), (9,), (16,), (25,)}:
        raise EquivProbeError(
            f"inputs[{name!r}] of shape {shape}, by its name spherical harmonics, in no basis of e3nn's",
            "harmonics that are made inside of the probed module, or a declaration",
            f'ep.Schema(inputs={{"{name}": ep.irreps("...")}}, ...) or ep.fixed',
        )
    if shape[-1:] not in {(3,), (6,), (9,)}:
        return reps.fixed, f"its shape {shape} has no axis of Cartesian components"
    raise ambiguous("inputs", name, value, points)


def _output(name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]]) -> Found:
    """One output's representation and the reason; raises where several would do."""
    if is_fractional(name):
        return reps.scalar, "its name: fractional coordinates do not rotate"
    if found := _settled("outputs", name, value, points, boxes):
        return found
    shape = tuple(value.shape)
    if shape[-1:] not in {(3,), (6,), (9,)}:
        return reps.scalar, f"its shape {shape} has no axis of Cartesian components"
    if len(shape) >= 2 and shape[-1] == 3 and shape[-2] != 3:
        return reps.vector, f"{BY_SHAPE}, shape {shape}; if it is a place rather than an arrow, it is ep.point"
    raise ambiguous("outputs", name, value, points)


def _settled(role: str, name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]]) -> Found | None:
    """What grids, whole numbers and usual names settle."""
    shape = tuple(value.shape)
    by_name = usual(name, shape)
    if found := guess_grid(role, name, value, by_name=by_name, points=points, boxes=boxes):
        return found
    if not value.is_floating_point():
        return reps.fixed, f"{value.dtype} values do not rotate"
    if plain(name) in CELLS and shape[-2:] != (3, 3):
        raise EquivProbeError(
            f"{role}[{name!r}] of shape {shape}, which could be the lengths of a box or one cell vector",
            "a declaration",
            f'ep.Schema({role}={{"{name}": ep.fixed}}, ...) or ep.vector',
        )
    if by_name is not None and by_name.fits(shape):
        why = "its name" if not by_name.event_shape else f"its name, and its shape {shape} fits"
        return by_name, why
    return None
