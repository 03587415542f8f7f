"""The end of a run: its table, its report in a file, and its figures for the loggers that take figures."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import equiv_probe as ep
from equiv_probe.cli.run_script import report_path
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import SIZE
from equiv_probe_lightning import ranks
from equiv_probe_lightning.trainers import inform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from equiv_probe.results.report import Report
    from equiv_probe_lightning.run import Run


def figures(report: Report) -> Iterator[tuple[str, Any]]:
    """Names and Matplotlib figures of what the report holds; none where Matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    draws: dict[str, Any] = {"share": report.plot_share, "history": report.plot_history}
    draws |= {f"{one.stage}_{one.name}_over_{one.over}": one.plot for one in report.over}
    for output in report.gradients:
        for value in ("ratio", "cosine"):
            name = f"gradients_{output.removeprefix('train/')}_{value}"
            draws[name] = partial(report.plot_gradients, value, output)
    for name, draw in draws.items():
        figure = Figure(figsize=SIZE, layout="constrained")
        try:
            draw(ax=figure.add_subplot())
        except EquivProbeError:  # nothing of the kind was measured
            continue
        yield f"equiv/figures/{name}", figure


def log_figures(report: Report, loggers: Iterable[Any], step: int) -> None:
    """Give the figures to every logger that takes any.

    Args:
        report: of the run.
        loggers: Lightning's.
        step: at which they are logged.
    """
    takers = [taker for logger in loggers if (taker := _taker(logger, step)) is not None]
    if not takers:
        return
    for name, figure in figures(report):
        for taker in takers:
            try:
                taker(name, figure)
            except Exception as error:  # the run is done, and a logger that fails now must not undo that
                warnings.warn(f"equiv_probe could not log {name}: {type(error).__name__}: {error}", stacklevel=2)


def _taker(logger: Any, step: int) -> Any:
    """What takes a name and a figure; None if the logger does not."""
    if hasattr(logger, "log_image"):  # W&B's
        return lambda name, figure: logger.log_image(key=name, images=[figure], step=step)
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):  # TensorBoard's
        return lambda name, figure: experiment.add_figure(name, figure, global_step=step, close=False)
    if hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):  # MLflow's
        return lambda name, figure: experiment.log_figure(logger.run_id, figure, f"{name}.png")
    return None


def conclude_together(run: Run, trainer: Any) -> None:
    """Show what all ranks measured; every rank must call it."""
    if not run.begun or run.probe is None:
        return
    merged = ranks.merged(run.probe.running)
    gradients = run.probe.gradients is not None and run.probe.gradients.everything
    if (merged or gradients) and trainer.is_global_zero:
        conclude(run, trainer, merged, [])
    elif run.probe.failures:
        inform(trainer, f"equiv_probe measured nothing: {run.probe.failures[0]}")
    elif not (merged or gradients) and run.settings.options["warmup"] == "earned":
        why = f"the run is too short to earn a measurement within cost={run.settings.options['cost']}"
        inform(trainer, f"equiv_probe measured nothing: {why}; warmup=0 makes a small first one all the same")
    if exceeded := run.settings.limits.exceeded(run.report(trainer, merged, [])):  # on all ranks alike
        limit = run.settings.limits.fail_above
        raise ep.EquivProbeError(exceeded, f"at most {100 * (limit or 0):g} %", "another model, or a higher fail_above")


def conclude(run: Run, trainer: Any, merged: dict[ranks.Key, dict[str, Any]] | None, notes: list[str]) -> None:
    """Print the table, save the report, and log its figures.

    Args:
        run: what was measured.
        trainer: which ran it.
        merged: sums over ranks; None is this rank's own.
        notes: what a reader must know.
    """
    assert run.probe is not None
    settings, report = run.settings, run.report(trainer, merged, notes)
    if settings.verbose:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # which may not have what tables are made of
        print(str(report).encode(encoding, "replace").decode(encoding))
    if settings.figures and trainer.state.fn == "fit" and not trainer.barebones:
        log_figures(report, trainer.loggers, trainer.global_step)
    if settings.report:
        where = run.directory if settings.report is True else settings.report
        wanted = report_path(where)
        try:
            path = run.saving.save(report, where)
        except (OSError, ep.EquivProbeError) as error:  # the training is done; what comes after is the user's
            warnings.warn(f"equiv_probe could not save its report: {error}", stacklevel=2)
            return
        if settings.verbose:
            other = f" ({wanted.name} is that of another run)" if path != wanted else ""
            inform(trainer, f"equiv_probe saved its report to {path}{other}")
