"""Which modules a framework's callback measures, so that ``equiv-probe run`` leaves them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

claimed: WeakSet[nn.Module] = WeakSet()
"""Modules that a framework's callback measures."""

names: list[str] = []
"""Of what measures them."""


def claim(root: nn.Module) -> None:
    """Say that a framework's callback measures a module, and all that is in it."""
    claim_all([root], type(root).__name__)


def claim_all(modules: Iterable[nn.Module], name: str) -> None:
    """Say that a plugin measures what these modules do, if there are any, under a name."""
    for root in modules:
        claimed.update(root.modules())
    names.append(name)
