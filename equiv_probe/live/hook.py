"""Hooks that belong to one module alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from equiv_probe.rotations.plan import RotationPlan


class CallRotation:
    """Who rotates a module's calls by hooks of its own, such as an augmentation: the probe can reuse its rotations.

    Attributes:
        rotations: of the latest call, ``(U, 3, 3)``.
        improper: whether improper rotations are among them.
        plan: whose rotations they are; None for any proper ones.
    """

    rotations: Tensor | None
    improper: bool
    plan: RotationPlan | None


def rotations_of_calls(*modules: nn.Module) -> list[CallRotation]:
    """All that rotate the calls of a network or its wrappers."""
    hooks = {id(hook): hook for module in modules for hook in module._forward_pre_hooks.values()}
    owners = [hook.owner for hook in hooks.values() if isinstance(hook, Hook)]
    return [owner for owner in owners if isinstance(owner, CallRotation)]


def rotation_of_calls(*modules: nn.Module) -> CallRotation | None:
    """Who rotates the calls of a network or its wrappers by any proper rotations, if there is exactly one."""
    active = rotations_of_calls(*modules)
    # Of two, one inside the other, neither's rotation is the whole of it.
    return active[0] if len(active) == 1 and not active[0].improper and active[0].plan is None else None


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
