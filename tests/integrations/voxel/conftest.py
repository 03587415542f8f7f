"""The voxel study's modules, as its scripts see them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[3] / "integrations" / "voxel"
NAMES = (
    *("voxeliser", "networks", "molecules", "poses", "training", "figures", "source", "denoise", "pockets"),
    *("landscape", "by_step"),
)


@pytest.fixture(scope="module")
def vx() -> Iterator[SimpleNamespace]:
    """The modules, which find each other by the folder; gone from `sys.modules` afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        for name in NAMES:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
        for name in NAMES:
            sys.modules.pop(name, None)
