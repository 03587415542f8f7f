"""``sevenn train``, run by ``equiv-probe run`` on crystals of MPtrj: a network that answers with its own graph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep

from .brute_force import ROTATIONS, agree, measured, stretched, variance

pytest.importorskip("sevenn", reason="SevenNet is not installed: make hosts HOST=sevenn")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

INPUT = """
model:
    chemical_species: auto
    cutoff: 4.0
    channel: 4
    is_parity: False
    lmax: 1
    num_convolution_layer: 2
    weight_nn_hidden_neurons: [8]
    radial_basis: {radial_basis_name: bessel, bessel_basis_num: 4}
    cutoff_function: {cutoff_function_name: poly_cut, poly_cut_p_value: 6}
    act_gate: {e: silu, o: tanh}
    act_scalar: {e: silu, o: tanh}
    self_connection_type: nequip
train:
    random_seed: 1
    is_train_stress: True
    epoch: 2
    optimizer: adam
    optim_param: {lr: 0.01}
    scheduler: exponentiallr
    scheduler_param: {gamma: 0.99}
    loss: mse
    device: cpu
    error_record: [[Energy, RMSE], [Force, RMSE], [Stress, RMSE], [TotalLoss, None]]
    per_epoch: 5
    is_ddp: False
data:
    batch_size: 4
    data_format: ase
    shift: per_atom_energy_mean
    scale: force_rms
    load_dataset_path: [data.xyz]
    data_divide_ratio: 0.2
"""


def trained(where: Path, frames: Any, *command: str) -> dict[str, Any]:
    """The weights after a training that this command runs."""
    where.mkdir()
    (where / "input.yaml").write_text(INPUT)
    io.write(where / "data.xyz", frames)
    sevenn = str(Path(sys.executable).parent / "sevenn")
    arguments = [*command, sevenn, "train", "input.yaml", "-s"]
    done = subprocess.run(arguments, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = torch.load(where / "checkpoint_best.pth", weights_only=False)["model_state_dict"]
    return dict(kept)


@pytest.mark.slow
def test_sevenn_train(data: Path, tmp_path: Path) -> None:
    frames = [a for a in io.read(data / "mptrj_1000" / "mptrj-random-1k.xyz", ":200") if 2 <= len(a) <= 10][:20]
    plain = trained(tmp_path / "plain", frames, sys.executable)
    run = str(Path(sys.executable).parent / "equiv-probe")
    probed = trained(tmp_path / "probed", frames, run, "run", "-s", "every=1")
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    report = json.loads((tmp_path / "probed" / "equiv_probe_report.json").read_text())
    found = {row["name"].rpartition("/")[2] for row in report["measured"]}
    assert {"inferred_total_energy", "inferred_force", "inferred_stress"} <= found
    compared(tmp_path / "probed" / "checkpoint_best.pth", frames[:4])


def compared(checkpoint: Path, frames: Any) -> None:
    """Numbers of the weights, in a network that is given stretched edges: forces, and stress as SevenNet orders it."""
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.checkpoint import SevenNetCheckpoint
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from torch_geometric.data import Batch

    model = SevenNetCheckpoint(checkpoint).build_model().eval()
    model.set_is_batch_data(True)

    def stretch(_: Any, args: Any) -> Any:
        graph = args[0].clone()
        graph["edge_vec"] = stretched(graph["edge_vec"])
        return (graph,)

    def batch(g: Any) -> Any:
        rotated = []
        for one in frames:
            atoms = one.copy()
            atoms.set_cell(one.cell.array @ g.numpy().T)
            atoms.positions = one.positions @ g.numpy().T
            rotated.append(AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, 4.0)))
        return Batch.from_data_list(rotated)

    def stress(graph: Any, g: Any) -> Any:
        xx, yy, zz, xy, yz, zx = graph["inferred_stress"].double().unbind(1)
        rows = [torch.stack(row, 1) for row in ((xx, xy, zx), (xy, yy, yz), (zx, yz, zz))]
        return (g.T @ torch.stack(rows, 1) @ g)[:, [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]]

    model.register_forward_pre_hook(stretch)
    plan = ep.RotationPlan("haar", ROTATIONS)
    with ep.Probe(model, plan=plan, full=1, cost=None) as probe:
        model(batch(torch.eye(3)))
    expected = variance(lambda g: model(batch(g))["inferred_force"].double() @ g)
    agree(measured(probe, "inferred_force"), expected)
    expected = variance(lambda g: stress(model(batch(g)), g))
    agree(measured(probe, "inferred_stress"), expected)
