"""Coordinates that a network sees beside the inputs of its call: in an attribute, in what its functions name.

Whoever sets ``network.context = positions`` before a call, or lets it read a variable, shows it an orientation that
does not rotate with the inputs. Beside inputs of which it makes invariants, such a network looks equivariant.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.orbit.controls import nudge
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.hidden_coordinates import Evidence, readable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from equiv_probe.live.dependence import Passes

DEEPEST = 4
"""Objects and containers within each other."""
LARGEST = 64
"""Entries beyond which a container is taken for data."""
SIZE = 0.3
"""Of the displacement that shows whether outputs depend on a tensor."""


def coordinates_beside(passes: Passes) -> dict[str, str]:
    """Tensors beside a call's inputs that hold its coordinates and that its outputs depend on: what they are."""
    live, call = passes.live, passes.call
    evidence = Evidence(call.inputs, live.known_schema.inputs)
    held = list(_beside(live.network))
    found = {name: (one, what) for name, one in held if (what := evidence.of("", one)) is not None}
    if not found:
        return {}
    rotation = haar(1, torch.Generator().manual_seed(3)).to(next(iter(found.values()))[0].device)
    rotated = live.structures(call.inputs).rotate(call.inputs, live.known_schema, rotation)
    during: dict[str, Tensor] = {}
    live.copies.on_output = lambda _: during.update(_beside(live.network))
    try:
        passes.at({name: value[0] for name, value in rotated.items()})
    finally:
        live.copies.on_output = None
    # What a pass writes there itself goes with its inputs.
    stale = {name: what for name, (one, what) in found.items() if _is_same(one, during.get(name))}
    return {name: str(what) for name, what in stale.items() if _matters(passes, found[name][0])}


def _matters(passes: Passes, tensor: Tensor) -> bool:
    """Whether outputs change where a tensor is displaced, in place and back again; the inputs are given apart."""
    inputs = {n: v.detach().clone() for n, v in passes.call.inputs.items() if isinstance(v, torch.Tensor)}
    before = tensor.detach().clone()
    try:
        tensor.data.add_(nudge(before, torch.Generator().manual_seed(0), SIZE).to(before))
        other = passes.at(inputs)
    except RuntimeError:  # of inference mode, or expanded
        return False
    finally:
        if not torch.equal(tensor.detach(), before):
            tensor.data.copy_(before)
    return any(value.shape == other[n].shape and not torch.equal(value, other[n]) for n, value in passes.own.items())


def _is_same(before: Tensor, now: Tensor | None) -> bool:
    return now is before or (now is not None and now.shape == before.shape and torch.equal(now, before))


def _beside(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Floating tensors with rows that a network's modules hold, parameters and buffers aside, by name."""
    seen: set[int] = set()
    for path, module in network.named_modules():
        for name, value in list(vars(module).items()):
            if name.startswith("_") and isinstance(value, dict):  # what belongs to the network, modules, hooks
                continue
            yield from _tensors(f"{path}.{name}".lstrip("."), value, seen, 0)


def _tensors(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if id(value) in seen or depth > DEEPEST or isinstance(value, (nn.Module, nn.Parameter, type, types.ModuleType)):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if readable(value) and value.ndim > 1:
            yield name, value
        return
    for of, one in _entries(name, value):
        yield from _tensors(of, one, seen, depth + 1)


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a container, a function's variables or an object hold."""
    if isinstance(value, (dict, list, tuple)):
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        yield from ((f"{name}[{key!r}]", one) for key, one in (entries if len(entries) <= LARGEST else ()))
    elif isinstance(value, types.FunctionType):
        yield from zip(value.__code__.co_freevars, map(_held, value.__closure__ or ()), strict=True)
        yield from ((one, value.__globals__[one]) for one in value.__code__.co_names if one in value.__globals__)
    elif isinstance(value, types.MethodType):
        yield name, value.__func__
    else:
        yield from ((f"{name}.{key}", one) for key, one in list(getattr(value, "__dict__", {}).items())[:LARGEST])


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
