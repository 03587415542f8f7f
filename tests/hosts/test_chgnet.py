"""CHGNet's own ``Trainer``, on crystals of MPtrj: called with a list of ``CrystalGraph``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import equiv_probe as ep

from .brute_force import ROTATIONS, agree, bits, measured, variance

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("chgnet", reason="CHGNet is not installed: make hosts HOST=chgnet")
io = pytest.importorskip("ase.io", reason="ASE is not installed")


def trained(data: Path, where: Path, probed: bool) -> tuple[Any, Any, list[Any]]:
    """CHGNet after an epoch on eight crystals, the probe, and the batch that it saw last."""
    from chgnet.data.dataset import StructureData, get_train_val_test_loader
    from chgnet.model import CHGNet
    from chgnet.trainer import Trainer
    from pymatgen.io.ase import AseAtomsAdaptor

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    frames = [a for a in io.read(data / "mptrj_1000" / "mptrj-random-1k.xyz", ":60") if 2 <= len(a) <= 12][:16]
    structures = [AseAtomsAdaptor.get_structure(a) for a in frames]
    energies = [a.get_potential_energy() / len(a) for a in frames]
    set_ = StructureData(structures, energies, [a.get_forces() for a in frames], shuffle=False)
    train, val, _ = get_train_val_test_loader(set_, batch_size=4, train_ratio=0.5, val_ratio=0.25)
    torch.manual_seed(0)
    small = {"atom_fea_dim": 16, "bond_fea_dim": 16, "angle_fea_dim": 16, "n_conv": 2, "mlp_hidden_dims": (16,)}
    model, seen = CHGNet(**small), []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    probe = ep.Probe(model, every=1)
    if probed:
        probe.attach()
    Trainer(model=model, targets="ef", optimizer="Adam", criterion="MSE", epochs=1, use_device="cpu").train(
        train, val, save_dir=str(where)
    )
    probe.remove()
    return model, probe, seen[-1]


@pytest.mark.slow
def test_the_trainer(data: Path, tmp_path: Path) -> None:
    plain, _, _ = trained(data, tmp_path / "plain", probed=False)
    model, probe, graphs = trained(data, tmp_path / "probed", probed=True)
    assert bits(plain) == bits(model)
    assert measured(probe, "e") <= 1e-9, "CHGNet is equivariant by construction"
    assert not probe.failures

    def stretch(_: Any, args: Any) -> Any:
        moved = [g.__class__(**{**vars(g), "lattice": g.lattice * torch.tensor([1.3, 1.0, 0.8])}) for g in args[0]]
        return (moved, *args[1:])

    model.eval()
    handle = model.register_forward_pre_hook(stretch)
    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as broken:
        model(graphs, task="ef")

    def forces(g: Any) -> Any:
        rotated = [one.__class__(**{**vars(one), "lattice": one.lattice @ g.T}) for one in graphs]
        return torch.cat(model(rotated, task="ef")["f"]) @ g

    agree(measured(broken, "f"), variance(forces, torch.float32))
    handle.remove()
