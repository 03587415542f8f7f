"""An append-only file of results, JSON lines: Ctrl-C and kill −9 keep what is done, and the same command resumes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import msgspec

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.auditing.stored_record import is_gradient_check, is_whole

try:
    import fcntl
except ImportError:  # on Windows, where a file that is open cannot be replaced, but two processes may append to it
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from equiv_probe_ase.structures.loading import Structure

MARK = "equiv_probe_journal"
SCHEMA_VERSION = 2
"""Since version 2 rotations belong to the structure, and a record holds all that a report says of it."""
LISTED = 5
"""Damaged lines whose places are listed."""

Record = dict[str, Any]


def is_header(entry: Mapping[str, Any]) -> bool:
    """Whether a first line is whole; of other versions, whether it is a journal's."""
    version = entry.get(MARK)
    whole = isinstance(entry.get("question"), dict) and isinstance(entry.get("about"), dict)
    return whole if version == SCHEMA_VERSION else isinstance(version, int)


class NotWrittenError(OSError):
    """A disk that is full, or gone; what was written before is there."""


class Lines:
    """The lines of a journal as they are on the disk; of records only the places are kept.

    Attributes:
        header: the first line; empty where there is none.
        places: offset and length of each structure's latest record, by key.
        failed: keys of structures whose latest record is an error.
        gradients: checks whether forces are the energy's gradient, by key.
        work: evaluations and model calls behind the records.
        damaged: numbers of lines that are no record.
        end: of the last whole line, in bytes.
    """

    def __init__(self, file: IO[bytes], path: Path | None) -> None:
        self._file, self.path = file, path
        self.header: dict[str, Any] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.failed: set[str] = set()
        self.gradients: dict[str, Any] = {}
        self.work = [0, 0]
        self.damaged: list[int] = []
        self.end = 0
        self._number = 0
        self.read_on()

    def read_on(self) -> None:
        """Take in the whole lines that are there, and are not known yet: at first, and after an interruption."""
        if self.path is None:
            return
        with self.path.open("rb") as lines:
            lines.seek(self.end)
            for line in lines:
                if not line.endswith(b"\n"):  # torn by a kill
                    break
                self._number += 1
                self._note(line, self._number)

    def _note(self, line: bytes, number: int) -> None:
        entry = _parsed(line)
        if number == 1 and entry is not None and is_header(entry):
            self.header = entry
        elif entry is not None and (is_whole(entry) or is_gradient_check(entry)):
            self._take(entry, (self.end, len(line)))
        else:
            self.damaged += [number] if line.strip() else []
        self.end += len(line)

    def _take(self, entry: Record, place: tuple[int, int]) -> None:
        """Take in what a line says."""
        if "gradient_of" in entry:
            self.gradients[entry["gradient_of"]] = entry
            return
        self.places[entry["key"]] = place
        (self.failed.add if "error" in entry else self.failed.discard)(entry["key"])
        self.work = [a + b for a, b in zip(self.work, entry.get("work", (0, 0)), strict=True)]

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def __getitem__(self, key: str) -> Record:
        offset, length = self.places[key]
        self._file.seek(offset)
        found: Record = msgspec.json.decode(self._file.read(length))
        return found

    @property
    def notes(self) -> list[str]:
        """What was damaged, for the report."""
        if not self.damaged:
            return []
        places = ", ".join(map(str, self.damaged[:LISTED])) + (", …" if len(self.damaged) > LISTED else "")
        are = "1 damaged line was" if len(self.damaged) == 1 else f"{len(self.damaged)} damaged lines were"
        return [f"{are} left out of {self.path} (line {places}); what stood there counts as not measured"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Journal(Lines):
    """Records by structure key, in a file or (``path=None``) in a temporary one.

    The first line says what was asked; a file that answers another question is refused rather than mixed in. A last
    line that was torn by a kill is cut off, damaged ones are left where they are and counted as not there. The file is
    locked as long as it is open; the system takes the lock off a process that is killed.

    Args:
        path: the file; made if it is not there.
        question: everything the results depend on: calculator, plan, quantities, loss, versions.
        about: what else a report says, for those who read the journal without the calculator.
        fresh: start over instead of resuming.

    Raises:
        EquivProbeError: the file holds results for another question, is no journal, is another process's, or cannot be
            written.
    """

    def __init__(
        self,
        path: Path | None,
        question: Mapping[str, Any],
        *,
        about: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> None:
        # Without a buffer, which would keep what a full disk refuses and write it later, behind something else.
        file: IO[bytes] = tempfile.TemporaryFile(buffering=0) if path is None else _opened(path)  # noqa: SIM115
        try:
            super().__init__(file, path)
            header = {MARK: SCHEMA_VERSION, "question": json.loads(json.dumps(question)), "about": about or {}}
            if path is not None:
                self._require_journal(path, fresh=fresh)
            if self.header and not fresh:
                require_same_question(
                    self, header, "the same command as before", "another -o, or --fresh to start over"
                )
                file.truncate(self.end)
            else:
                file.truncate(0)
                super().__init__(file, path)
                self._write([header])
                self.header = header
        except OSError as error:
            file.close()
            raise _unwritable(path or Path(tempfile.gettempdir()), error) from error
        except BaseException:
            file.close()
            raise

    def _require_journal(self, path: Path, *, fresh: bool) -> None:
        """Refuse to write into somebody else's file."""
        with path.open("rb") as file:
            start = file.read(64)
        if start and MARK.encode() not in start:
            wanted, fix = ("a journal to start over", "another -o") if fresh else ("JSON lines", "another -o")
            raise EquivProbeError(f"{path}, which is not a journal{', and --fresh' if fresh else ''}", wanted, fix)
        if start and not self.header and not fresh and (self.places or self.damaged):
            raise EquivProbeError(
                f"{path}, whose first line is damaged: nobody knows which question its results answer",
                "a whole first line",
                "another -o, or --fresh to start over",
            )

    def require_part(self, part: str) -> None:
        """Refuse to write one part of the structures into the file of another, as jobs of an array would by mistake."""
        before = self.header.get("about", {}).get("part", "")
        if part and before and part != before:
            raise EquivProbeError(
                f"{self.path} of part {before}, and part {part}", "a file for each part", "another -o"
            )

    def require_space(self, structures: Sequence[Structure], quantities: int, rotations: int) -> None:
        """Refuse to begin what the disk has no room for, as far as that is known.

        Raises:
            EquivProbeError: how much there is, and about how much will be needed.
        """
        if self.path is None:
            return
        left = [len(one.atoms) for one in structures if one.key not in self]
        # Sizes of what a record holds, in bytes, as written with four digits.
        needed = len(left) * (500 + quantities * (1500 + 9 * rotations)) + sum(left) * (30 + 10 * quantities)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise EquivProbeError(
                f"{free / 1e6:.3g} MB left where {self.path} is", f"about {needed / 1e6:.3g} MB", "another -o, or room"
            )

    def append(self, records: Sequence[Record]) -> None:
        """Add finished structures, each with its ``"key"``, or the check of a gradient; they are on the disk then.

        Raises:
            NotWrittenError: the disk is full, or gone; nothing that was written before is lost.
        """
        for entry, place in zip(records, self._write(records), strict=True):
            self._take(entry, place)

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
        """Write lines behind the last whole one, which a kill tears at their end at most; their places."""
        written = [json.dumps(line).encode() + b"\n" for line in lines]
        left = memoryview(b"".join(written))
        self._file.seek(self.end)
        try:
            while left:
                left = left[self._file.write(left) :]
            if self.path is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self.end)
            raise NotWrittenError(error.strerror or str(error)) from error
        places = []
        for line in written:
            places.append((self.end, len(line)))
            self.end += len(line)
            self._number += 1
        return places


def require_same_question(journal: Lines, new: Mapping[str, Any], wanted: str, fix: str, *, but_for: str = "") -> None:
    """Refuse results for another question; ``but_for`` one setting.

    Raises:
        EquivProbeError: with every setting that differs, and both of its values.
    """
    old, path = journal.header, journal.path
    if old.get(MARK) != new.get(MARK):
        raise EquivProbeError(
            f"{path}, a journal of version {old.get(MARK)}, whose rotations were drawn otherwise",
            f"one of version {new.get(MARK)}",
            fix,
        )
    before, now = old.get("question", {}), new["question"]
    changed = [
        f"{k}: {before.get(k)} → {now.get(k)}" for k in {*before, *now} - {but_for} if before.get(k) != now.get(k)
    ]
    if changed:
        raise EquivProbeError(f"{path} with results for another question ({'; '.join(sorted(changed))})", wanted, fix)


def _opened(path: Path) -> IO[bytes]:
    """A journal's file, locked against other processes.

    Raises:
        EquivProbeError: it cannot be written, is no file, or is in use.
    """
    if path.exists() and not path.is_file():
        raise EquivProbeError(f"{path}, which is a folder or a device", "a file to write results to", "another -o")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        file: IO[bytes] = path.open("r+b", buffering=0)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise EquivProbeError(
            f"{path}, into which another process is writing",
            "a file of its own for each run",
            "another -o, or wait; --part 1/2 and --part 2/2 share the work",
        ) from error
    except OSError:  # some network file systems have no locks
        pass
    return file


def _unwritable(path: Path, error: OSError) -> EquivProbeError:
    reason = error.strerror or str(error)
    return EquivProbeError(f"{path}, which cannot be written ({reason})", "a writable place", "another -o")


def _parsed(line: bytes) -> Record | None:
    try:
        found = msgspec.json.decode(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
