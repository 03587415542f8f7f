"""Hooks that belong to one module alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class Hook:
    """A hook that stays out of copies and pickles of the model it is on, and out of compiled graphs."""

    def __init__(self, run: Callable[..., Any] | None, owner: object = None) -> None:
        self.owner = owner
        self._run = torch.compiler.disable(run) if run is not None else None  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any) -> Any:
        """Run it; a copy does nothing."""
        return None if self._run is None else self._run(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[None]]:
        return type(self), (None,)
