"""fairchem's EScAIP on ethanol, in a loop of one's own: it is equivariant but for three rows of its force head."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep

from .batches import batch_is_loop, structures
from .brute_force import ROTATIONS, agree, bits, measured, variance

pytest.importorskip("fairchem.core", reason="fairchem is not installed: make hosts HOST=fairchem")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

SIZES = {
    "hidden_size": 32,
    "num_layers": 1,
    "atten_num_heads": 2,
    "atom_embedding_size": 16,
    "node_direction_embedding_size": 16,
    "node_direction_expansion_size": 4,
    "edge_distance_expansion_size": 16,
    "edge_distance_embedding_size": 16,
    "freequency_list": [6, 4, 3, 3],  # fills the 16 channels of a head
    "max_num_elements": 20,
    "max_atoms": 100,
    "max_batch_size": 8,
}
NEIGHBOURS = {
    "max_radius": 6.0,
    "knn_k": 20,  # more than there are within the radius: none is cut off
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "knn_pad_size": 30,
    "use_pbc": False,
}
DIRECTION = "output_heads.forces.force_direction_layer"


def small() -> Any:
    """A backbone of 1 layer, with heads for energies and for forces that are no gradients."""
    from fairchem.core.models.base import HydraModelV2
    from fairchem.core.models.escaip.EScAIP import EScAIPBackbone, EScAIPDirectForceHead, EScAIPEnergyHead

    torch.manual_seed(0)
    how = {"regress_forces": True, "direct_forces": True, "use_compile": False, "use_padding": False}
    backbone = EScAIPBackbone(atten_name="math", **how, **SIZES, **NEIGHBOURS)
    heads = {"energy": EScAIPEnergyHead(backbone), "forces": EScAIPDirectForceHead(backbone)}
    return HydraModelV2(backbone, heads)


def batched(frames: list[Any], g: Any = None) -> Any:
    """The batch of some molecules, rotated by ``g``, ``(3, 3)``."""
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    g = torch.eye(3) if g is None else g
    graphs = []
    for frame in frames:
        atoms = frame.copy()
        atoms.positions, atoms.cell, atoms.pbc = frame.positions @ g.numpy().T, 30 * g.numpy().T, False
        graphs.append(AtomicData.from_ase(atoms, task_name="omol"))
    return atomicdata_list_to_batch(graphs)


def trained(frames: list[Any], *, probed: bool) -> tuple[Any, Any]:
    """A model after ten steps on forces, and its probe."""
    model = small()
    probe = ep.Probe(model, every=1)
    if probed:
        probe.attach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for number in range(10):
        part = frames[4 * number : 4 * number + 4]
        forces = torch.cat([torch.tensor(one.get_forces(), dtype=torch.float32) for one in part])
        out = model(batched(part))
        loss = (out["forces"]["forces"] - forces).square().mean() + 1e-4 * out["energy"]["energy"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probe.remove()
    return model, probe


def test_training(data: Path) -> None:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":40")
    plain, _ = trained(frames, probed=False)
    model, probe = trained(frames, probed=True)
    assert bits(plain) == bits(model)
    assert not probe.failures
    assert measured(probe, "energy.energy") < 1e-9, "energies of EScAIP are invariant by construction"
    assert measured(probe, "forces.forces") > 1e-3

    model.eval()
    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, budget=None) as broken:
        model(batched(frames[:4]))
    expected = variance(lambda g: model(batched(frames[:4], g))["forces"]["forces"] @ g.float())
    agree(measured(broken, "forces.forces"), expected)


def test_trace_finds_the_three_rows(data: Path) -> None:
    """One coefficient for each axis multiplies an edge's direction, between calls: made equal, nothing is broken."""
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":40")
    model, _ = trained(frames, probed=False)
    model.eval()
    batch = batched(frames[:2])
    traced = ep.trace(model, batch, output="forces.forces")
    assert [layer.path for layer in traced.culprits] == ["output_heads.forces"]

    def error() -> float:
        spread = variance(lambda g: model(batched(frames[:2], g))["forces"]["forces"] @ g.float())
        size = model(batched(frames[:2]))["forces"]["forces"].detach().square().mean()
        return float((spread / size) ** 0.5)

    assert error() > 0.1
    with torch.no_grad():
        last = [one for one in model.get_submodule(DIRECTION).modules() if isinstance(one, torch.nn.Linear)][-1]
        assert len(last.weight) == 3
        last.weight.copy_(last.weight.mean(0, keepdim=True).expand(3, -1))
    assert error() < 1e-5


