"""Coordinates that a model sees beside its inputs: in an attribute, in a variable that its code names.

Whoever sets ``network.context = positions`` before a call, or computes the vectors of edges outside of the function
that is measured, shows the model an orientation that does not rotate with its inputs. Beside inputs of which it makes
invariants, such a model looks equivariant.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.schema.column_relations import SAME
from equiv_probe.schema.hidden_coordinates import Evidence, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation

DEEPEST = 4
"""Objects and containers within each other."""
LARGEST = 64
"""Entries beyond which a container is taken for data."""
FEWEST, MOST = 4, 128
"""Places and rows that are compared."""
SIZE = 0.3
"""Of the displacement that shows whether outputs depend on a tensor, relative to the spread of its numbers."""


def coordinates_in(
    held: Mapping[str, Tensor], inputs: Mapping[str, Any], known: Mapping[str, Representation]
) -> dict[str, str]:
    """Which tensors of a model are made of the coordinates among its inputs, by name, and what they are."""
    apart_from = {name: f"beside.{name}" if name in inputs else name for name in held}  # a variable called pos too
    evidence = Evidence({**{apart_from[name]: value for name, value in held.items()}, **inputs}, known)
    read = {name: value for name, value in held.items() if readable(value)}
    seen = {name: evidence.of(apart_from[name], value, alone=False) for name, value in read.items()}
    found = {name: str(what) for name, what in seen.items() if what is not None}
    points = [inputs[n] for n, rep in known.items() if rep.is_affine and readable(inputs.get(n))]
    apart = [name for name, value in read.items() if any(_are_differences(value, one) for one in points)]
    return {**dict.fromkeys(apart, "differences of places"), **found}


def _are_differences(value: Tensor, points: Tensor) -> bool:
    """Whether every row ``(..., 3)`` is the difference of two places of a structure, which edges nobody named tell."""
    if value.shape[-1] != 3 or points.shape[-1] != 3 or not FEWEST <= points.shape[-2] <= MOST:
        return False
    places = points.detach().reshape(-1, *points.shape[-2:])[0].cpu().double()
    flat = value.detach().reshape(-1, 3)
    rows = flat[:: 1 + len(flat) // MOST].cpu().double()
    pairs = (places[:, None] - places).reshape(-1, 3)
    gaps = torch.cdist(rows, pairs).amin(1) if len(rows) >= FEWEST else rows.new_ones(1)
    return bool((gaps <= SAME * pairs.abs().max()).all() & (rows.norm(dim=1).max() > 0))


def matters(tensor: Tensor, evaluate: Callable[[], Mapping[str, Tensor]]) -> bool:
    """Whether outputs change where a tensor is displaced, in place and back again; they must not get it as an input."""
    own, before = evaluate(), tensor.detach().clone()
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(before)
    try:
        tensor.data.add_(SIZE * before.std(unbiased=False).clamp_min(1e-6) * noise)
        other = evaluate()
    except RuntimeError:  # of inference mode, or expanded
        return False
    finally:
        if not torch.equal(tensor.detach(), before):
            tensor.data.copy_(before)
    return any(own[name].shape == v.shape and not torch.equal(own[name], v) for name, v in other.items())


def same(before: Tensor, now: Tensor | None) -> bool:
    """Whether a tensor is still there, and what it was."""
    return now is before or (now is not None and now.shape == before.shape and torch.equal(now, before))


def tensors_beside(model: Any) -> dict[str, Tensor]:
    """Tensors with rows that a model holds or names in its code, parameters and buffers aside, by name."""
    return dict(_tensors("", model, set(), 0))


def _tensors(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if id(value) in seen or depth > DEEPEST or isinstance(value, (nn.Parameter, type, types.ModuleType)):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if value.ndim > 1 and value.device.type != "meta":
            yield name, value
        return
    for of, one in _entries(name, value):
        yield from _tensors(of, one, seen, depth + 1)


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a container, a function's variables, the modules of a network or an object hold."""
    if isinstance(value, (dict, list, tuple)):
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        yield from ((f"{name}[{key!r}]", one) for key, one in (entries if len(entries) <= LARGEST else ()))
    elif isinstance(value, types.FunctionType):
        yield from zip(value.__code__.co_freevars, map(_held, value.__closure__ or ()), strict=True)
        yield from ((one, value.__globals__[one]) for one in value.__code__.co_names if one in value.__globals__)
    elif isinstance(value, functools.partial):
        yield from ((name, one) for one in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, types.MethodType):
        yield from ((name, value.__func__), (name, value.__self__))
    elif isinstance(value, nn.Module):
        for path, module in value.named_modules():
            for key, one in list(vars(module).items()):
                if not (key.startswith("_") and isinstance(one, dict)):  # what belongs to it, modules, hooks
                    yield ".".join(filter(None, (name, path, key))), one
    else:
        yield from ((f"{name}.{key}", one) for key, one in list(getattr(value, "__dict__", {}).items())[:LARGEST])


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
