"""Whether an output that was taken for an arrow is a place: it moves along when the structure is moved.

>>> import torch, equiv_probe as ep
>>> inputs = {"x": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}
>>> def coordinates(values):  # like an EGNN: new coordinates, not displacements
...     return {"0": 2 * values["x"] - values["x"].mean(0)}
>>> guessed = ep.Schema.infer(inputs, coordinates(inputs))
>>> print(guessed.outputs["0"], settled(guessed, inputs, coordinates).outputs["0"])
vector point
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.representations.representation import point, vector
from equiv_probe.schema.output_inference import BY_SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Named, Schema

CLEAR = 0.05
"""Part of the shift by which an output may miss it, on average, and still have moved along."""


def undecided(schema: Schema) -> list[str]:
    """The outputs that are arrows by their shape alone, where inputs are places; empty where none is."""
    if not any(rep.is_affine for rep in schema.inputs.values()):
        return []
    by_shape = [one for one in schema.assumptions if one.role == "outputs" and one.reason.startswith(BY_SHAPE)]
    return [one.name for one in by_shape if schema.outputs[one.name] == vector]


def settled(schema: Schema, inputs: Named, evaluate: Callable[[Named], Mapping[str, Any]]) -> Schema:
    """The schema, with outputs as points that move along with a structure; two evaluations where that is undecided.

    ``evaluate`` gives outputs by name, from the same random state each time. The schema stays as it is where the
    outputs do what neither places nor arrows do.
    """
    names = undecided(schema)
    if not names:
        return schema
    places = {
        name: rep
        for name, rep in schema.inputs.items()
        if rep.is_affine and isinstance(inputs.get(name), torch.Tensor) and inputs[name].device.type != "meta"
    }
    if not places:
        return schema
    first = next(iter(places))
    _, shift = shift_of(places[first].places(inputs[first]).detach())
    moved = {name: rep.translate(inputs[name].detach(), shift) for name, rep in places.items()}
    here, there = evaluate(inputs), evaluate({**inputs, **moved})
    found = [name for name in names if _moves_along(here.get(name), there.get(name), shift)]
    if not found:
        return schema
    why = "it moves along when the structure is moved: a place"
    assumptions = [
        replace(one, representation=point, reason=why) if one.role == "outputs" and one.name in found else one
        for one in schema.assumptions
    ]
    return replace(schema, outputs={**schema.outputs, **dict.fromkeys(found, point)}, assumptions=tuple(assumptions))


def shift_of(points: Tensor) -> tuple[float, Tensor]:
    """How far points ``(..., 3)`` are spread, and a vector ``(3,)`` longer than that, to move them by."""
    spread = points.double().flatten(0, -2).std(0, unbiased=False).nan_to_num().norm()
    direction = torch.tensor([0.61, -0.47, 0.64], dtype=torch.float64, device=spread.device)
    return float(spread), direction * (1.0 + float(spread))


def _moves_along(here: Any, there: Any, shift: Tensor) -> bool:
    if not (isinstance(here, torch.Tensor) and isinstance(there, torch.Tensor)) or here.shape != there.shape:
        return False
    moved = (there.detach() - here.detach()).double() - shift.to(here.device)
    return bool(moved.norm(dim=-1).mean() <= CLEAR * shift.norm())
