"""What modules hold of their own, as copies that a step may write into, and how it is put back."""

from __future__ import annotations

import array
import copy
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from equiv_probe.live.wrappers import classes_of_sharding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping


INTERNAL = frozenset(vars(nn.Module()))
"""Parameters, buffers, submodules and hooks, which are kept otherwise."""

_WRITABLE = (Tensor, np.ndarray, list, dict, set, deque, bytearray, array.array)


def lend(modules: list[nn.Module], buffers: Mapping[int, Tensor], apart: Iterable[object] = ()) -> None:
    """Put copies in the place of what the attributes of modules hold; who kept the originals puts them back.

    Things that are held in several places are copied once, so that they are still the same thing. Containers inside
    containers are copied, too; parameters, modules and all other objects in them are not.

    Args:
        modules: whose attributes are replaced.
        buffers: the clones that already stand for buffers, by ``id`` of the buffer.
        apart: objects that somebody else takes care of, and that must stay the same.
    """
    known: dict[int, Any] = {**buffers, **{id(one): one for one in apart}}
    for module in modules:
        here = vars(module)
        for name in [name for name in here if name not in INTERNAL]:
            here[name] = copied(here[name], known)


def copied(value: Any, known: dict[int, Any]) -> Any:
    """A copy of something that can be written into, with copies of these in it; anything else itself.

    Args:
        value: to copy.
        known: copies by ``id`` of the original, to be filled.
    """
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Tensor):
        if value.requires_grad and value.grad_fn is None:
            return value  # parameters and inputs: a step may differentiate by them, and torch lets nobody write there
        # A total within the user's graph stays part of it, and its own memory is not written to.
        with torch.inference_mode(False), torch.enable_grad():
            made: Any = value.clone()
    elif isinstance(value, np.ndarray):
        made = value.copy()
    elif isinstance(value, _WRITABLE):
        made = copy.copy(value)
    else:
        return value
    known[id(value)] = made
    if isinstance(made, (list, dict, deque)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for place, entry in [(place, entry) for place, entry in pairs if isinstance(entry, _WRITABLE)]:
            made[place] = copied(entry, known)
    return made


def held(module: nn.Module) -> Iterator[nn.Module]:
    """Modules in the plain containers of a module, which torch does not know as its children: metrics in a dict."""
    left = [value for name, value in vars(module).items() if name not in INTERNAL]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, (list, tuple, dict, set, deque)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(iter(value.values() if isinstance(value, dict) else value))  # some tuples have no length


@dataclass(frozen=True)
class Held:
    """What a module holds of its own.

    Attributes:
        attributes: by name.
        buffers: by name.
        parameters: by name; None where FSDP minds them, which puts its own in their place.
        apart: names of attributes that are not among these, and stay what they are.
    """

    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]
    parameters: dict[str, nn.Parameter | None] | None
    apart: Collection[str] = ()

    @classmethod
    def by(cls, module: nn.Module, *, spread: bool, apart: Collection[str] = ()) -> Held:
        """What a module holds now; where FSDP spreads its network, without what that minds itself."""
        attributes = {name: value for name, value in _attributes(module, spread=spread).items() if name not in apart}
        return cls(attributes, dict(module._buffers), None if spread else dict(module._parameters), apart)

    def copied(self, known: dict[int, Any]) -> Held:
        """Copies of all that can be written into, but parameters; ``known`` as for :func:`copied`."""
        for buffer in self.buffers.values():
            if buffer is not None and id(buffer) not in known:
                with torch.inference_mode(False), torch.no_grad():
                    known[id(buffer)] = buffer.detach().clone()
        buffers = {name: None if buffer is None else known[id(buffer)] for name, buffer in self.buffers.items()}
        attributes = {name: copied(value, known) for name, value in self.attributes.items()}
        return Held(attributes, buffers, None if self.parameters is None else dict(self.parameters), self.apart)

    def put_into(self, module: nn.Module) -> None:
        """Let a module hold this, the very same objects."""
        here = vars(module)
        for name in _attributes(module, spread=self.parameters is None):
            if name not in self.apart and name not in self.attributes:
                del here[name]
        here.update(self.attributes)
        for container, contents in ((module._buffers, self.buffers), (module._parameters, self.parameters)):
            if contents is not None:
                container.clear()
                container.update(contents)  # type: ignore[arg-type]


def _attributes(module: nn.Module, *, spread: bool) -> dict[str, Any]:
    """What a module's attributes hold, but for what FSDP minds itself where it spreads their network."""
    if not spread:
        return dict(vars(module))
    own = isinstance(module, classes_of_sharding("FullyShardedDataParallel"))
    return {n: v for n, v in vars(module).items() if n == "training" or not (own or isinstance(v, torch.Tensor))}


def all_of(modules: Iterable[nn.Module], *, contained: bool = True) -> tuple[list[nn.Module], list[nn.Module]]:
    """Modules and all that is inside them, each once and without compiled wrappers: plain ones, and scripted ones.

    Args:
        modules: to begin with.
        contained: those in their plain containers too.
    """
    unique: dict[int, nn.Module] = {}
    roots = list(modules)
    while roots:
        fresh = {id(m): m for m in roots.pop().modules() if id(m) not in unique}
        unique.update(fresh)
        if contained:
            roots += [one for m in fresh.values() for one in held(m) if id(one) not in unique]
    found = [m for m in unique.values() if not hasattr(m, "_orig_mod")]
    kinds: tuple[list[nn.Module], list[nn.Module]] = ([], [])
    for module in found:
        kinds[isinstance(module, torch.jit.ScriptModule)].append(module)
    return kinds
