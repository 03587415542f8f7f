"""The public representations by name, so that configuration files and strings may name them.

A file that defines a representation registers it here; nothing else needs to know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.representations.interface import Representation

R = TypeVar("R", bound="Representation")
F = TypeVar("F", bound="Callable[..., Any]")

CONSTANTS: dict[str, Representation] = {}
"""Representations without arguments, such as ``vector``, by name."""
MAKERS: dict[str, Callable[..., Any]] = {}
"""Functions that make representations, such as ``tensor``, by name."""


def constant(name: str, made: R, documentation: str) -> R:
    """Register a representation that needs no arguments, with what ``help`` says about it."""
    object.__setattr__(made, "__doc__", documentation)  # they are frozen
    CONSTANTS[name] = made
    return made


def maker(function: F) -> F:
    """Register a function that makes representations, under its own name."""
    MAKERS[function.__name__] = function
    return function
