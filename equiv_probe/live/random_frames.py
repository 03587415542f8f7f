"""Random frames of an averaged model are noise: in the audit of a sampler they rotate along with the other noise."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - the context variable's annotation is evaluated
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FOLLOWED_BY: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("equiv_probe_random_frames", default=None)
"""Set while a sampler is audited: random frames to the frames that it is to see."""


def rotated_along(rotations: Tensor) -> Tensor:
    """Random frames ``(R, n, U, 3, 3)`` as they are; in an audit of a sampler, rotated along with its noise."""
    follow = FOLLOWED_BY.get()
    return rotations if follow is None else follow(rotations)