UMA = "fairchem.core.models.uma.escn_md"
MLIP = "fairchem.core.units.mlip_unit.mlip_unit"
SMALL_ESEN = {
    "model": f"{UMA}.eSCNMDBackbone",
    "sphere_channels": 8,
    "hidden_channels": 8,
    "edge_channels": 8,
    "num_distance_basis": 8,
    "num_layers": 1,
    "cutoff": 5.0,
    "otf_graph": True,
    "direct_forces": False,
    "regress_forces": True,
    "regress_stress": True,
    "always_use_pbc": False,
    "use_dataset_embedding": False,
    "dataset_list": ["omat"],
}


def checkpoint(path: Path) -> Path:
    """An eSEN with random weights in a file of the kind that fairchem publishes, with the tasks of its training."""
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    torch.manual_seed(0)
    model = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": SMALL_ESEN,
        "heads": {"efs": {"module": f"{UMA}.MLP_EFS_Head", "prefix": "omat"}},
        "pass_through_head_outputs": True,
    }
    tasks = [
        {
            "_target_": f"{MLIP}.Task",
            "name": f"omat_{name}",
            "level": "atom" if name == "forces" else "system",
            "property": name,
            "out_spec": {"_target_": f"{MLIP}.OutputSpec", "dim": dim, "dtype": "float32"},
            "normalizer": {"_target_": "fairchem.core.modules.normalization.normalizer.Normalizer"},
            "datasets": ["omat"],
        }
        for name, dim in {"energy": [1], "forces": [3], "stress": [1, 9]}.items()
    ]
    state = hydra.utils.instantiate(model).state_dict()
    averaged = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(1)}
    torch.save(MLIPInferenceCheckpoint(model, state, averaged, tasks), path)
    return path


def test_a_batch_of_a_checkpoint(tmp_path: Path) -> None:
    """Of eSEN; fairchem 2.24's own calculator takes no EScAIP."""
    batch_is_loop(f"fairchem:{checkpoint(tmp_path / 'esen.pt')}", structures(), tolerance=1e-4)


def test_the_broken_part_in_closed_form(data: Path) -> None:
    """Three evaluations and no rotation, as integrations/escaip says; a design of degree 4 averages it exactly."""
    sys.path.append(str(Path(__file__).parents[2] / "integrations" / "escaip"))
    import escaip

    frames = io.read(data / "3bpa" / "train_mixedT.xyz", ":2")
    labels = torch.cat([torch.tensor(one.get_forces()) for one in frames])
    model = escaip.escaip("small").eval()
    before = bits(model)
    found = escaip.decomposed(model, escaip.batch(frames), labels)
    assert bits(model) == before

    rotations = ep.RotationPlan("icosahedral", 1, seed=3).rotations().double()
    with torch.no_grad():
        values = torch.stack(
            [
                escaip.forces_of(model, escaip.batch(frames, g.expand(len(frames), 3, 3))).double() @ g
                for g in rotations.reshape(-1, 3, 3)
            ]
        )
    assert found["L_equiv"] == pytest.approx(float(values.var(0, unbiased=False).mean()), rel=1e-4)
    assert found["L_total"] == pytest.approx(float((values - labels).square().mean()), rel=1e-4)
    assert found["share"] > 0.005
    with escaip.all_rows(model, escaip.rows(model).weight.detach()[0], None):
        assert escaip.decomposed(model, escaip.batch(frames), labels)["L_equiv"] < 1e-9 * found["L_equiv"]
