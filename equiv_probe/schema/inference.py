"""Which representation every tensor of a call carries, found out from names, values and shapes, with the reasons.

Names come first, then what the values say (one-hot rows, coordinates in disguise), then shapes. What could be several
things is an error that shows the line which declares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.representations import representation as reps
from equiv_probe.representations.grids import Grid
from equiv_probe.schema.grid_inference import could_be_field, guess_grid, looks_like_grid, unclear
from equiv_probe.schema.hidden_coordinates import Evidence, readable
from equiv_probe.schema.undeclared import UndeclaredError, noted, together
from equiv_probe.schema.usual_names import (
    CELLS,
    holds_edges,
    holds_harmonics,
    is_fractional,
    is_hidden,
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
_FRACTIONAL = " for fractional coordinates, ep.point for positions"
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
    """The representations of inputs and outputs, the known ones included, and what was assumed.

    Args:
        inputs: of one evaluation, by name; what is no tensor is passed over.
        outputs: likewise.
        known_inputs: representations that are known; they stand.
        known_outputs: likewise.

    Raises:
        EquivProbeError: nothing rotates, or a tensor could carry several representations.
    """
    problems: list[UndeclaredError] = []
    found = _inputs(inputs, outputs, known_inputs, known_outputs, problems)
    given = {**known_inputs, **{name: rep for name, (rep, _) in found.items()}}
    if not problems and all(isinstance(rep, reps.Fixed) for rep in given.values()):
        _require_rotating(inputs, known_inputs)
    values = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    points = [value for name, value in values.items() if name in given and given[name].is_affine]
    boxes = [tuple(value.shape[-3:]) for name, value in values.items() if isinstance(given.get(name), Grid)]
    answered = _outputs(outputs, known_outputs, points, boxes, in_cells=bool(_cells(inputs)), problems=problems)
    if problems:
        raise together(problems)
    roles = (("inputs", found), ("outputs", answered))
    assumptions = [Assumption(role, n, rep, why) for role, group in roles for n, (rep, why) in group.items()]
    return given, {**known_outputs, **{n: rep for n, (rep, _) in answered.items()}}, tuple(assumptions)


def require_nothing_hidden(
    values: Mapping[str, Any], known: Mapping[str, Representation], ignored: Container[str] = ()
) -> None:
    """Raise EquivProbeError if an input of which a schema says nothing holds coordinates. Waits for the device, once.

    Args:
        values: the inputs by name.
        known: what the schema says.
        ignored: names that are no inputs of the network, such as its outputs; those of labels are known.
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
    found: dict[str, Found] = {}
    for name, value in pending.items():
        by_name = usual(name, tuple(value.shape))
        is_volume = looks_like_grid(value) or could_be_field(value)
        if by_name is None or not by_name.event_shape or is_volume or not value.is_floating_point():
            continue
        if by_name.fits(value.shape) and not (plain(name) in CELLS and value.shape[-2:] != (3, 3)):
            with noted(problems):
                _require_cartesian(name, value, by_name, inputs)
            found[name] = by_name, f"its name, and its shape {tuple(value.shape)} fits"
    if not any(rep.is_affine for rep in (*known.values(), *(rep for rep, _ in found.values()))):
        first = next((n for n, v in pending.items() if n not in found and _could_be_points(n, v)), None)
        if first is not None:
            with noted(problems):
                found[first] = _first(first, pending[first], inputs)
            found.setdefault(first, (reps.point, "not known"))
    given = {**known, **{name: rep for name, (rep, _) in found.items()}}
    evidence = Evidence(inputs, given)
    answers = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    for name, value in pending.items():
        if name not in found:
            before = _before(name, inputs, {**given, **{n: rep for n, (rep, _) in found.items()}})
            try:
                found[name] = _input(name, value, evidence, *before)
            except UndeclaredError as problem:
                like = _output_like(name, value, answers, known_outputs, before)
                if like is None:
                    problems.append(problem)
                found[name] = like or (reps.fixed, "not known")
    return {name: found[name] for name in pending}


def _output_like(
    name: str,
    value: Tensor,
    answers: Mapping[str, Tensor],
    known: Mapping[str, Representation],
    before: tuple[list[Tensor], list[tuple[int, ...]]],
) -> Found | None:
    """What an input is by the output of its name, as in self-conditioning, or of its shape, whose label it is."""
    own = name.rpartition(".")[2]
    shape = tuple(value.shape)
    if before[0] and own in answers and answers[own].shape == value.shape:
        return known.get(own) or _output(own, answers[own], *before)[0], f"the output of that name, shape {shape}"
    if not is_predicted(name) or not answers:
        return None
    same = next((other for other, one in answers.items() if one.shape == value.shape), None)
    if same is not None:
        return known.get(same) or _output(same, answers[same], *before)[0], f"by its name a label, of output {same!r}"
    of_atoms = shape[-1] == 3 and any(shape == tuple(one.shape) for one in before[0])
    return (reps.vector if of_atoms else reps.fixed), f"by its name a label, shape {shape}"


def _outputs(
    outputs: Mapping[str, Any],
    known: Mapping[str, Representation],
    points: list[Tensor],
    boxes: list[tuple[int, ...]],
    *,
    in_cells: bool,
    problems: list[UndeclaredError],
) -> dict[str, Found]:
    """What is found out about the outputs; features inside of the network, and its own loss, are left alone."""
    given = {n: v for n, v in outputs.items() if n not in known and isinstance(v, torch.Tensor)}
    asked = {n: v for n, v in given.items() if not _is_beside(n, tuple(v.shape))}
    found = {}
    for name, value in (asked if asked or known else given).items():
        with noted(problems):
            found[name] = _output(name, value, points, boxes, in_cells=in_cells)
    return found


