"""fairchem's EScAIP, where fairchem is installed: all of its error comes from the three rows of its force head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import equiv_probe as ep

pytest.importorskip("fairchem.core", reason="fairchem is not installed: make hosts HOST=fairchem")
HEAD = "output_heads.forces"


def escaip(seed: int, *, direct: bool = True) -> tuple[Any, Any]:
    """A backbone of one layer with heads for energies and forces, or for an energy and its gradient."""
    from ase.build import molecule
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
    from fairchem.core.models.base import HydraModelV2
    from fairchem.core.models.escaip import EScAIP as heads_of

    sizes = dict.fromkeys(("atom_embedding_size", "node_direction_embedding_size", "edge_distance_embedding_size"), 16)
    backbone = heads_of.EScAIPBackbone(
        regress_forces=True,
        direct_forces=direct,
        use_compile=False,
        use_padding=False,
        use_pbc=False,
        **{"hidden_size": 32, "num_layers": 1, "atten_num_heads": 2, "atten_name": "math", **sizes},
        node_direction_expansion_size=4,
        edge_distance_expansion_size=16,
        freequency_list=[6, 4, 3, 3],
        max_num_elements=20,
        max_atoms=100,
        max_batch_size=8,
        max_radius=6.0,
        knn_k=20,
        knn_soft=True,
        knn_sigmoid_scale=0.2,
        knn_lse_scale=0.1,
        knn_use_low_mem=True,
        knn_pad_size=30,
    )
    torch.manual_seed(seed)
    if direct:
        heads = {
            "energy": heads_of.EScAIPEnergyHead(backbone),
            "forces": heads_of.EScAIPDirectForceHead(backbone),
        }
    else:
        heads = {"both": heads_of.EScAIPGradientEnergyForceStressHead(backbone, wrap_property=False)}
    atoms = molecule("CH3CH2OH", vacuum=10.0, pbc=False)
    atoms.rattle(0.1, seed=seed)
    batch = atomicdata_list_to_batch([AtomicData.from_ase(atoms, task_name="omol")])
    return HydraModelV2(backbone, heads), batch


def test_the_force_head_adds_all_of_the_error() -> None:
    for seed in range(3):
        found = ep.trace(*escaip(seed))
        assert [one.path for one in found.culprits] == [HEAD]
        assert found.culprits[0].adds == pytest.approx(1.0, abs=1e-3)
        assert f"{HEAD}.force_direction_layer gives three invariant numbers each" in " ".join(str(found).split())


def test_with_equal_rows_it_is_equivariant() -> None:
    """The same number times x, y and z of an edge is a vector."""
    model, batch = escaip(0)
    last = [one for one in model.output_heads["forces"].force_direction_layer.modules() if hasattr(one, "weight")][-1]
    with torch.no_grad():
        last.weight[1:] = last.weight[:1]
        if last.bias is not None:
            last.bias[1:] = last.bias[:1]
    found = ep.trace(model, batch)
    assert found.culprits == []
    assert found.broken == []


def test_the_head_that_conserves_energy_is_equivariant() -> None:
    """Its features are invariant, and its forces are the gradient of their energy: nothing is broken anywhere."""
    for seed in range(2):
        found = ep.trace(*escaip(seed, direct=False))
        assert found.broken == [], str(found)
        assert found.culprits == []
        assert any("forces" in one.name for one in found.outputs)
