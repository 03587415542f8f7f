"""The states of all random generators that a step may draw from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.live.generators import put_back, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context; asking does not make one."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class RandomState:
    """The global random states of Python, NumPy, torch on the CPU and torch on every CUDA device in use.

    Attributes:
        own: generators of the user's own, and their states.
    """

    python: object
    numpy: Any
    cpu: Tensor
    cuda: tuple[Tensor, ...]
    own: tuple[tuple[Any, Any], ...] = ()

    @classmethod
    def now(cls, generators: Iterable[Any] = ()) -> RandomState:
        """The present states, and those of generators; a CUDA context is not created for it."""
        cuda = torch.cuda.get_rng_state_all() if cuda_in_use() else []
        own = tuple((one, state_of(one)) for one in generators)
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), tuple(cuda), own)  # noqa: NPY002

    def moved(self, *, numpy: bool = True) -> bool:
        """Whether something has drawn from one of these since; ``numpy`` asks for NumPy's and Python's too."""
        after = RandomState.now(generator for generator, _ in self.own)
        tensors = [(self.cpu, after.cpu), *zip(self.cuda, after.cuda, strict=False)]
        pairs = [(a, b) for (_, a), (_, b) in zip(self.own, after.own, strict=True) if isinstance(a, torch.Tensor)]
        if any(not torch.equal(a, b) for a, b in (*tensors, *pairs)):
            return True
        others = self.python != after.python
        return numpy and (others or any(not np.array_equal(a, b) for a, b in zip(self.numpy, after.numpy, strict=True)))

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self.python)  # type: ignore[arg-type]
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        for device, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, device)
        for generator, state in self.own:
            put_back(generator, state)
