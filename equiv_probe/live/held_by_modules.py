"""What modules hold of their own, attributes, buffers and parameters, and how it is put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.contents import copied, held
from equiv_probe.live.wrappers import classes_of_sharding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from torch import Tensor


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
