"""Objects by where they are: ``module:name``, ``file.py:name``, and the torch-sim models that they make."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError, missing_file, nearest

if TYPE_CHECKING:
    from types import ModuleType


def load(where: str) -> Any:
    """What ``module:name.of.attribute`` or ``path/to/file.py:name`` stands for.

    Raises:
        EquivProbeError: no such file, module or attribute.
    """
    module, _, attribute = where.rpartition(":")
    loaded: Any = _load_file(Path(module)) if module.endswith(".py") else _load_module(module)
    for part in attribute.split("."):
        if not hasattr(loaded, part):
            near = nearest(part, vars(loaded))
            raise EquivProbeError(
                f"no {attribute!r} in {module}",
                "a class or function that makes a calculator",
                f"did you mean {near}?" if near else "",
            )
        loaded = getattr(loaded, part)
    return loaded


def of_torch_sim(where: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A calculator from where a torch-sim model, or what makes one, is found; ASE and torch-sim are imported here."""
    from equiv_probe_ase.calculators.torch_sim import from_callable

    return from_callable(load(str(where)), device, dtype, **keywords)


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a script's own module next to it
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EquivProbeError(f"module {name!r}, which cannot be imported ({error})", "an importable module") from error
    finally:
        sys.path.remove(str(Path.cwd()))


def _load_file(path: Path) -> ModuleType:
    if not path.exists():
        raise missing_file(path, "a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a path that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
