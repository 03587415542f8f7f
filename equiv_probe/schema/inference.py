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
from equiv_probe.schema.doubtful_forms import contradicted
from equiv_probe.schema.grid_inference import could_be_channels_last, could_be_field, looks_like_grid
from equiv_probe.schema.hidden_coordinates import Evidence, readable
from equiv_probe.schema.output_inference import Found, infer_output, infer_outputs, settled_by_name
from equiv_probe.schema.undeclared import UndeclaredError, noted, together
from equiv_probe.schema.usual_names import (
    CELLS,
    LENGTHS,
    holds_edges,
    holds_harmonics,
    is_predicted,
    plain,
    usual,
)

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation


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
    problems: list[UndeclaredError] = []
    found = _inputs(inputs, outputs, known_inputs, known_outputs, problems)
    given = {**known_inputs, **{name: rep for name, (rep, _) in found.items()}}
    if not problems and all(isinstance(rep, reps.Fixed) for rep in given.values()):
        require_rotating(inputs, known_inputs)
    points, boxes = _geometry(inputs, given)
    found_outputs = infer_outputs(
        outputs, known_outputs, points, boxes, in_cells=bool(_cells(inputs)), problems=problems
    )
    if problems:
        raise together(problems)
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
    problems: list[UndeclaredError],
) -> dict[str, Found]:
    """What is found out about the inputs, in their order: names before values, values before shapes."""
    pending = {n: v for n, v in inputs.items() if n not in known and isinstance(v, torch.Tensor)}
    found = _by_name(inputs, pending, problems)
    if not any(rep.is_affine for rep in (*known.values(), *(rep for rep, _ in found.values()))):
        first = next((n for n, v in pending.items() if n not in found and _could_be_points(n, v)), None)
        if first is not None:
            with noted(problems):
                found[first] = _first(first, pending[first], inputs)
            found.setdefault(first, (reps.point, "not known"))
    given = {**known, **{name: rep for name, (rep, _) in found.items()}}
    evidence = Evidence(inputs, given)
    given_outputs = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    for name, value in pending.items():
        if name not in found:
            before = _geometry(inputs, {**given, **{n: rep for n, (rep, _) in found.items()}}, until=name)
            try:
                found[name] = _input(name, value, evidence, *before)
            except UndeclaredError as problem:
                like = _output_like(name, value, given_outputs, known_outputs, before)
                if like is None:
                    problems.append(problem)
                found[name] = like or (reps.fixed, "not known")
    return {name: found[name] for name in pending}


def _by_name(
    inputs: Mapping[str, Any], pending: Mapping[str, Tensor], problems: list[UndeclaredError]
) -> dict[str, Found]:
    """The inputs whose names and shapes say how they rotate."""
    found: dict[str, Found] = {}
    for name, value in pending.items():
        by_name = usual(name, tuple(value.shape))
        is_volume = looks_like_grid(value) or could_be_field(value)
        if by_name is None or not by_name.event_shape or is_volume or not value.is_floating_point():
            continue
        is_cell = plain(name) not in CELLS or value.shape[-2:] == (3, 3)
        if by_name.fits(value.shape) and is_cell and not contradicted("inputs", name, value, by_name, []):
            with noted(problems):
                _require_cartesian(name, value, by_name, inputs)
            found[name] = by_name, f"its name, and its shape {tuple(value.shape)} fits"
    return found


def _output_like(
    name: str,
    value: Tensor,
    outputs: Mapping[str, Tensor],
    known: Mapping[str, Representation],
    before: tuple[list[Tensor], list[tuple[int, ...]]],
) -> Found | None:
    """What an input is by the output of its name, as in self-conditioning, or of its shape, whose label it is."""
    own = name.rpartition(".")[2]
    shape = tuple(value.shape)
    if before[0] and own in outputs and outputs[own].shape == value.shape:
        return known.get(own) or infer_output(own, outputs[own], *before)[0], f"the output of that name, shape {shape}"
    if not is_predicted(name) or not outputs:
        return None
    same = next((other for other, one in outputs.items() if one.shape == value.shape), None)
    if same is not None:
        return known.get(same) or infer_output(same, outputs[same], *before)[
            0
        ], f"by its name a label, of output {same!r}"
    of_atoms = shape[-1] == 3 and any(shape == tuple(one.shape) for one in before[0])
    return (reps.vector if of_atoms else reps.fixed), f"by its name a label, shape {shape}"


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
    cells = [*_cells(inputs), *_cell_parameters(inputs)]
    if cells:
        what = f"inputs[{name!r}] of shape {shape} beside the cell {cells[0]!r}, which could be fractional or Cartesian"
        raise possibly_fractional(what, name)
    if could_be_channels_last(value):
        what = f"inputs[{name!r}] of shape {shape}, which could be positions or voxels with their channels last"
        moved = (
            f" for positions; for voxels probe a module that takes them as ep.grid() has them, {name}.movedim(-1, 1)"
        )
        raise UndeclaredError("inputs", name, what, "ep.point", more=moved)
    return reps.point, f"the first floating input with a last axis of 3, shape {shape}"


