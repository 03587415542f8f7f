"""With which versions of which packages numbers were made."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from equiv_probe_ase.evaluators.loop import with_wrapped

if TYPE_CHECKING:
    from collections.abc import Mapping


def versions(calculator: object) -> str:
    """Versions of Python, of this package, and of the packages behind a calculator and those that it wraps."""
    packages = [type(current).__module__.split(".")[0] for current in with_wrapped(calculator)]
    found = [f"Python {platform.python_version()}"]
    for name in dict.fromkeys(["equiv-probe", "torch", "ase", *packages]):
        found += [f"{distribution} {version}" for distribution, version in _distributions(name)]
    return ", ".join(dict.fromkeys(found))


def _distributions(package: str) -> list[tuple[str, str]]:
    """What a package was installed as, with its version: ``mace`` comes with mace-torch; nothing for a loose file."""
    try:
        return [(package, metadata.version(package))]
    except metadata.PackageNotFoundError:  # by another name, which takes a while to find
        return [(name, metadata.version(name)) for name in dict.fromkeys(_packages().get(package, []))]


@cache
def _packages() -> Mapping[str, list[str]]:
    """Distributions by package; reading the files of all that are installed takes a quarter of a second."""
    return metadata.packages_distributions()
