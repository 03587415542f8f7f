"""What results that were saved as JSON have in common: they are read, held to their shape, written and shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.saving import as_json, as_page, read, require_version, write
from equiv_probe.report.stored_landscape import VERSION

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SavedRecord:
    """A result's numbers as they were stored.

    Attributes:
        stored: what ``to_dict`` of the result gave.
    """

    stored: dict[str, Any]

    @staticmethod
    def require(found: Any) -> None:
        """Hold data from a file against what such a result looks like."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Of whose weights; may be empty."""
        return str(self.stored.get("name", ""))

    @property
    def protocol(self) -> dict[str, Any]:
        """How it was measured."""
        return dict(self.stored.get("protocol", {}))

    def to_dict(self) -> dict[str, Any]:
        """What was stored."""
        return self.stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Undo :meth:`to_dict`.

        Raises:
            EquivProbeError: another schema version, or another kind of data.
        """
        require_version(stored, VERSION)
        cls.require(stored)
        return cls(stored)

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything) or ``.html`` (a page to look at).

        Raises:
            EquivProbeError: another suffix, or, for a page, Matplotlib is not installed.
        """
        write(path, {".json": lambda: as_json(self.stored), ".html": lambda: as_page(self)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what was saved as JSON.

        Raises:
            EquivProbeError: there is no such file, or something else is in it.
        """
        found: Self = read(path, cls.from_dict)
        return found

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.report.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None
