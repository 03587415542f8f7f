"""What objects and classes hold in their attributes, to be put back: in dicts, in slots, in classes."""

from __future__ import annotations

import contextlib
import types
from typing import Any

import numpy as np


class Attributes:
    """What an object's attributes hold, in its dict and in its slots, or a class's own.

    Args:
        name: of the object, for messages.
        value: the object or class.
        plain: leave alone what is neither number nor text, nor new: of objects that mind the rest themselves.
    """

    def __init__(self, name: str, value: Any, *, plain: bool = False) -> None:
        self.name, self.value, self.plain = name, value, plain
        self.held = attributes(value)

    def now(self) -> Attributes:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return Attributes(self.name, self.value, plain=self.plain)

    def changes(self) -> list[str]:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        return [f"{self.name}.{key}" if self.name else key for key in self._changed(attributes(self.value))]

    def _changed(self, here: dict[str, Any]) -> list[str]:
        keys = [key for key in {**here, **self.held} if here.get(key, here) is not self.held.get(key, here)]
        return [key for key in keys if not self.plain or key not in self.held or is_plain(self.held[key])]

    def put_back(self, *, surely: bool = False) -> bool:
        """See :class:`equiv_probe.live.kept_values.Place`."""
        del surely
        changed = self._changed(attributes(self.value))
        for key in changed:
            if key not in self.held:
                _delete(self.value, key)
            else:
                _set(self.value, key, self.held[key])
        return bool(changed)


def attributes(value: Any) -> dict[str, Any]:
    """Attributes of an object, those in slots too; of a class what it holds that is no part of its code."""
    if isinstance(value, type):
        return {n: v for n, v in vars(value).items() if not n.startswith("__") and not _is_code(v)}
    found = dict(getattr(value, "__dict__", {}))
    for name, slot in slots(type(value)).items():
        with contextlib.suppress(AttributeError):  # not assigned yet
            found[name] = slot.__get__(value)
    return found


def slots(kind: type) -> dict[str, types.MemberDescriptorType]:
    """The slots of a class written in Python, by the name under which it holds them."""
    members = {n: v for one in kind.__mro__ for n, v in vars(one).items() if "__slots__" in vars(one)}
    return {n: v for n, v in members.items() if isinstance(v, types.MemberDescriptorType)}


def is_plain(value: Any) -> bool:
    """Whether a value is a number or a text, or several: nothing that could be written into."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (int, float, complex, str, bytes, np.number))


def _is_code(value: Any) -> bool:
    return callable(value) or hasattr(value, "__get__")


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, type):
        setattr(owner, name, value)
    elif (slot := slots(type(owner)).get(name)) is not None:
        slot.__set__(owner, value)  # past what the class itself makes of it: it may be frozen
    else:
        owner.__dict__[name] = value


def _delete(owner: Any, name: str) -> None:
    if isinstance(owner, type):
        delattr(owner, name)
    elif (slot := slots(type(owner)).get(name)) is not None:
        slot.__delete__(owner)
    else:
        del owner.__dict__[name]
