"""The base of every result: a typed record that stores itself, reads itself, and shows itself as a document."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from equiv_probe.errors import EquivProbeError
from equiv_probe.report import kinds
from equiv_probe.report.files import naming, parsed, write
from equiv_probe.report.formatting import shown
from equiv_probe.report.stored_data import FIX, converted, plain, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType

    from equiv_probe.report.document import Document

VERSION = 2
"""Version of the stored form."""
_LONGEST = 200


class Part(msgspec.Struct, frozen=True):
    """A part of a result: fields with types, which are checked when it is read from a file.

    Numbers that were not measured are NaN. Two parts are equal if they would be stored as the same data.
    """

    def __eq__(self, other: object) -> bool:
        """Whether both are of one type and would be stored as the same data."""
        return type(self) is type(other) and bool(plain(self) == plain(other))

    __hash__ = None  # type: ignore[assignment]  # there are lists in parts


class Record(Part, frozen=True):
    """A result: a :class:`Part` that is stored, loaded and shown on its own.

    A kind of result is a subclass with a ``kind``, fields, and a :meth:`document`; what was written by earlier versions
    is read if it overrides :meth:`upgraded`. It is known to :func:`equiv_probe.report.loading.load` once it is
    imported, and before that if it stands in the registry there.
    """

    kind: ClassVar[str] = ""
    """Its name in files."""

    def __init_subclass__(cls, **how: Any) -> None:
        super().__init_subclass__(**how)
        if cls.kind:
            kinds.register(cls.kind, f"{cls.__module__}:{cls.__qualname__}")

    def document(self) -> Document:
        """What the result says. It is made anew at every call, and cheap: figures are drawn by those who show them."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """What is tabular in it, a dict of plain values for each row, for CSV, Parquet and pandas."""
        return []

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """What another version stored (its ``schema_version`` says which), in the form of this one.

        Raises:
            EquivProbeError: that version is not known here.
        """
        raise unknown_version(stored["schema_version"])

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, with ``kind`` and ``schema_version``; what was not measured is None."""
        return {"kind": self.kind, "schema_version": VERSION, **plain(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_dict`, also of version 1.

        Raises:
            EquivProbeError: another kind or version, or a wrong entry, with its place.
        """
        if not isinstance(stored, dict):
            raise EquivProbeError(f"a report: a {type(stored).__name__}", "an object", FIX)
        version = _version(stored)
        kind = kinds.kind_of(stored)
        if kind != cls.kind:
            raise EquivProbeError(
                f"a result of the kind {str(kind)[:40]!r}", f"a {cls.kind!r}", "ep.load reads all kinds"
            )
        return converted(stored if version == VERSION else cls.upgraded(dict(stored)), cls)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote as JSON.

        Raises:
            EquivProbeError: there is no such file, or something else in it; the message names the file and the place.
        """
        stored = parsed(Path(path))
        with naming(Path(path)):
            return cls.from_dict(stored)

    def save(self, path: str | Path) -> None:
        """Write ``.json`` (everything), ``.html`` (a page), or what is tabular as ``.csv`` or ``.parquet``.

        Raises:
            EquivProbeError: another suffix, or a package that it takes (Matplotlib, pandas, pyarrow) is not installed.
        """
        ways: dict[str, Callable[[], str | bytes]] = {".json": self.to_json, ".html": self.to_html}
        if self.rows():
            ways = {".parquet": self.to_parquet, ".json": self.to_json, ".csv": self.to_csv, ".html": self.to_html}
        write(Path(path), ways)

    def to_json(self) -> str:
        """JSON as its standard has it: what was not measured is null."""
        return msgspec.json.encode(self.to_dict()).decode() + "\n"

    def to_html(self) -> str:
        """A page to look at.

        Raises:
            EquivProbeError: Matplotlib is not installed.
        """
        from equiv_probe.report.page import page

        return page([self])

    def to_csv(self) -> str:
        """The rows, with a head; what was not measured is empty."""
        rows = self.rows()
        out = StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(plain(rows))
        return out.getvalue()

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a data frame of pandas.

        Raises:
            EquivProbeError: pandas is not installed, or nothing in the result is tabular.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise EquivProbeError("no pandas", "pandas", "pip install pandas") from error
        rows = self.rows()
        if not rows:
            raise EquivProbeError(f"a {self.kind} without rows", "a result with a table", "to_dict()")
        return pd.DataFrame(rows)

    def to_parquet(self) -> bytes:
        """The rows as Parquet.

        Raises:
            EquivProbeError: pandas or pyarrow is not installed.
        """
        frame = self.to_dataframe()
        try:
            found: bytes = frame.to_parquet(None, index=False)
        except ImportError as error:
            raise EquivProbeError("no pyarrow", "pyarrow", "pip install pyarrow") from error
        return found

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of what :meth:`to_dict` gives."""
        found = schema(cls)
        own = found["$defs"][cls.__name__]
        tags = {"kind": {"const": cls.kind}, "schema_version": {"const": VERSION}}
        own["properties"] = {**tags, **own["properties"]}
        own["required"] = [*tags, *own["required"]]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The document in a terminal."""
        from equiv_probe.report.terminal import render

        yield from render(self.document())

    def __str__(self) -> str:
        """The document as plain text, 120 characters wide."""
        from equiv_probe.report.terminal import as_text

        return as_text(self.document())

    def __repr__(self) -> str:
        """One line: the measured model and source, and the headline."""
        from equiv_probe.report.terminal import one_line

        text = shown(one_line(self.document()))
        return f"<{type(self).__name__} of {text if len(text) < _LONGEST else text[:_LONGEST] + '…'}>"

    def _repr_html_(self) -> str | None:
        """What a notebook shows; without Matplotlib it shows the text instead."""
        from equiv_probe.report.page import fragment

        try:
            return fragment(self)
        except EquivProbeError:
            return None


def unknown_version(found: Any) -> EquivProbeError:
    """What is raised about data of a version that is not read here."""
    return EquivProbeError(
        f"schema_version {repr(found)[:60]}", f"1 or {VERSION}", "the version of equiv_probe that wrote the file"
    )


def _version(stored: Mapping[str, Any]) -> int:
    if "schema_version" not in stored:
        raise EquivProbeError("no schema_version", "it to be there", FIX)
    found = stored["schema_version"]
    if type(found) is not int or not 1 <= found <= VERSION:
        raise unknown_version(found)
    return found
