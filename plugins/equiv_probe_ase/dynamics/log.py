"""The log of a trajectory: a row for each measurement, CSV or JSON lines, continued after a restart.

The first line says what was measured on, and how: a comment in CSV (``pandas.read_csv(path, comment="#")`` skips it),
an object in JSON lines. A row is one write, so that a kill tears the last one at most, and resuming cuts that off.
JSON lines also hold the frames and what was measured on each in full; ASE reads them as structures.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import without_nan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MARK = "equiv_probe_dynamics"
SCHEMA_VERSION = 1
SUFFIXES = (".csv", ".jsonl")

COLUMNS = {
    "step": "",
    "time_fs": "fs",
    "potential_eV": "eV",
    "kinetic_eV": "eV",
    "total_eV": "eV",
    "energy_change_eV": "eV",
    "net_force_eV_per_A": "eV/Å",
    "net_force_rms_eV_per_A": "eV/Å",
    "net_torque_eV": "eV",
    "net_torque_rms_eV": "eV",
    **{f"momentum_{a}_eV_fs_per_A": "eV·fs/Å" for a in "xyz"},
    **{f"angular_momentum_{a}_eV_fs": "eV·fs" for a in "xyz"},
    **{f"momentum_change_{a}_eV_fs_per_A": "eV·fs/Å" for a in "xyz"},
    **{f"impulse_{a}_eV_fs_per_A": "eV·fs/Å" for a in "xyz"},
    **{f"angular_change_{a}_eV_fs": "eV·fs" for a in "xyz"},
    **{f"angular_impulse_{a}_eV_fs": "eV·fs" for a in "xyz"},
    "energy_twirl_eV": "eV",
    "energy_twirl_stderr_eV": "eV",
    "energy_rms_meV_per_atom": "meV/atom",
    "energy_L_equiv": "(meV/atom)²",
    "energy_L_equiv_stderr": "(meV/atom)²",
    "energy_torque_bound_meV_per_atom": "meV/atom",
    "forces_rms_meV_per_A": "meV/Å",
    "forces_L_equiv": "(meV/Å)²",
    "forces_L_equiv_stderr": "(meV/Å)²",
    "stress_rms_meV_per_A3": "meV/Å³",
    "stress_L_equiv": "(meV/Å³)²",
    "stress_L_equiv_stderr": "(meV/Å³)²",
    "defect_rms_meV_per_A": "meV/Å",
    "defect_floor_meV_per_A": "meV/Å",
    "forces_size_meV_per_A": "meV/Å",
    "defect_power_eV_per_ps": "eV/ps",
    "defect_power_floor_eV_per_ps": "eV/ps",
    "twirled_defect_power_eV_per_ps": "eV/ps",
}
"""Names and units of the columns, in their order."""

_NOT_IN_ROWS = {"record", "frame"}


class DynamicsLog:
    """Rows of one trajectory, in memory and in a file.

    Args:
        path: ``.csv`` or ``.jsonl``; None keeps them in memory only.

    Raises:
        EquivProbeError: another suffix.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and path.suffix not in SUFFIXES:
            raise EquivProbeError(f"log={str(path)!r}", "a name that ends in .csv or .jsonl", 'log="monitor.csv"')
        self.path = path.resolve() if path is not None else None
        """Where the file is; a script may change its folder during the run."""
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._unwritten, self._size = "", 0

    @property
    def keeps_frames(self) -> bool:
        """Whether rows may hold frames and records: JSON lines do."""
        return self.path is not None and self.path.suffix == ".jsonl"

    def begin(self, protocol: Mapping[str, Any], *, resume: bool, first_step: int | None = None) -> None:
        """Start the file, or continue the one that is there.

        Args:
            protocol: what the rows depend on.
            resume: continue it if it is there.
            first_step: at which the run goes on: rows of later steps, after the last checkpoint, are dropped.

        Raises:
            EquivProbeError: the file is of another run, or no log.
        """
        self.rows, self._unwritten = [], ""
        if self.path is None:
            return
        header: dict[str, Any] = {MARK: SCHEMA_VERSION, "protocol": json.loads(json.dumps(without_nan(dict(protocol))))}
        if self.path.exists() and self.path.stat().st_size:
            lines = _lines(self.path)
            if not lines and not _begins_as_a_log(self.path):  # torn in its first line there is nothing to resume
                raise _no_log(self.path)
            old = self._header(self.path, lines) if lines else header
            if resume and lines:
                self._resume(self.path, lines, header, first_step)
                return
            other = _owners.get(self.path)
            if other is not None and other.rows and old != header:
                words = f"equiv_probe: {self.path}, the log of another dynamics of this process, is started over"
                warnings.warn(f"{words}: pass log= to keep both", stacklevel=2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _owners[self.path] = self
        self.path.write_text(self._head(header), encoding="utf-8")
        self._size = self.path.stat().st_size

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row; what it lacks of the columns is left empty.

        A disk that is full, or gone, does not end the run: rows wait for the next one, which tries again.
        """
        self.rows.append(plain(row))
        if self.path is None:
            return
        if _owners.get(self.path) is not self:
            self._note(f"another monitor has started the log {self.path} over: the rows from here on are not in it")
            return
        self._unwritten += self._line(row)
        try:
            with self.path.open("r+b") as file:
                file.seek(self._size)  # behind the last whole row
                file.write(self._unwritten.encode())
                file.truncate()
        except OSError as error:
            self._note(f"the log could not be written at step {row['step']}: {error}")
            return
        self._size += len(self._unwritten.encode())
        self._unwritten = ""

    def _note(self, line: str) -> None:
        """Say it in the report, and the first time aloud."""
        if not self.notes:
            warnings.warn(f"equiv_probe: {line}", stacklevel=2)
        if line not in self.notes:
            self.notes = [*self.notes[:4], line]

    def _head(self, header: Mapping[str, Any]) -> str:
        text = json.dumps(header, ensure_ascii=False)
        return f"{text}\n" if self.keeps_frames else f"# {text}\n{','.join(COLUMNS)}\n"

    def _line(self, row: Mapping[str, Any]) -> str:
        if self.keeps_frames:
            return json.dumps(without_nan(dict(row)), ensure_ascii=False) + "\n"
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow([_cell(row.get(name)) for name in COLUMNS])
        return out.getvalue()

    def _resume(self, path: Path, lines: list[str], header: Mapping[str, Any], first_step: int | None) -> None:
        old = self._header(path, lines)
        if old != header:
            before, now = old.get("protocol", {}), header["protocol"]
            changed = [f"{k}: {before.get(k)} → {now.get(k)}" for k in {*before, *now} if before.get(k) != now.get(k)]
            raise EquivProbeError(
                f"{path} with the rows of another run ({'; '.join(sorted(changed)) or 'another format'})",
                "the same dynamics as before",
                "another log=, or resume=False to start over",
            )
        rows = [row for place, line in enumerate(lines[1:], 2) if (row := self._row(line, place)) is not None]
        self.rows = [row for row in rows if first_step is None or row["step"] <= first_step]
        fresh = path.with_name(path.name + ".part")
        fresh.write_text(self._head(header) + "".join(map(self._line, self.rows)), encoding="utf-8")
        fresh.replace(path)  # a kill in between leaves the one or the other
        _owners[path], self._size = self, path.stat().st_size

    def _header(self, path: Path, lines: list[str]) -> dict[str, Any]:
        try:
            header = json.loads(lines[0].removeprefix("# "))
        except (ValueError, IndexError) as error:
            raise _no_log(path) from error
        if not isinstance(header, dict) or MARK not in header:
            raise _no_log(path)
        return header

    def _row(self, line: str, place: int) -> dict[str, Any] | None:
        try:
            if self.keeps_frames:
                found: dict[str, Any] = json.loads(line)
                return {name: math.nan if value is None else value for name, value in found.items()} | {
                    "step": int(found["step"])
                }
            cells = next(csv.reader([line]))
            if cells == list(COLUMNS):
                return None
            row = {name: float(cell) for name, cell in zip(COLUMNS, cells, strict=True) if cell}
            return {**row, "step": int(row["step"])}
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise EquivProbeError(
                f"{self.path}, whose line {place} is no row of it ({' '.join(str(error).split())[:80]})",
                "rows as they were written",
                "the line taken out, another log=, or resume=False to start over",
            ) from error


_owners: WeakValueDictionary[Path, DynamicsLog] = WeakValueDictionary()
"""Which log of this process writes to a file: two would write into each other's rows."""


def _lines(path: Path) -> list[str]:
    """Whole lines; what follows the last line break was torn by a kill."""
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise _no_log(path) from error


def _begins_as_a_log(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(64)


def _no_log(path: Path) -> EquivProbeError:
    return EquivProbeError(f"{path}, which is no log of a trajectory", "one, or no file", "another log=")


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row, without its frame and its record."""
    return {name: value for name, value in row.items() if name not in _NOT_IN_ROWS}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
