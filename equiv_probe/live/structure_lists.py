"""Calls with a list that holds an object or a dict for each structure, as CHGNet's: read as one batch.

What every structure has is joined by name: matrices ``(3, 3)`` and numbers to ``(B, ...)``, rows of atoms to
``(N, ...)``; lists among the outputs likewise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.adapters import Arguments, CallAdapter, Rebuild
from equiv_probe.live.nested import coordinates_in, entries, holds_coordinates
from equiv_probe.live.outputs import all_outputs, new_outputs, of_wholes, put_together, split_as
from equiv_probe.representations.representation import scalar
from equiv_probe.schema.centers import centroids
from equiv_probe.schema.schema import Schema
from equiv_probe.schema.structures import Structures

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.schema.schema import Named

_LABEL = "<structures>"


@dataclass(frozen=True)
class Joined:
    """How many structures there are, and the tensors of each, by the name under which they are joined."""

    count: int
    parts: Mapping[str, list[Tensor]]

    def owner(self, name: str) -> Tensor | None:
        """The structure of each row of a joined tensor; None of one with an entry for each structure."""
        parts = self.parts[name]
        if of_wholes(parts):
            return None
        lengths = torch.tensor([len(one) for one in parts])
        return torch.repeat_interleave(torch.arange(self.count), lengths).to(parts[0].device)


def structure_list(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
    """The list of structures among the arguments of a call; None where there is none."""
    return next((value for value in (*args, *kwargs.values()) if _is_list(value)), None)


def _is_list(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and not hasattr(value, "_fields") and len(value) > 0
    return is_list and all(_is_structure(one) for one in value)


def _is_structure(value: Any) -> bool:
    if isinstance(value, Mapping) or dataclasses.is_dataclass(value) or isinstance(value, torch.ScriptObject):
        return coordinates_in(entries(value) or {})
    return holds_coordinates(value)


class StructureListAdapter(CallAdapter):
    """Reads a list of structures as a batch."""

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`equiv_probe.live.adapters.Adapter`; what is joined has the attribute's own name."""
        given, rebuild_call = super().split(args, kwargs)
        structures = structure_list(args, kwargs)
        assert structures is not None
        groups = [f"{name}.{place}" for name in _label(given, structures) for place in range(len(structures))]
        ways: dict[str, list[str]] = {}
        for name in [name for name in given if name.startswith(f"{groups[0]}.")]:
            inner = name.removeprefix(f"{groups[0]}.")
            each = [f"{group}.{inner}" for group in groups]
            tensors = [given.get(one) for one in each]
            if all(isinstance(one, torch.Tensor) for one in tensors) and _fit(tensors):
                ways[inner] = each
        parts = {inner: [given[one] for one in each] for inner, each in ways.items()}
        single = {one for each in ways.values() for one in each}
        inputs: Named = {inner: put_together(tensors) for inner, tensors in parts.items()}
        inputs |= {name: value for name, value in given.items() if name not in single}
        inputs[_LABEL] = Joined(len(structures), parts)

        def rebuild(values: Named) -> Arguments:
            made = dict(values)
            for inner, each in ways.items():
                made.update(zip(each, split_as(values[inner], parts[inner]), strict=True))
            return rebuild_call(made)

        return inputs, rebuild

    def infer(self, inputs: Named, raw: Any, declared: Schema | None) -> Schema:
        """See :class:`equiv_probe.live.adapters.Adapter`; lists with an entry for each structure are outputs too."""
        count = inputs[_LABEL].count
        lists = [n for n, v in all_outputs(raw).items() if isinstance(v, (list, tuple)) and len(v) == count]
        known = declared or Schema({}, {})
        outputs = new_outputs(raw, inputs, [*known.outputs, *lists])
        numbers = {n: scalar for n, v in outputs.items() if isinstance(v, torch.Tensor) and v.shape == (count,)}
        numbers = {n: rep for n, rep in numbers.items() if outputs[n].is_floating_point()}
        return Schema.infer(inputs, outputs, dataclasses.replace(known, outputs={**numbers, **known.outputs}))

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures:
        """Which rotation belongs to which entry of the list."""
        joined: Joined = inputs[_LABEL]
        owners = {name: owner for name in joined.parts if (owner := joined.owner(name)) is not None}
        points = next((name for name, rep in schema.inputs.items() if rep.is_affine and name in owners), None)
        if not isinstance(center, str) or center == "origin" or points is None:
            about = None if isinstance(center, str) else center
            return Structures(
                "index", joined.count, index=next(iter(owners.values()), None), owners=owners, center=about
            )
        about = centroids(inputs[points].detach().double(), owners[points], joined.count)
        return Structures("index", joined.count, index=owners[points], owners=owners, center=about)


def _label(given: Named, structures: list[Any]) -> list[str]:
    """What the names of a list's entries begin with, as the only item of a list."""
    last = f".{len(structures) - 1}."
    heads = [name.partition(last)[0] for name in given if last in name]
    return [next(head for head in heads if any(name.startswith(f"{head}.0.") for name in given))]


def _fit(tensors: list[Any]) -> bool:
    """Whether tensors of several structures can be joined."""
    return len({one.ndim for one in tensors}) == 1 and len({one.shape[1:] for one in tensors}) == 1
