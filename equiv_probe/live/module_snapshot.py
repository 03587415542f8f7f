"""Modules as they were before a step: in place again for every further run of it, as copies that it may write into."""

from __future__ import annotations

import functools
from collections import deque
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.live.data_objects import FRAMEWORKS, HOLDING, LIBRARIES, is_data, is_of_the_user, package_of
from equiv_probe.live.held_by_modules import INTERNAL, Held, all_of
from equiv_probe.live.isolation import isolated
from equiv_probe.live.kept_attributes import is_plain
from equiv_probe.live.kept_numbers import COMPARED, same
from equiv_probe.live.memory import Memory
from equiv_probe.live.positions import Position
from equiv_probe.live.unrepeatable import is_watched
from equiv_probe.live.wrappers import sharded
from equiv_probe.representations.voxel_rotations import at_hand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_UNNOTICED: set[int] = set()
"""Networks of which what they write is being put back."""
MANY = 256
"""Entries of a container that are looked at."""
_APART = INTERNAL - {"training"}


class ModuleSnapshot:
    """What the attributes and buffers of modules hold now.

    Args:
        modules: to remember, with all that is inside them.
        apart: objects in their attributes that somebody else takes care of.
    """

    def __init__(self, modules: Iterable[nn.Module], apart: Iterable[object] = ()) -> None:
        self._apart = {id(one): one for one in apart}
        self._modules, _ = all_of(modules)
        self._spread = sharded(self._modules)
        self._now = [Held.by(module, spread=self._spread, apart=_APART) for module in self._modules]
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
            here, kind = Held.by(module, spread=self._spread, apart=_APART), type(module).__name__
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
            objects = written_by(all_of((network,))[0])
            stack.callback(objects.restore, surely=True)
            _UNNOTICED.add(id(network))
            stack.callback(_UNNOTICED.discard, id(network))
        stack.enter_context(isolated(network, contents=True))
        yield
