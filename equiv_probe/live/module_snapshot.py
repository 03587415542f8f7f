"""Modules as they were before a step: in place again for every further run of it, as copies that it may write into."""

from __future__ import annotations

import functools
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.contents import INTERNAL, copied
from equiv_probe.live.contents import held as held_in_containers
from equiv_probe.live.data_objects import FRAMEWORKS, HOLDING, LIBRARIES, is_data, is_of_the_user, package_of
from equiv_probe.live.isolation import attributes_of, isolated
from equiv_probe.live.kept_attributes import is_plain
from equiv_probe.live.kept_numbers import COMPARED, same
from equiv_probe.live.memory import Memory
from equiv_probe.live.unrepeatable import Position, is_watched
from equiv_probe.live.wrappers import sharded
from equiv_probe.representations.voxel_rotations import at_hand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

_UNNOTICED: set[int] = set()
"""Networks of which what they write is being put back."""
MANY = 256
"""Entries of a container that are looked at."""


@dataclass(frozen=True)
class _Held:
    """What a module holds of its own."""

    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]
    parameters: dict[str, nn.Parameter | None] | None

    @classmethod
    def by(cls, module: nn.Module, *, spread: bool = False) -> _Held:
        """What a module holds now; without parameters, where FSDP minds them."""
        attributes = {
            name: value for name, value in attributes_of(module, spread=spread).items() if name not in INTERNAL
        }
        parameters = None if spread else dict(module._parameters)
        return cls({**attributes, "training": module.training}, dict(module._buffers), parameters)

    def copied(self, known: dict[int, Any]) -> _Held:
        """Copies of all that can be written into, but parameters."""
        for buffer in self.buffers.values():
            if buffer is not None and id(buffer) not in known:
                with torch.inference_mode(False), torch.no_grad():
                    known[id(buffer)] = buffer.detach().clone()
        buffers = {name: None if buffer is None else known[id(buffer)] for name, buffer in self.buffers.items()}
        attributes = {name: copied(value, known) for name, value in self.attributes.items()}
        return _Held(attributes, buffers, None if self.parameters is None else dict(self.parameters))

    def put_into(self, module: nn.Module) -> None:
        """Let a module hold this."""
        here = vars(module)
        spread = self.parameters is None
        for name in attributes_of(module, spread=spread):
            if name not in INTERNAL and name not in self.attributes:
                del here[name]
        here.update(self.attributes)
        for container, contents in ((module._buffers, self.buffers), (module._parameters, self.parameters)):
            if contents is not None:
                container.clear()
                container.update(contents)  # type: ignore[arg-type]


class ModuleSnapshot:
    """What the attributes and buffers of modules hold now.

    Args:
        modules: to remember, with all that is inside them.
        apart: objects in their attributes that somebody else takes care of.
    """

    def __init__(self, modules: Iterable[nn.Module], apart: Iterable[object] = ()) -> None:
        self._apart = {id(one): one for one in apart}
        self._modules = all_of(modules)
        self._spread = sharded(self._modules)
        self._now = [_Held.by(module, spread=self._spread) for module in self._modules]
        known = dict(self._apart)
        self._saved = [held.copied(known) for held in self._now]
        self.objects = written_by(self._modules)
        """Plain objects that the attributes hold, and what their code names: put back in place."""

    def restore(self) -> None:
        """Let the modules hold what they held, as fresh copies; who keeps what they hold now puts that back."""
        known = dict(self._apart)
        for module, own in zip(self._modules, self._saved, strict=True):
            own.copied(known).put_into(module)
        self.objects.restore()

    @property
    def changes(self) -> list[str]:
        """Names of what modules hold that is not what it was, as far as that shows without waiting for a device."""
        found = list(self.objects.changes)
        for module, own, saved in zip(self._modules, self._now, self._saved, strict=True):
            here, kind = _Held.by(module, spread=self._spread), type(module).__name__
            for name in {**own.attributes, **here.attributes}:
                then, now = own.attributes.get(name, own), here.attributes.get(name, own)
                if now is not then or not _alike(now, saved.attributes[name]):
                    found.append(f"{kind}.{name}")
            written = [name for name, one in here.buffers.items() if not _alike(one, saved.buffers.get(name))]
            found += [f"{kind}.{name}" for name in written]
        return list(dict.fromkeys(found))


def _alike(now: Any, copy: Any) -> bool:
    """Whether something holds what its copy holds; True where only a device could tell."""
    if isinstance(now, torch.Tensor) and isinstance(copy, torch.Tensor):
        seen = at_hand(now) and at_hand(copy) and now.numel() <= COMPARED
        return not seen or same(now, copy)
    if isinstance(now, dict) and isinstance(copy, dict):
        return now.keys() == copy.keys() and all(_alike(now[key], copy[key]) for key in list(now)[:MANY])
    if isinstance(now, (list, deque)) and isinstance(copy, (list, deque)):
        return len(now) == len(copy) and all(_alike(a, b) for a, b in zip(list(now)[:MANY], copy, strict=False))
    return now is copy if isinstance(now, (int, float, str, bool, type(None))) else True


def written_by(modules: Iterable[nn.Module]) -> Memory:
    """What modules write into when they are called: objects in their attributes, and what their code and hooks name.

    Objects are of the packages that the modules are of, or of the user's own.
    """
    modules = list(modules)
    packages = {package_of(module) for module in modules}
    return Memory(_roots(modules, packages), packages=packages - FRAMEWORKS - LIBRARIES)


def _roots(modules: list[nn.Module], packages: set[str]) -> Iterator[tuple[str, Any]]:
    for module in modules:
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks):
            yield from (("", hook) for hook in hooks.values() if _package_of_code(hook) not in FRAMEWORKS)
        if package_of(module) not in FRAMEWORKS | LIBRARIES:
            yield "", type(module).forward
        for name, value in vars(module).items():
            if name in INTERNAL:
                continue
            entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            yield from ((name, one) for one in islice(entries, MANY) if _is_written_into(one, packages))


def _package_of_code(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).partition(".")[0]


def _is_written_into(value: Any, packages: set[str]) -> bool:
    if is_plain(value) or isinstance(value, (nn.Module, torch.Tensor)):
        return False
    package = package_of(value)
    known = package in packages or package in FRAMEWORKS or isinstance(value, HOLDING) or is_of_the_user(package)
    return (known and is_data(value)) or is_watched(value) or Position.keeps(value)


@contextmanager
def unnoticed(network: nn.Module) -> Iterator[None]:
    """A context of passes through a network of which nothing is left that it, or a hook on it, writes anywhere."""
    with ExitStack() as stack:
        if id(network) not in _UNNOTICED:  # passes of one measurement are undone together
            objects = written_by(all_of((network,)))
            stack.callback(objects.restore, surely=True)
            _UNNOTICED.add(id(network))
            stack.callback(_UNNOTICED.discard, id(network))
        stack.enter_context(isolated(network, contents=True))
        yield


def all_of(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules, all that is inside them, and those in their plain containers; each once, without compiled wrappers."""
    unique: dict[int, nn.Module] = {}
    roots = list(modules)
    while roots:
        fresh = {id(m): m for m in roots.pop().modules() if id(m) not in unique}
        unique.update(fresh)
        roots += [one for m in fresh.values() for one in held_in_containers(m) if id(one) not in unique]
    plain = [m for m in unique.values() if not hasattr(m, "_orig_mod")]
    return [m for m in plain if not isinstance(m, torch.jit.ScriptModule)]
