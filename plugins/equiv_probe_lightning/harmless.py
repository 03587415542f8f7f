"""Hooks that end no run: what goes wrong in the callback itself is a warning, and training goes on."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def harmless(hook: Callable[..., T]) -> Callable[..., T | None]:
    """A hook of the callback that raises nothing but what it was asked to, as ``fail_above`` does; then it is None."""

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> T | None:
        try:
            return hook(self, *args, **kwargs)
        except EquivProbeError:
            raise
        except Exception as error:
            what = f"equiv_probe failed in {hook.__name__}, and the run goes on: {type(error).__name__}: {error}"
            warnings.warn(what, stacklevel=2)
            return None

    return guarded
