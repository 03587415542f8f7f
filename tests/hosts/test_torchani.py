"""TorchANI's calculator, on an ANI with random weights: those of ``torchani:ANI2x`` and the others are downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .batches import batch_is_loop, structures

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torchani", reason="TorchANI is not installed: make hosts HOST=torchani")
pytest.importorskip("ase.io", reason="ASE is not installed")

RANDOM = """
import torch
from torchani.arch import simple_ani

def make():
    torch.manual_seed(0)
    return simple_ani(("H", "C", "O"), lot="wb97x-631gd").double().ase()
"""


def test_a_batch_of_molecules(tmp_path: Path) -> None:
    (tmp_path / "ani.py").write_text(RANDOM)
    from ase.build import molecule

    sizes = [molecule(name) for name in ("H2O", "C6H6", "CH4")]  # padded to the largest
    for seed, atoms in enumerate(sizes):
        atoms.rattle(0.1, seed=seed)
    given = [*structures(salt="CO"), *sizes]
    batch_is_loop(f"{tmp_path / 'ani.py'}:make", given, tolerance=1e-11, network=lambda one: one.model)
