"""SemlaFlow's ``MolecularCFM`` in Lightning's ``Trainer`` with ``EQUIV_PROBE``, on ethanol from noise of its own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep

from .brute_force import ROTATIONS, agree, bits, measured, stretched, variance

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, os.environ.get("EQUIV_PROBE_SOURCE", ""))
pytest.importorskip("semlaflow.models.fm", reason="SemlaFlow is not installed: make hosts HOST=semlaflow")
io = pytest.importorskip("ase.io", reason="ASE is not installed")
lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

BONDED = {("C", "C"): 1.8, ("C", "O"): 1.8, ("C", "H"): 1.4, ("O", "H"): 1.4}


def molecules(frames: list[Any], vocabulary: Any, kinds: int) -> list[Any]:
    """SemlaFlow's molecules, with single bonds."""
    from ase.neighborlist import neighbor_list
    from semlaflow.util.functional import one_hot_encode_tensor
    from semlaflow.util.molrepr import GeometricMol

    found = []
    for frame in frames:
        both = zip(*neighbor_list("ij", frame, BONDED), strict=True)
        pairs = torch.tensor([(int(i), int(j)) for i, j in both if i < j])
        symbols = torch.tensor(vocabulary.indices_from_tokens(list(frame.symbols)))
        bonds = one_hot_encode_tensor(torch.ones(len(pairs), dtype=torch.long), kinds)
        atoms = one_hot_encode_tensor(symbols, vocabulary.size)
        positions = torch.tensor(frame.positions, dtype=torch.float32)
        found.append(GeometricMol(positions, atoms, bond_indices=pairs, bond_types=bonds).zero_com())
    return found


def trained(data: Path, where: Path) -> tuple[Any, Any, Any]:
    """A small Semla after two epochs, its trainer, and a batch."""
    from semlaflow import scriptutil
    from semlaflow.data.datamodules import GeometricInterpolantDM
    from semlaflow.data.interpolate import GeometricInterpolant, GeometricNoiseSampler
    from semlaflow.models.fm import Integrator, MolecularCFM
    from semlaflow.models.semla import EquiInvDynamics, SemlaGenerator

    lightning.seed_everything(1, verbose=False)
    vocabulary, kinds = scriptutil.build_vocab(), scriptutil.get_n_bond_types("uniform-sample")
    mols = molecules(io.read(data / "ethanol_rmd17" / "train.xyz", ":16"), vocabulary, kinds)
    noise = GeometricInterpolant(GeometricNoiseSampler(vocabulary.size, kinds))
    loaders = GeometricInterpolantDM(mols, mols, mols, 4, train_interpolant=noise)
    dynamics = EquiInvDynamics(16, 8, 8, 2, n_attn_heads=2, d_message_hidden=16, d_edge=8, bond_refine=True)
    sizes = {"d_edge": 8, "n_edge_types": kinds, "size_emb": 8, "max_atoms": 16}
    generator = SemlaGenerator(16, dynamics, vocabulary.size, vocabulary.size + 1, **sizes)
    integrator = Integrator(5, type_strategy="linear", bond_strategy="linear")
    module = MolecularCFM(generator, vocabulary, 1e-3, integrator, compile_model=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_epochs=2, limit_val_batches=0, accelerator="cpu", logger=False, default_root_dir=where, **quiet
    )
    trainer.fit(module, datamodule=loaders)
    return module, trainer, next(iter(loaders.train_dataloader()))


def test_flow_matching(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EQUIV_PROBE", "")
    plain, _, _ = trained(data, tmp_path)
    monkeypatch.setenv("EQUIV_PROBE", "every=1")
    module, trainer, batch = trained(data, tmp_path)
    assert bits(plain) == bits(module)
    share = trainer.callback_metrics["equiv/train/coord_loss/share"]
    assert abs(float(share)) < 1e-5, "Semla is equivariant by construction"
    os.environ.pop("EQUIV_PROBE", None)

    _, _, noisy, times = batch
    module.eval().gen.register_forward_pre_hook(lambda _, args: (stretched(args[0]), *args[1:]))
    with ep.Probe(module, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        module(noisy, times, training=True)

    def coordinates(g: Any) -> Any:
        middle = noisy["coords"].mean(1, keepdim=True)
        return module({**noisy, "coords": (noisy["coords"] - middle) @ g.T + middle}, times, training=True)[0] @ g

    agree(measured(probe, "0"), variance(coordinates, torch.float32))
