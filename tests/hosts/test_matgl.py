"""matgl's ``PotentialLightningModule`` on crystals of MPtrj with ``EQUIV_PROBE``: lattices beside fractions."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep

from .batches import batch_is_loop, structures
from .brute_force import ROTATIONS, agree, bits, measured, variance

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matgl", reason="matgl is not installed: make hosts HOST=matgl")
io = pytest.importorskip("ase.io", reason="ASE is not installed")
lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")


def trained(data: Path, where: Path) -> tuple[Any, Any, Any]:
    """A TensorNet after two epochs on crystals, its trainer and a batch."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from matgl.graph.data import MGLDataLoader, collate_fn_pes, split_dataset
    from matgl.models import TensorNet
    from matgl.utils.training import MGLDatasetLoader, PotentialLightningModule

    where.mkdir()
    frames = [a for a in io.read(data / "mptrj_1000" / "mptrj-random-1k.xyz", ":120") if len(a) < 12][:20]
    for number, one in enumerate(frames):
        labels = {"energy": one.get_potential_energy(), "forces": one.get_forces(), "stress": one.get_stress()}
        frames[number] = Atoms(one.symbols, one.positions, cell=one.cell, pbc=True)
        frames[number].calc = SinglePointCalculator(frames[number], **labels)
    io.write(where / "crystals.xyz", frames)
    graphs = MGLDatasetLoader.from_extxyz(str(where / "crystals.xyz"), cutoff=4.0, save_cache=False, root=str(where))
    lightning.seed_everything(1, verbose=False)
    parts = split_dataset(graphs, frac_list=[0.6, 0.2, 0.2], shuffle=True, random_state=1)
    collate = partial(collate_fn_pes, include_stress=True)
    sets = dict(zip(("train_data", "val_data", "test_data"), parts, strict=True))
    train, val, _ = MGLDataLoader(**sets, collate_fn=collate, batch_size=4, num_workers=0)
    options = {"units": 16, "nblocks": 1, "num_rbf": 8, "use_smooth": True, "use_warp": False}
    net = TensorNet(element_types=graphs.element_types, is_intensive=False, cutoff=4.0, **options)
    module = PotentialLightningModule(net, include_line_graph=False, stress_weight=0.1, lr=5e-3)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, inference_mode=False, logger=False, default_root_dir=where, **quiet
    )
    trainer.fit(module, train, val)
    return module, trainer, next(iter(val))


def test_potential_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIV_PROBE", "")
    plain, _, _ = trained(data, tmp_path / "plain")
    monkeypatch.setenv("EQUIV_PROBE", "every=1,cost=none,full=1")
    monkeypatch.chdir(tmp_path)
    module, trainer, batch = trained(data, tmp_path / "probed")
    assert bits(plain) == bits(module)
    assert [name for name in trainer.callback_metrics if "equiv" in name and name.endswith("L_equiv")]
    os.environ.pop("EQUIV_PROBE", None)
    graph, lattice, state, *_ = batch
    potential = module.eval()

    def stretch(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "lat": kwargs["lat"] * torch.tensor([1.1, 1.0, 0.9])}

    potential.register_forward_pre_hook(stretch, with_kwargs=True)

    def call(g: Any) -> Any:
        return potential(g=copy.deepcopy(graph), lat=lattice @ g.T, state_attr=state, l_g=None)

    with ep.Probe(potential, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        call(torch.eye(3))
    expected = variance(lambda g: call(g)[1] @ g, torch.float32)
    agree(measured(probe, "1"), expected)
    expected = variance(lambda g: g.T @ call(g)[2].reshape(-1, 3, 3) @ g, torch.float32)
    agree(measured(probe, "stress"), expected)
    assert not [one for one in probe.controls if one.failed], "matgl's fourth output is a zero, unless it is asked for"

    only, cell = type(graph).from_data_list([graph.get_example(0)]), lattice[:1]

    def single(g: Any) -> Any:
        return potential(g=copy.deepcopy(only), lat=cell @ g.T, state_attr=state[:1], l_g=None)

    assert single(torch.eye(3))[2].shape == (3, 3), "a stress without an axis of crystals"
    with ep.Probe(potential, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        single(torch.eye(3))
    agree(measured(probe, "stress"), variance(lambda g: g.T @ single(g)[2] @ g, torch.float32))


@pytest.mark.parametrize("architecture", ["TensorNet", "M3GNet"])
def test_a_batch_of_a_saved_potential(architecture: str, tmp_path: Path) -> None:
    """With random weights; energies at their own zero, so that the last digits of float32 are those of forces too."""
    from matgl import models
    from matgl.apps.pes import Potential

    torch.manual_seed(0)
    options = {"TensorNet": {"nblocks": 1, "num_rbf": 8, "use_smooth": True, "use_warp": False}, "M3GNet": {}}
    elements = ("H", "C", "O", "Na", "Cl")
    kind = getattr(models, architecture)
    net = kind(element_types=elements, is_intensive=False, cutoff=5.0, units=16, **options[architecture])
    Potential(net, calc_stresses=True).save(str(tmp_path / "saved"))
    batch_is_loop(f"matgl:{tmp_path / 'saved'}", structures(), tolerance=1e-5, network=lambda one: one.potential)
