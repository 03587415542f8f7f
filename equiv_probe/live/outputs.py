"""What a network puts out, as tensors by name, and back to its own containers: to any depth of named ones.

>>> raw = {"out": {"energy": 1.0, "forces": 2.0}, "hidden": (3.0, 4.0)}
>>> all_outputs(raw)
{'out.energy': 1.0, 'out.forces': 2.0, 'hidden': (3.0, 4.0)}
>>> write_outputs(raw, {"out.forces": 7.0}, [])
{'out': {'energy': 1.0, 'forces': 7.0}, 'hidden': (3.0, 4.0)}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.nested import Tree, attributes, entries, is_graph, tree_of, written
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.representations.fixed import Fixed
from equiv_probe.schema.schema import named
from equiv_probe.schema.usual_names import CELLS, joined_matrices, plain, usual

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from equiv_probe.schema.schema import Named, Schema


def read_outputs(raw: Any, schema: Schema) -> dict[str, Tensor]:
    """The outputs that the schema names, as the model gave them.

    Raises:
        EquivProbeError: one is missing, or is not a tensor.
    """
    values = all_outputs(raw, list(schema.outputs))
    missing = [name for name in schema.outputs if not isinstance(values.get(name), torch.Tensor)]
    if missing:
        known = {
            n: "" if isinstance(v, torch.Tensor) else f" ({type(v).__name__}, no tensor)" for n, v in values.items()
        }
        raise EquivProbeError(
            f"outputs {sorted(n + kind for n, kind in known.items())}",
            f"the schema's outputs {missing}",
            'ep.Schema(outputs={"<name>": ...})',
        )
    return {name: values[name] for name in schema.outputs}


def all_outputs(raw: Any, names: list[str] | None = None, *, joined: bool = False) -> Named:
    """A tensor, tuple, mapping, dataclass or graph as values by name.

    Args:
        raw: the output of a network. Stresses ``(3B, 3)`` of a batch are shown as ``(B, 3, 3)``.
        names: for the places of a tuple. Of these, lists with a tensor for each structure are shown as one.
        joined: show all such lists as one.
    """
    _, leaves = _read(raw, names)
    return {name: _shown(name, value, joined=joined or name in (names or ())) for name, value in leaves.items()}


def new_outputs(raw: Any, inputs: Mapping[str, Any], names: list[str] | None) -> Named:
    """The values of an output; of a graph that came back, those that were not given, and have a usual name.

    Args:
        raw: the output of a network.
        inputs: of the call, by name.
        names: as for :func:`all_outputs`; those that are declared.

    Raises:
        EquivProbeError: nothing in a graph is an output.
    """
    values = all_outputs(raw, names or _with_stresses(raw, inputs))
    if not is_graph(raw):
        return values
    found = {n: v for n, v in values.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    known = {n: usual(n, tuple(v.shape)) for n, v in found.items() if n not in inputs}
    fresh = {n: found[n] for n, rep in known.items() if rep is not None and not isinstance(rep, Fixed)}
    declared = {n: values[n] for n in names or () if n in values}
    if not (fresh or declared):
        raise EquivProbeError(
            f"a {type(raw).__name__} that came back, with nothing new in it by a usual name of an output",
            "outputs of the network among its attributes",
            'ep.Schema(outputs={"<attribute>": ...}), or probe a module inside that gives tensors',
        )
    return {**fresh, **declared}


def _with_stresses(raw: Any, inputs: Mapping[str, Any]) -> list[str] | None:
    """Names for the places of a tuple that holds ``(3B, 3)`` beside B cells, which is a stress; None for others."""
    if not isinstance(raw, tuple) or hasattr(raw, "_fields") or not all(isinstance(v, torch.Tensor) for v in raw):
        return None
    given = [(plain(name), value.shape) for name, value in inputs.items() if isinstance(value, torch.Tensor)]
    cells = {shape[0] for name, shape in given if name in CELLS and len(shape) == 3}
    rows = {shape[0] for name, shape in given if name not in CELLS and shape}
    found = [v.ndim == 2 and v.shape[1] == 3 and len(v) // 3 in cells and len(v) not in rows for v in raw]
    if sum(found) != 1:
        return None
    return ["stress" if is_stress else str(place) for place, is_stress in enumerate(found)]


def write_outputs(raw: Any, values: Mapping[str, Any], names: list[str]) -> Any:
    """A copy of a model's output with some values replaced; ``names`` as for :func:`all_outputs`."""
    tree, leaves = _read(raw, names)
    made = {n: _as_given(leaves[n], value, n) for n, value in values.items() if n in leaves}
    return written(tree, {**leaves, **made})


