"""The figures of a run's report, into the loggers that take figures: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from equiv_probe.results.report import Report


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
