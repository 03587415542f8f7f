"""Plugins: what a framework's package offers to the command line, found through entry points."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable  # noqa: TC003 - dataclasses resolve their annotations
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer
    from torch import nn

    from equiv_probe.estimation.objectives import Training
    from equiv_probe.live.adapters import Adapter

ENTRY_POINT = "equiv_probe.plugins"


@dataclass(frozen=True)
class PresetStatus:
    """One line of ``equiv-probe doctor``: a name for the command line, and whether it can be used."""

    name: str
    usable: bool
    about: str
    missing: str = ""


@dataclass(frozen=True)
class Plugin:
    """What a plugin's entry point names. Importing it must not import its framework.

    Args:
        name: of the plugin.
        framework: the package it serves.
        register: adds commands to ``equiv-probe``; None if it has none.
        presets: what can be named on the command line.
        packages: whose versions ``equiv-probe doctor`` shows.
        adapter: for a call ``(module, args, kwargs)`` of the framework's kind, what reads its batches, an
            :class:`equiv_probe.live.adapters.Adapter`, otherwise None. It is asked about every kind of call: it must
            look in ``sys.modules`` before it imports anything.
        training: for a module that is trained, what the framework defines about its loss, if it is of the framework's
            kind, otherwise None; the same rule about imports.
    """

    name: str
    framework: str
    register: Callable[[typer.Typer], None] | None = None
    presets: Callable[[], list[PresetStatus]] = field(default=list)
    packages: tuple[str, ...] = ()
    adapter: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Adapter | None] | None = None
    training: Callable[[nn.Module], Training | None] | None = None

    @property
    def usable(self) -> bool:
        """Whether the framework is installed; nothing is imported."""
        return importlib.util.find_spec(self.framework) is not None


def installed() -> tuple[list[Plugin], list[str]]:
    """Load every plugin that is installed.

    Returns:
        The plugins, and a line for each entry point that could not be loaded.
    """
    plugins: list[Plugin] = []
    broken: list[str] = []
    for entry in sorted(metadata.entry_points(group=ENTRY_POINT), key=lambda entry: entry.name):
        try:
            plugin = entry.load()
        except Exception as error:  # somebody else's package must not take the command line down
            broken.append(f"{entry.name} ({entry.value}): {type(error).__name__}: {error}")
            continue
        if isinstance(plugin, Plugin):
            plugins.append(plugin)
        else:
            broken.append(
                f"{entry.name} ({entry.value}): a {type(plugin).__name__}, not an equiv_probe.live.plugins.Plugin"
            )
    return plugins, broken
