"""The modules of a study, which is a folder of scripts and not a package."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def module_of(path: Path, name: str = "", patch: pytest.MonkeyPatch | None = None) -> ModuleType:
    """Execute a script; ``patch``: as a module that others find by its name until that is undone."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if patch is not None:
        patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@contextmanager
def modules_of(*scripts: tuple[Path, Iterable[str]]) -> Iterator[SimpleNamespace]:
    """Scripts of some folders, by name, in the order of their imports; gone from `sys.modules` afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        found = {name: module_of(folder / f"{name}.py", patch=patch) for folder, names in scripts for name in names}
        yield SimpleNamespace(**found)
