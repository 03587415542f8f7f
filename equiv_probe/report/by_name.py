"""Results that hold several others by name are read like a mapping: ``result["forces"]``, ``for name in result``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from equiv_probe.errors import EquivProbeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class UnknownNameError(EquivProbeError, KeyError):
    """A name that a result does not have, and those that it has; a KeyError too, as of any mapping."""

    def __str__(self) -> str:
        """The sentence, where a KeyError would show it in quotes."""
        return str(self.args[0])


class ByName(Generic[T]):
    """A mapping from names; a subclass says in :meth:`items` what it holds."""

    __slots__ = ()

    def items(self) -> list[tuple[str, T]]:
        """What it holds, by name."""
        raise NotImplementedError

    def keys(self) -> list[str]:
        """The names."""
        return [name for name, _ in self.items()]

    def __getitem__(self, name: str) -> T:
        """What it holds under a name.

        Raises:
            UnknownNameError: nothing, with the names that there are.
        """
        held = dict(self.items())
        if name not in held:
            raise UnknownNameError(f"no {name!r}{did_you_mean(name, held)}", f"one of {list(held)}")
        return held[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        """Whether it holds something under a name."""
        return name in self.keys()