def _cells(inputs: Mapping[str, Any]) -> list[str]:
    """The inputs that are three vectors of a cell."""
    return [
        name
        for name, value in inputs.items()
        if plain(name) in CELLS and isinstance(value, torch.Tensor) and value.shape[-2:] == (3, 3)
    ]


def _cell_parameters(inputs: Mapping[str, Any]) -> list[str]:
    """The inputs that are lengths of a cell, alone or before its angles."""
    return [
        name
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and (
            (plain(name) in CELLS and value.shape[-1:] == (6,)) or (plain(name) in LENGTHS and value.shape[-1:] == (3,))
        )
    ]


def _require_cartesian(name: str, value: Tensor, by_name: Representation, inputs: Mapping[str, Any]) -> None:
    """Raise EquivProbeError for positions by name that all lie between 0 and 1 beside a cell that is larger."""
    rows, parameters = (f(inputs) if isinstance(by_name, reps.Point) else [] for f in (_cells, _cell_parameters))
    cells = [*rows, *parameters]
    if not cells or not readable(value) or not readable(inputs[cells[0]]) or value[..., 0].numel() < 4:
        return
    inside = bool(((value >= 0) & (value <= 1)).all()) and float(value.detach().max()) > 0
    edges = inputs[cells[0]].detach().norm(dim=-1) if rows else inputs[cells[0]].detach()[..., :3]
    if inside and float(edges.min()) > 2:
        what = f"inputs[{name!r}], all between 0 and 1, beside the cell {cells[0]!r}: they could be fractional"
        raise possibly_fractional(what, name)


def _is_one_hot(value: Tensor) -> bool:
    """Whether all numbers are 0 or 1, and there are both: classes or flags, no coordinates."""
    if not readable(value) or value.ndim < 2:
        return False
    value = value.detach()
    return bool(((value == 0) | (value == 1)).all() & value.any() & ~value.bool().all())


def _input(name: str, value: Tensor, evidence: Evidence, points: list[Tensor], boxes: list[tuple[int, ...]]) -> Found:
    """One input's representation and the reason; raises where several would do."""
    found = settled_by_name("inputs", name, value, points, boxes)
    by_name = usual(name, tuple(value.shape))
    if found and (value.is_floating_point() or (by_name is not None and not by_name.event_shape)):
        return found
    shape = tuple(value.shape)
    if _is_one_hot(value):
        return reps.fixed, f"its values are 0 and 1, shape {shape}"
    if hidden := evidence.of(name, value):
        if hidden.representation is None or found:
            raise UndeclaredError(
                "inputs",
                name,
                f"inputs[{name!r}] of shape {shape}: {hidden}; {hidden.why_not or 'whole numbers cannot be rotated'}",
                "ep.fixed",
                more=" to leave it as it is, so that L_equiv says nothing of it, or ep.vector for arrows; or make "
                f"{name!r} inside of the probed module (T.Cartesian and T.LocalCartesian with norm=False rotate)",
                expected="what the network sees of the geometry made from the inputs that rotate",
            )
        return hidden.representation, f"{hidden}, shape {shape}"
    if holds_harmonics(name) and shape[-1:] in {(4,), (9,), (16,), (25,)}:
        what = f"inputs[{name!r}] of shape {shape}, by its name spherical harmonics, in no basis of e3nn's"
        expected = "harmonics that are made inside of the probed module, or a declaration"
        raise UndeclaredError("inputs", name, what, 'ep.irreps("...")', more=" or ep.fixed", expected=expected)
    if found:
        return found
    if shape[-1:] not in {(3,), (6,), (9,)}:
        return reps.fixed, f"its shape {shape} has no axis of Cartesian components"
    raise ambiguous("inputs", name, value, points)
