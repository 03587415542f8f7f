"""Figures of a run in a logger: each is there, at its step, and shows the report's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.image import imread
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from equiv_probe.results.report import Labelled, Measured, Report
from equiv_probe_lightning.conclusion import figures, log_figures

if TYPE_CHECKING:
    from pathlib import Path

NONE = float("nan")


def run() -> Report:
    known = Labelled("of the step", "loss", 9, 1.0, 0.1, 0.8, 0.1, 0.2, 0.02, (0.16, 0.24), 0.2, 0.02, (0.16, 0.24))
    loss = Measured("train/loss", "loss", 9, NONE, (NONE, NONE), NONE, NONE, NONE, NONE, NONE, "", "", labelled=known)
    history = [{"step": k, "stage": "train", "output": "loss", "share": 0.1 * k} for k in range(4)]
    return Report("Net", "a run", {}, [loss], history=history)


def test_tensorboard_gets_every_figure_at_its_step(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    log_figures(run(), [CSVLogger(str(tmp_path)), logger], 7)  # a logger that takes none is passed over
    logger.experiment.flush()
    found = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert found.Tags()["images"] == ["equiv/figures/share", "equiv/figures/history"]
    for tag in found.Tags()["images"]:
        (event,) = found.Images(tag)
        assert event.step == 7
        path = tmp_path / "figure.png"
        path.write_bytes(event.encoded_image_string)
        pixels = imread(path)[..., :3]
        vermilion = np.abs(pixels - np.array([0xD5, 0x5E, 0x00]) / 255).max(-1) < 0.02
        assert vermilion.sum() > 100  # L_equiv's colour


def test_figures_show_the_reports_numbers() -> None:
    drawn = dict(figures(run()))
    assert list(drawn) == ["equiv/figures/share", "equiv/figures/history"]
    bars = [patch.get_width() for patch in drawn["equiv/figures/share"].axes[0].patches]
    np.testing.assert_allclose(bars, [20.0, 80.0])
    (line,) = drawn["equiv/figures/history"].axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [0.0, 10.0, 20.0, 30.0])


def test_what_was_not_measured_is_no_figure() -> None:
    assert dict(figures(Report("Net", "a run", {}, []))) == {}
