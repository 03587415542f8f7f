"""An append-only file of results, JSON lines: Ctrl-C and kill −9 keep what is done, and the same command resumes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Self

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

SCHEMA_VERSION = 1


def _is_journal(path: Path) -> bool:
    """Whether a file begins as a journal does, or is empty."""
    with path.open("rb") as file:
        start = file.read(64)
    return not start or b"equiv_probe_journal" in start


class Journal:
    """Records by structure key, in a file or (``path=None``) in memory only.

    The first line says what was asked; a file that answers another question is refused rather than mixed in. A last
    line that was torn by a kill is cut off.

    Args:
        path: the file; made if it is not there.
        question: everything the results depend on: calculator, plan, quantities, loss, versions.
        fresh: start over instead of resuming.

    Raises:
        EquivProbeError: the file holds results for another question, or is no journal.
    """

    def __init__(self, path: Path | None, question: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self.resumed = 0
        """Structures that were there already; whoever resumes says so."""
        self._file = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"equiv_probe_journal": SCHEMA_VERSION, "question": json.loads(json.dumps(question))}
        if fresh and path.exists() and not _is_journal(path):
            raise EquivProbeError(
                f"{path}, which is not a journal, and --fresh", "a journal to start over", "another -o"
            )
        if path.exists() and not fresh:
            self._resume(path, header)
        else:
            path.write_text("")
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self.append_line(header)
        self._flush()

    def _resume(self, path: Path, header: Mapping[str, Any]) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines() if line.strip()]
        except ValueError as error:
            raise EquivProbeError(
                f"{path}, which is not a journal ({error})", "JSON lines", "another -o, or --fresh"
            ) from error
        if not lines and content and b"equiv_probe_journal" not in content:
            raise EquivProbeError(f"{path}, which is not a journal", "JSON lines", "another -o, or --fresh")
        if lines and lines[0] != header:
            old = lines[0].get("question", {}) if isinstance(lines[0], dict) else {}
            new = header["question"]
            changed = [f"{k}: {old.get(k)} → {new.get(k)}" for k in {*old, *new} if old.get(k) != new.get(k)]
            raise EquivProbeError(
                f"{path} with results for another question ({'; '.join(sorted(changed)) or 'another format'})",
                "the same command as before",
                "another -o, or --fresh to start over",
            )
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self.records = {line["key"]: line for line in lines[1:] if isinstance(line, dict) and "key" in line}

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add finished structures, each with its ``"key"``, and make sure that they are on the disk."""
        for record in records:
            self.records[record["key"]] = dict(record)
            self.append_line(record)
        self._flush()

    def append_line(self, line: Mapping[str, Any]) -> None:
        """Write one line; a line is one write, so that a kill tears the last one at most."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
