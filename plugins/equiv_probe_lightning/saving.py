"""Where a run's report is saved: in a file of its own, whoever else saves in the same folder."""

from __future__ import annotations

import json
import time
import uuid
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.cli.run_script import report_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from equiv_probe.results.report import Report

STARTED = time.time()
"""A file that was named outright is replaced if it is older than this process, and kept if it is not."""


class Saving:
    """Finds the file of one run, and saves the run's report there, again and again.

    A run that goes on from a checkpoint keeps its file, as long as what stands in it is the beginning of this run; any
    other file that is there already is left alone, and the next free name is taken: ``..._1.json`` and so on.
    """

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex[:12]
        """What tells this run from others, in the report and in checkpoints."""
        self._since = -1
        """The step of the checkpoint that the run goes on from."""
        self._path: Path | None = None

    def save(self, report: Report, where: str | Path) -> Path:
        """Save a report.

        Args:
            report: of the run, with its name and its steps in the protocol.
            where: the file, or the folder in which the usual name is taken.

        Returns:
            The file.

        Raises:
            OSError: it cannot be written.
            EquivProbeError: it is of no kind that reports are saved as.
        """
        wanted = report_path(where)
        if self._path is None or self._path.parent != wanted.parent:
            self._path = self._claimed(wanted, replaces=wanted == Path(where))
        report.save(self._path)
        return self._path

    def _claimed(self, wanted: Path, *, replaces: bool) -> Path:
        """A file that is this run's from now on, whatever other processes do."""
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for path in _names(wanted):
            try:
                path.open("x").close()
            except FileExistsError:
                outdated = replaces and path == wanted and path.stat().st_mtime < STARTED
                if not (outdated or self._begins(path)):
                    continue
            return path
        raise AssertionError("there is always another name")

    def _begins(self, path: Path) -> bool:
        """Whether a file holds the beginning of this run."""
        try:
            protocol = json.loads(path.read_text(encoding="utf-8"))["protocol"]
            return bool(protocol["run"] == self.run and protocol["steps"] <= self._since)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a checkpoint at a step needs."""
        return {"run": self.run, "step": step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of a checkpoint."""
        if state["run"] != self.run:
            self._path = None
        self.run, self._since = state["run"], state["step"]


def _names(wanted: Path) -> Iterator[Path]:
    yield wanted
    for number in count(1):
        yield wanted.with_stem(f"{wanted.stem}_{number}")
