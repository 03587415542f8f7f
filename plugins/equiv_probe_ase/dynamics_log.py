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
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report import without_nan

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

    @property
    def keeps_frames(self) -> bool:
        """Whether rows may hold frames and records: JSON lines do."""
        return self.path is not None and self.path.suffix == ".jsonl"

    def begin(self, protocol: Mapping[str, Any], *, resume: bool, first_step: int | None = None) -> None:
        """Start the file, or continue the one that is there.

        Args:
            protocol: what the rows depend on.
            resume: continue; a file that is not there is started.
            first_step: the step at which the run goes on; later rows, of a run that was killed after its last
                checkpoint, are dropped. None keeps all.

        Raises:
            EquivProbeError: the file is of another run, or no log.
        """
        self.rows = []
        if self.path is None:
            return
        header: dict[str, Any] = {MARK: SCHEMA_VERSION, "protocol": json.loads(json.dumps(without_nan(dict(protocol))))}
        if resume and self.path.exists() and self.path.stat().st_size:
            self._resume(self.path, header, first_step)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self._head(header), encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row; what it lacks of the columns is left empty."""
        self.rows.append(dict(row))
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(row))

    def _head(self, header: Mapping[str, Any]) -> str:
        text = json.dumps(header, ensure_ascii=False)
        return f"{text}\n" if self.keeps_frames else f"# {text}\n{','.join(COLUMNS)}\n"

    def _line(self, row: Mapping[str, Any]) -> str:
        if self.keeps_frames:
            return json.dumps(without_nan(dict(row)), ensure_ascii=False) + "\n"
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow([_cell(row.get(name)) for name in COLUMNS])
        return out.getvalue()

    def _resume(self, path: Path, header: Mapping[str, Any], first_step: int | None) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line break is torn
        old = self._header(path, lines)
        if old != header:
            before, now = old.get("protocol", {}), header["protocol"]
            changed = [f"{k}: {before.get(k)} → {now.get(k)}" for k in {*before, *now} if before.get(k) != now.get(k)]
            raise EquivProbeError(
                f"{path} with the rows of another run ({'; '.join(sorted(changed)) or 'another format'})",
                "the same dynamics as before",
                "another log=, or resume=False to start over",
            )
        rows = [row for line in lines[1:] if (row := self._row(line)) is not None]
        self.rows = [row for row in rows if first_step is None or row["step"] <= first_step]
        fresh = path.with_name(path.name + ".part")
        fresh.write_text(self._head(header) + "".join(map(self._line, self.rows)), encoding="utf-8")
        fresh.replace(path)  # a kill in between leaves the one or the other

    def _header(self, path: Path, lines: list[str]) -> dict[str, Any]:
        try:
            header = json.loads(lines[0].removeprefix("# "))
        except (ValueError, IndexError) as error:
            raise EquivProbeError(f"{path}, which is no log of a trajectory", "one", "another log=") from error
        if not isinstance(header, dict) or MARK not in header:
            raise EquivProbeError(f"{path}, which is no log of a trajectory", "one", "another log=")
        return header

    def _row(self, line: str) -> dict[str, Any] | None:
        if self.keeps_frames:
            found: dict[str, Any] = json.loads(line)
            return {name: math.nan if value is None else value for name, value in found.items()}
        cells = next(csv.reader([line]))
        if cells == list(COLUMNS):
            return None
        row = {name: float(cell) for name, cell in zip(COLUMNS, cells, strict=True) if cell}
        return {**row, "step": int(row["step"])}


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row, without its frame and its record."""
    return {name: value for name, value in row.items() if name not in _NOT_IN_ROWS}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.12g}" if isinstance(value, float) else str(value)
