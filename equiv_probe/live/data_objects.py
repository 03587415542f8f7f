"""Which objects a step keeps things in: the user's own, a framework's, the standard library's."""

from __future__ import annotations

import argparse
import collections
import csv
import functools
import logging
import sys
import tempfile
import threading
import types
from typing import Any

from equiv_probe.live.kept_attributes import slots

FRAMEWORKS = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf"}
"""Packages whose objects mind what they hold: trainers, optimizers, loaders; only numbers and texts are put back."""
LIBRARIES = {"torch_geometric", "e3nn", "transformers", "monai"}
"""Packages of layers, large ones, whose code keeps nothing of a step in its globals."""
_LEFT_ALONE = {"wandb", "numpy", "builtins"}
"""Packages whose objects are no data of a step's."""
HOLDING = (
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
    types.SimpleNamespace,
    argparse.Namespace,
    csv.DictWriter,
    threading.local,
    tempfile._TemporaryFileWrapper,
    logging.Filterer,
)
"""Classes of the standard library whose objects hold what others put there."""


def is_data(value: Any) -> bool:
    """Whether an object is of a kind that a step keeps things in: of the user's own, or a batch of a framework's."""
    package = package_of(value)
    if isinstance(value, HOLDING):
        return True
    if package in _LEFT_ALONE or package in sys.stdlib_module_names - {"__main__"} or package.startswith("equiv_probe"):
        return False
    if type(value).__module__.startswith("torch.distributed."):  # what FSDP notes at its first call stays true
        return False
    return isinstance(getattr(value, "__dict__", None), dict) or bool(slots(type(value)))


def is_own(value: Any) -> bool:
    """Whether an object of the user's own holds data."""
    return is_of_the_user(package_of(value)) and is_data(value)


@functools.cache
def is_of_the_user(package: str) -> bool:
    """Whether a package is neither the language's, nor installed, but of the user's own."""
    if package in sys.stdlib_module_names or package == "builtins" or package.startswith("equiv_probe"):
        return package == "__main__"
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" not in path and "dist-packages" not in path


def package_of(value: Any) -> str:
    """The package that an object's class is from; of a class that was made on the fly, as PyG's batches, its parent."""
    modules = (one.__module__ for one in type(value).__mro__)
    return next(one for one in modules if one != "abc").partition(".")[0]
