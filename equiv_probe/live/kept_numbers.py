"""Tensors and arrays that can be written into, and the numbers that they held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equiv_probe.representations.voxel_rotations import at_hand

LARGEST = 2**22
"""Numbers in a tensor beyond which it is taken for a data set: not copied, only watched."""
COMPARED = 2**18
"""Numbers up to which a tensor on the CPU is compared, since its version does not show what is written past torch."""


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

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`Place`."""
        if self.copy is None or self.value.shape != self.copy.shape:
            return True
        if isinstance(self.value, np.ndarray):
            self.value[...] = self.copy
            return True
        known = self._at_hand or (self.version is not None and not surely)
        if known and not self._written():
            return True
        with torch.inference_mode(self.value.is_inference()), torch.no_grad():
            self.value.detach().copy_(self.copy, non_blocking=True)
        if self.version is not None:
            _set_version(self.value, self.version)
        return True


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
