"""Errors about tensors that could be several things: each shows the line of a schema that says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.schema.grid_inference import could_be_field, unclear
from equiv_probe.schema.undeclared import UndeclaredError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation


def ambiguous(role: str, name: str, value: Tensor, points: list[Tensor]) -> UndeclaredError:
    """What could be several things, with the lines that say which; the likeliest first."""
    shape = tuple(value.shape)
    # Where nothing else of the inputs has a place, it is in here: cat([loc, vel], 1).
    of_atoms = any(shape[:-1] == tuple(one.shape[:-1]) for one in points) or (role == "inputs" and not points)
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


def require_rotating(inputs: Mapping[str, Any], known: Mapping[str, Representation]) -> None:
    """Raise EquivProbeError about inputs of which none rotates, as far as is known."""
    for name, value in inputs.items():
        if could_be_field(value) and name not in known:
            raise unclear("inputs", name, tuple(value.shape))
    raise EquivProbeError(
        f"inputs {sorted(inputs)}, none of which rotates",
        "at least one input with positions or vectors, or a voxel grid (B, C, D, H, W)",
        'ep.Schema(inputs={"<name>": ep.point}, outputs={...})',
    )


def possibly_fractional(what: str, name: str) -> UndeclaredError:
    """Coordinates beside a cell that may be in units of its vectors."""
    return UndeclaredError("inputs", name, what, "ep.fixed", more=" for fractional coordinates, ep.point for positions")
