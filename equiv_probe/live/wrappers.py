"""The network inside of what others wrap around it: ``torch.compile``, data-parallel and sharded training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable


def network(module: nn.Module) -> nn.Module:
    """The user's own module inside ``torch.compile`` and (distributed) data-parallel wrappers.

    The orbit is evaluated on it, so that no collective is entered and nothing is compiled anew.
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def classes_of_sharding(*names: str) -> tuple[type, ...]:
    """Classes of PyTorch's fully sharded data-parallel training, where it was imported."""
    found = [getattr(sys.modules.get("torch.distributed.fsdp"), name, None) for name in names]
    return tuple(one for one in found if isinstance(one, type))


def sharded(modules: Iterable[nn.Module]) -> bool:
    """Whether weights are spread over processes (FSDP), so that every call of a module is a collective."""
    kinds = classes_of_sharding("FSDPModule", "FullyShardedDataParallel")
    return bool(kinds) and any(isinstance(one, kinds) for one in modules)


def described(network: nn.Module) -> nn.Module:
    """The module that has a network's signature: inside of FSDP's first wrapper, through which it is evaluated."""
    while isinstance(network, classes_of_sharding("FullyShardedDataParallel")):
        network = cast("nn.Module", network.module)
    return network
