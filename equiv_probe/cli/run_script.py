"""``equiv-probe run``: somebody's training script, run as it is, and measured.

Under Lightning the callback does it, through ``EQUIV_PROBE``; in a loop of the user's own a
:class:`equiv_probe.cli.loop_finder.Finder`.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.cli import claims
from equiv_probe.cli.loop_finder import Finder
from equiv_probe.cli.shared import INTERRUPTED
from equiv_probe.errors import missing_file
from equiv_probe.messages import logger
from equiv_probe.probe import settings
from equiv_probe.rotations.drawing import rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPORT = "equiv_probe_report.json"


def report_path(where: str | Path) -> Path:
    """Where a report goes: the file that is named, or the usual name in a folder.

    >>> print(report_path("runs"), report_path("share.html"))
    runs/equiv_probe_report.json share.html
    """
    path = Path(where)
    return path if path.suffix in {".json", ".csv", ".html"} else path / REPORT


def run_script(target: str, arguments: Sequence[str], asked: Mapping[str, Any], *, module: bool = False) -> int:
    """Run a script as Python would, measured; in the end print the report, and save it.

    Args:
        target: path of the script, or name of a module.
        arguments: of the script.
        asked: settings, as in ``EQUIV_PROBE``.
        module: whether ``target`` is a module's name.

    Returns:
        The exit code.

    Raises:
        EquivProbeError: there is no such script.
    """
    if not module and not Path(target).is_file():
        raise missing_file(target, "a script", "equiv-probe run train.py, or -m for a module's name")
    finder = Finder(asked)
    code = 0
    with _as_main(target, arguments, asked, module=module):
        try:
            if module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
        except SystemExit as exit_:
            code = _code(exit_)
        except BaseException as error:
            error.__traceback__ = _from_the_script_on(error)
            traceback.print_exception(error)
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        finally:
            finder.remove()
            _conclude(finder, asked.get("report", True), code)
    return code


@contextmanager
def _as_main(target: str, arguments: Sequence[str], asked: Mapping[str, Any], *, module: bool) -> Iterator[None]:
    """Set ``sys.argv``, ``sys.path`` and the environment as Python would for the script."""
    before = list(sys.argv), list(sys.path), os.environ.get(settings.VARIABLE)
    sys.argv = [target, *arguments]
    sys.path[0] = str(Path.cwd()) if module else str(Path(target).resolve().parent)
    os.environ[settings.VARIABLE] = settings.written(asked)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
        if before[2] is None:
            del os.environ[settings.VARIABLE]
        else:
            os.environ[settings.VARIABLE] = before[2]


def _code(error: SystemExit) -> int:
    """The exit code that Python would make of it."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _from_the_script_on(error: BaseException) -> Any:
    """The traceback without the frames that lead to the script."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace


def _conclude(finder: Finder, report: Any, code: int) -> None:
    for probe in finder.probes:
        probe.remove()
    if rank() != 0:
        return
    # One that was called before the plugin could say so is measured twice; the plugin knows better.
    found = [probe for probe in finder.probes if probe.running and probe.model not in claims.claimed]
    if not found and not claims.names:
        called = finder.nothing() or "no module was called with coordinates, graphs or grids twice"
        logger.warning(
            f"equiv_probe measured nothing: no Lightning Trainer ran, and no ASE dynamics; {called}. "
            "In a training loop of your own write: with ep.Probe(model) as probe: loss = probe.step(lambda: ...)"
        )
    for number, probe in enumerate(found):
        notes = [f"the script ended with exit code {code}"] if code else []
        notes += [why for name, why in finder.parts.items() if name == type(probe.live.network).__name__]
        made = probe.report(source="a script's run", notes=notes, complete=not code)
        print(made)
        if report:
            path = report_path("." if report is True else report)
            path = path.with_stem(f"{path.stem}_{number}") if number else path
            made.save(path)
            logger.info(f"Saved to {path}")
        if not any(one.labelled for one in made.measured):
            logger.info(
                f"The loss itself was not seen, only the output of {made.model}. In the loop, with probe = "
                "ep.Probe(model): loss = probe.step(lambda: ...) splits it into L_mean and L_equiv"
            )