def _is_beside(name: str, shape: tuple[int, ...]) -> bool:
    """Whether an output is beside what a network is asked for: features, its loss, the strain it is derived by."""
    return is_hidden(name) or (plain(name) == "displacement" and shape[-2:] == (3, 3))


def _before(
    name: str, inputs: Mapping[str, Any], given: Mapping[str, Representation]
) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """The points, and the shapes of the grids, that come before an input."""
    points: list[Tensor] = []
    boxes: list[tuple[int, ...]] = []
    for other, value in inputs.items():
        if other == name:
            break
        if other in given and given[other].is_affine:
            points.append(value)
        if isinstance(given.get(other), Grid):
            boxes.append(tuple(value.shape[-3:]))
    return points, boxes


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
        what = f"inputs[{name!r}] of shape {shape} beside the cell {cells[0]!r}: it could be fractional or Cartesian"
        raise UndeclaredError("inputs", name, what, "ep.fixed", more=_FRACTIONAL)
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
        raise UndeclaredError("inputs", name, what, "ep.fixed", more=_FRACTIONAL)


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
            raise UndeclaredError(
                "inputs",
                name,
                f"inputs[{name!r}] of shape {shape}: {hidden}; {hidden.why_not}",
                "ep.fixed",
                more=f" to leave it as it is; or make {name!r} inside of the probed module (T.Cartesian and "
                "T.LocalCartesian with norm=False also rotate)",
                expected="what the network sees of the geometry made from the inputs that rotate",
            )
        return hidden.representation, f"{hidden}, shape {shape}"
    if holds_harmonics(name) and shape[-1:] in {(4,), (9,), (16,), (25,)}:
        what = f"inputs[{name!r}] of shape {shape}, by its name spherical harmonics, in no basis of e3nn's"
        expected = "harmonics that are made inside of the probed module, or a declaration"
        raise UndeclaredError("inputs", name, what, 'ep.irreps("...")', more=" or ep.fixed", expected=expected)
    if shape[-1:] not in {(3,), (6,), (9,)}:
        return reps.fixed, f"its shape {shape} has no axis of Cartesian components"
    raise _ambiguous("inputs", name, value, points)


def _output(
    name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]], *, in_cells: bool = False
) -> Found:
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
    if in_cells and shape[-2:] == (3, 3) and len(shape) == 3:
        return reps.tensor(2), f"a matrix for each structure, beside a cell: a stress, shape {shape}"
    raise _ambiguous("outputs", name, value, points)


def _settled(role: str, name: str, value: Tensor, points: list[Tensor], boxes: list[tuple[int, ...]]) -> Found | None:
    """What grids, whole numbers and usual names settle."""
    shape = tuple(value.shape)
    by_name = usual(name, shape)
    if found := guess_grid(role, name, value, by_name=by_name, points=points, boxes=boxes):
        return found
    if not value.is_floating_point():
        return reps.fixed, f"{value.dtype} values do not rotate"
    if plain(name) in CELLS and shape[-1:] == (6,):
        return reps.fixed, f"lengths and angles of a cell, shape {shape}, do not rotate"
    if plain(name) in CELLS and shape[-2:] != (3, 3):
        what = f"{role}[{name!r}] of shape {shape}, which could be the lengths of a box or one cell vector"
        raise UndeclaredError(role, name, what, "ep.fixed", more=" or ep.vector")
    if by_name is not None and by_name.fits(shape):
        why = "its name" if not by_name.event_shape else f"its name, and its shape {shape} fits"
        return by_name, why
    return None


def _ambiguous(role: str, name: str, value: Tensor, points: list[Tensor]) -> UndeclaredError:
    """What could be several things, with the lines that say which; the likeliest first."""
    shape = tuple(value.shape)
    of_atoms = any(shape[:-1] == tuple(one.shape[:-1]) for one in points)
    likely = {
        3: "ep.vector, ep.point or ep.scalar",
        6: "ep.voigt() or ep.scalar",
        9: "ep.irreps(...) or ep.scalar",
    }
    if of_atoms:  # stress belongs to structures; atoms have places and arrows side by side
        likely[6] = "ep.concat(ep.point, ep.vector), ep.concat(ep.vector, ep.vector), ep.voigt() or ep.scalar"
        likely[9] = "ep.concat(ep.point, ep.vector, 3), ep.concat(ep.tensor(2)), ep.irreps(...) or ep.scalar"
    if could_be_field(value):
        likely = {key: f"ep.grid(channel_axis=False) or {kinds}" for key, kinds in likely.items()}
    options = likely[shape[-1]]
    if shape[-2:] == (3, 3):
        options = "ep.vector (three vectors as rows, a cell), ep.tensor(2) or ep.orientation"
        if role == "outputs":
            options = "ep.tensor(2), ep.vector or ep.orientation"
    line = options.split(" or ep.")[0].split(", ep.")[0].partition(" (")[0]
    if options.startswith("ep.concat"):
        line = options[: options.index(")") + 1]
    fixed = ", or ep.fixed to leave it as it is" if role == "inputs" else ""
    return UndeclaredError(role, name, f"{role}[{name!r}] of shape {shape}, which could be {options}", line, more=fixed)


def _require_rotating(inputs: Mapping[str, Any], known: Mapping[str, Representation]) -> None:
    for name, value in inputs.items():
        if could_be_field(value) and name not in known:
            raise unclear("inputs", name, tuple(value.shape))
    raise EquivProbeError(
        f"inputs {sorted(inputs)}, none of which rotates",
        "at least one input with positions or vectors, or a voxel grid (B, C, D, H, W)",
        'ep.Schema(inputs={"<name>": ep.point}, outputs={...})',
    )
