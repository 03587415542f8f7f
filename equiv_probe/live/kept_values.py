"""Single places that can be written into, and what they held: containers, variables, tensors and arrays."""

from __future__ import annotations

import array
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from equiv_probe.representations.voxel_rotations import at_hand

if TYPE_CHECKING:
    import types

LARGEST = 2**22
"""Numbers in a tensor beyond which it is taken for a data set: not copied, only watched."""
COMPARED = 2**18
"""Numbers up to which a tensor on the CPU is compared, since its version does not show what is written past torch."""


_BYTES = (bytearray, array.array)
WRITABLE = (list, dict, set, deque, *_BYTES)
"""Containers that can be written into."""


class Place(Protocol):
    """Something that can be written into."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def now(self) -> Place:
        """The same place, and what it holds now."""
        ...

    def changes(self) -> list[str]:
        """Names of what it holds that is not what it was, as far as that shows without waiting for a device."""
        ...

    def put_back(self, *, surely: bool = False) -> None:
        """Let it hold again what it held; surely, also where nothing shows that it was written to."""
        ...


@dataclass(frozen=True)
class Contents:
    """A container, or the globals of a module.

    Attributes:
        name: for messages.
        container: list, dict, set, deque or array of bytes.
        held: a shallow copy.
        only: keys of a dict that matter; None for all.
    """

    name: str
    container: Any
    held: Any
    only: frozenset[str] | None = None

    @classmethod
    def of(cls, name: str, container: Any, only: frozenset[str] | None = None) -> Contents:
        """A container and what it holds now."""
        return cls(name, container, _shallow(container, only), only)

    def now(self) -> Contents:
        """See :class:`Place`."""
        return replace(self, held=_shallow(self.container, self.only))

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        here, held = _shallow(self.container, self.only), self.held
        if isinstance(here, dict):
            keys = [key for key in {**here, **held} if here.get(key, here) is not held.get(key, held)]
            moved = not keys and self.only is None and list(here) != list(held)
            return [self.name] if moved else [f"{self.name}[{shown(key)}]" if self.name else str(key) for key in keys]
        if isinstance(here, set):
            return [self.name] if here != held else []
        same = len(here) == len(held) and all(a is b for a, b in zip(here, held, strict=True))
        return [] if same or (isinstance(self.container, _BYTES) and here == held) else [self.name]

    def put_back(self, *, surely: bool = False) -> None:
        """See :class:`Place`."""
        del surely
        if not self.changes():
            return
        if self.only is not None:
            for key in self.only & set(self.container):
                del self.container[key]
            self.container.update(self.held)
        elif isinstance(self.container, _BYTES):
            self.container[:] = self.held
        else:
            # By the methods of the kind itself: a class of the user's own may do more in its.
            kind: Any = next(one for one in (OrderedDict, *WRITABLE) if isinstance(self.container, one))
            kind.clear(self.container)
            (kind.extend if kind in {list, deque} else kind.update)(self.container, self.held)


def shown(key: Any) -> str:
    """A key in a message: others than these may be anything, and large."""
    return repr(key) if isinstance(key, (str, int, float)) else type(key).__name__


def _shallow(container: Any, only: frozenset[str] | None) -> Any:
    if isinstance(container, dict):
        return {key: value for key, value in container.items() if only is None or key in only}
    if isinstance(container, _BYTES):
        return container[:]
    return set(container) if isinstance(container, set) else list(container)


class Cell:
    """A variable of a closure.

    Args:
        name: of the variable.
        cell: that holds it.
    """

    def __init__(self, name: str, cell: types.CellType) -> None:
        self.name, self.cell = name, cell
        self.held: tuple[Any, ...] = self._contents()

    def _contents(self) -> tuple[Any, ...]:
        try:
            return (self.cell.cell_contents,)
        except ValueError:  # not assigned yet
            return ()

    def now(self) -> Cell:
        """See :class:`Place`."""
        return Cell(self.name, self.cell)

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        here = self._contents()
        same = len(here) == len(self.held) and all(a is b for a, b in zip(here, self.held, strict=True))
        return [] if same else [self.name]

    def put_back(self, *, surely: bool = False) -> None:
        """See :class:`Place`."""
        del surely
        if self.held:
            self.cell.cell_contents = self.held[0]
        elif self._contents():
            del self.cell.cell_contents


@dataclass(frozen=True)
class Numbers:
    """A tensor or an array.

    Attributes:
        name: for messages.
        value: the thing itself.
        copy: of its numbers; None for one that is only watched.
        version: how often the tensor had been written to; None where torch does not count.
    """

    name: str
    value: Any
    copy: Any
    version: int | None

    @staticmethod
    def keeps(value: Any) -> bool:
        """Whether a tensor or an array can be put back."""
        if isinstance(value, np.ndarray):
            return bool(value.flags.writeable) and value.dtype != object and value.size <= LARGEST
        plain = value.layout == torch.strided and not value.is_meta
        if not plain or torch._C._functorch.is_functorch_wrapped_tensor(value):
            return False
        # FSDP takes away what a gathered weight lies in, and its like: numbers that are not there must not be read.
        if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return False
        return bool(value.untyped_storage().nbytes() >= value.element_size() * _reach(value))

    @classmethod
    def of(cls, name: str, value: Any) -> Numbers:
        """A tensor or an array and its numbers now."""
        if isinstance(value, np.ndarray):
            return cls(name, value, value.copy(), None)
        version = None if value.is_inference() else value._version
        with torch.inference_mode(False), torch.no_grad():
            copy = value.detach().clone() if value.numel() <= LARGEST else None
        return cls(name, value, copy, version)

    def now(self) -> Numbers:
        """See :class:`Place`."""
        return Numbers.of(self.name, self.value)

    def changes(self) -> list[str]:
        """See :class:`Place`."""
        return [self.name] if self._written() else []

    def _written(self) -> bool:
        if isinstance(self.value, np.ndarray):
            return not np.array_equal(self.value, self.copy, equal_nan=self.value.dtype.kind in "fc")
        if self.version is not None and self.value._version != self.version:
            return True
        return self._at_hand and not same(self.value, self.copy)

    @property
    def _at_hand(self) -> bool:
        """Whether it is compared in no time."""
        return self.copy is not None and at_hand(self.value) and self.value.numel() <= COMPARED

    @property
    def lost(self) -> bool:
        """Whether it was written to, and nobody knows what it held."""
        return self.copy is None and self._written()

    def put_back(self, *, surely: bool = False) -> None:
        """See :class:`Place`."""
        if self.copy is None or self.value.shape != self.copy.shape:
            return
        if isinstance(self.value, np.ndarray):
            self.value[...] = self.copy
            return
        known = self._at_hand or (self.version is not None and not surely)
        if known and not self._written():
            return
        with torch.inference_mode(self.value.is_inference()), torch.no_grad():
            self.value.detach().copy_(self.copy, non_blocking=True)
        if self.version is not None:
            _set_version(self.value, self.version)


def _reach(value: Tensor) -> int:
    """Numbers of its storage up to the last one that a tensor shows."""
    if not value.numel():
        return 0
    steps = zip(value.shape, value.stride(), strict=True)
    return int(value.storage_offset()) + 1 + sum((size - 1) * stride for size, stride in steps)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN the same as NaN."""
    return a.shape == b.shape and bool(torch.equal(a.detach(), b) or ((a == b) | (a.isnan() & b.isnan())).all())


def _set_version(value: Tensor, version: int) -> None:
    """Let a tensor whose numbers are what they were count as not written to: graphs that have saved it are true."""
    setter: Any = torch._C._autograd._unsafe_set_version_counter
    try:
        setter((value,), (version,))
    except TypeError:  # before torch 2.5
        setter(value, version)
