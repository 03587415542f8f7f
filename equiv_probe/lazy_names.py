"""Names of a package whose modules are imported when they are first asked for (PEP 562).

So ``equiv-probe --version`` needs no torch, a rotation plan no SciPy, and a plugin is known without its framework.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def lazily(package: str, modules: Mapping[str, Iterable[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``.

    The package imports the same names under ``TYPE_CHECKING``, and defines these two where that is false: type checkers
    and editors then know every name, and that there are no others.

    Args:
        package: its ``__name__``.
        modules: the names in each module below it; none for a module that is a name itself.

    Returns:
        Functions for the package to bind to ``__getattr__`` and ``__dir__``.
    """
    both = {name for names in modules.values() for name in names} & set(modules)
    if both:
        raise ValueError(f"{package}: {sorted(both)} would be modules or not, whatever was imported first")
    module_of = {name: module for module, names in modules.items() for name in names}
    module_of |= {module: module for module, names in modules.items() if not names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{module_of[name]}")
        found = module if name == module_of[name] else getattr(module, name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return find, names
