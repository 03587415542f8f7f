"""Hooks that belong to one module alone."""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from equiv_probe.rotations.plan import RotationPlan


_frames: Callable[[], Any] = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: True)
"""What compiles the code that is run, if anything does."""


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
    """A hook that stays out of copies and pickles of the model it is on, and out of compiled graphs.

    Attributes:
        owner: whose it is.
        wanted: whether code that is compiled around the module must stop for it in training; if not, it is no part of
            that code.
        evaluates: likewise in evaluation.
        passed: set by compiled code that went past it.
    """

    def __init__(self, run: Callable[..., Any] | None, owner: object = None, *, wanted: bool = True) -> None:
        self.owner, self.wanted, self.passed = owner, wanted, False
        self.evaluates = True
        self._handle: RemovableHandle | None = None
        self._plain = run
        self._run = torch.compiler.disable(run) if run is not None else None  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any) -> Any:
        """Run it; a copy does nothing."""
        if torch.compiler.is_compiling():
            self.passed = True
            if not (self.wanted if args[0].training else self.evaluates):
                return None
        elif self._plain is not None and _frames() is None:
            return self._plain(*args)  # nobody compiles here, and there is nothing to be kept from
        return None if self._run is None else self._run(*args)

    def on(self, handle: RemovableHandle) -> RemovableHandle:
        """Remember where the hook was registered, so that copies of the module go without it."""
        self._handle = handle
        return handle

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        # The copy's dict of hooks gets this entry as soon as we return. What is in the memo ends with the copying.
        if self._handle is not None:
            leaving = _Leaving(self._handle, memo)
            memo[id(leaving)] = leaving
        return type(self)(None)

    def __reduce__(self) -> tuple[Any, ...]:
        # What takes any arguments, does nothing, and is there in every interpreter: the file may be read without us.
        return functools.partial, (sys.audit, "torch.nn.Module hook that was not saved")


class _Leaving:
    """Takes a hook out of the copies of the dicts that it is in, once these copies are made."""

    def __init__(self, handle: RemovableHandle, memo: dict[int, Any]) -> None:
        hooks, *flags = (ref() for ref in (handle.hooks_dict_ref, *handle.extra_dict_ref))
        self._key, self._copies = handle.id, [copy.deepcopy(one, memo) for one in flags if one is not None]
        if id(hooks) in memo:
            self._copies.append(memo[id(hooks)])

    def __del__(self) -> None:
        for one in self._copies:
            one.pop(self._key, None)
