"""A method of a module as a module of its own, for networks that are called as ``network._forward(...)``.

Hooks see ``network(...)`` alone. While a probe is on, the method is this module's call, and hooks see that too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable


class CalledMethod(nn.Module):
    """A method of a module, with the module's weights and mode.

    Args:
        owner: the module.
        method: its name.

    Raises:
        EquivProbeError: there is no such method.
    """

    def __init__(self, owner: nn.Module, method: str) -> None:
        super().__init__()
        original = getattr(owner, method, None)
        if not callable(original):
            known = [name for name in vars(type(owner)) if callable(getattr(owner, name)) and not name.startswith("__")]
            found = f"method={method!r} of {type(owner).__name__}"
            raise EquivProbeError(found, f"one of {', '.join(known)}", 'ep.Probe(network, method="_forward")')
        self.owner, self.name = owner, method
        self.original: Callable[..., Any] = original

    @property
    def training(self) -> bool:
        """The owner's mode."""
        owner = self._modules.get("owner")
        return owner is None or owner.training

    @training.setter
    def training(self, mode: bool) -> None:
        """The owner is told by itself, as a child."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The method as it was."""
        return self.original(*args, **kwargs)

    def stand_in(self) -> _StandIn:
        """Put this module in the method's place; ``remove()`` takes it out."""
        return _StandIn(self)


class _StandIn:
    """What is called in the method's place; in copies and pickles of the owner there is nothing but the method."""

    def __init__(self, module: CalledMethod) -> None:
        self._module, self._before = module, vars(module.owner).get(module.name)
        object.__setattr__(module.owner, module.name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module.owner, self._module.name)

    def remove(self) -> None:
        """Let the method be called as before."""
        if self._before is None:
            vars(self._module.owner).pop(self._module.name, None)
        else:
            object.__setattr__(self._module.owner, self._module.name, self._before)