def _read(raw: Any, names: list[str] | None) -> tuple[Tree, Named]:
    """What an output is made of, and its values by name, as they are."""
    leaves: Named = {}

    def entries_of(value: Any) -> Mapping[Any, Any] | None:
        is_plain = isinstance(value, (list, tuple)) and not hasattr(value, "_fields")
        return None if is_plain or is_graph(raw) else _entries(value)

    found = _entries(raw)
    if found is None:
        return tree_of(raw, next(iter(named(raw, names))), entries_of, leaves), leaves
    labels = _labels(raw, found, names)
    return Tree(raw, {key: tree_of(found[key], name, entries_of, leaves) for key, name in labels.items()}), leaves


def _labels(raw: Any, found: Mapping[Any, Any], names: list[str] | None) -> dict[Any, str]:
    """The names of an output's entries: those that were given for a tuple, its fields, or its places."""
    if not isinstance(raw, (tuple, list)):
        return {key: str(key) for key in found}
    if names and len(names) == len(found):
        return dict(zip(found, names, strict=True))
    by_place = names and all(name.isdigit() for name in names)
    return {key: str(place) if by_place else str(key) for place, key in enumerate(found)}


def _entries(raw: Any) -> dict[Any, Any] | None:
    """What is in an output by key, field or place; None of what is no container."""
    if is_graph(raw):
        return attributes(raw)
    return entries(raw)


def _shown(name: str, value: Any, *, joined: bool) -> Any:
    """A value as it is rotated: matrices one below the other by structures, and a list of tensors as one."""
    if isinstance(value, torch.Tensor):
        return value.reshape(-1, 3, 3) if joined_matrices(name, tuple(value.shape)) else value
    is_list = joined and isinstance(value, (list, tuple)) and value and all(isinstance(v, torch.Tensor) for v in value)
    if not is_list or len({one.shape[1:] for one in value}) > 1 or len({one.ndim for one in value}) > 1:
        return value
    return put_together(value)


def put_together(parts: Sequence[Tensor]) -> Tensor:
    """The tensors of several structures as one: rows below rows, matrices and numbers along a new axis."""
    return torch.stack(list(parts)) if of_wholes(parts) else torch.cat(list(parts))


def split_as(value: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Undo :func:`put_together`, for tensors of the lengths of others."""
    parts: Sequence[Tensor] = value.unbind(0) if of_wholes(like) else torch.split(value, [len(one) for one in like])
    return parts


def of_wholes(values: Sequence[Tensor]) -> bool:
    """Whether a list's tensors belong to structures as wholes: numbers and matrices, rather than rows of atoms."""
    return values[0].ndim == 0 or all(one.shape == (3, 3) for one in values)


def _as_given(given: Any, value: Any, name: str) -> Any:
    """A value in the form in which the network gave it."""
    if isinstance(given, torch.Tensor):
        if isinstance(value, torch.Tensor) and joined_matrices(name, tuple(given.shape)):
            value = value.reshape(given.shape)
        return laid_out_as(value, given)
    if isinstance(given, (list, tuple)) and isinstance(value, torch.Tensor):
        return type(given)(split_as(value, given))
    return value
