"""What the study takes from the force field in the folder beside it: its network, its tensors, its batches."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "force_field"))

from labelled import Labelled, compositions, fit_references, generator, haar_rotations, load
from train import epoch_batches
from transformer import ELEMENTS, PADDING, Config, Transformer

FOLDER = Path(__file__).parents[1] / "force_field"
__all__ = [
    "ELEMENTS",
    "FOLDER",
    "PADDING",
    "Config",
    "Labelled",
    "Transformer",
    "compositions",
    "epoch_batches",
    "fit_references",
    "generator",
    "haar_rotations",
    "load",
]
