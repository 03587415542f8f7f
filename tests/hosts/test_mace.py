"""``mace_run_train``, run by ``equiv-probe run`` on rMD17 ethanol: its dict holds labels, weights and fields too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import equiv_probe as ep
from equiv_probe_ase.evaluators import LoopEvaluator, evaluator_for

from .batches import batch_is_loop, deviations, structures
from .brute_force import ROTATIONS, agree, measured, stretched, variance

pytest.importorskip("mace", reason="MACE is not installed: make hosts HOST=mace")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

OPTIONS = (
    "--name=m --train_file=train.xyz --valid_file=valid.xyz --E0s=average --model=MACE --hidden_irreps=8x0e+8x1o "
    "--r_max=4.0 --batch_size=4 --max_num_epochs=2 --device=cpu --default_dtype=float64 --energy_key=REF_energy "
    "--forces_key=REF_forces --num_interactions=2 --max_ell=1 --correlation=2 --seed=1"
)


def trained(where: Path, frames: Any, *command: str) -> Any:
    """The model that MACE saved after a training that this command runs."""
    where.mkdir()
    io.write(where / "train.xyz", frames[:16])
    io.write(where / "valid.xyz", frames[16:])
    script = str(Path(sys.executable).parent / "mace_run_train")
    arguments = [*command, script, *OPTIONS.split()]
    done = subprocess.run(arguments, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(where / "m.model", weights_only=False, map_location="cpu")


def test_mace_run_train(data: Path, tmp_path: Path) -> None:
    frames = []
    for one in io.read(data / "ethanol_rmd17" / "train.xyz", ":24"):
        one.info, one.arrays["REF_forces"] = {"REF_energy": one.get_potential_energy()}, one.get_forces()
        one.calc = None
        frames.append(one)
    plain = trained(tmp_path / "plain", frames, sys.executable)
    run = str(Path(sys.executable).parent / "equiv-probe")
    model = trained(tmp_path / "probed", frames, run, "run", "-s", "every=1")
    expected = plain.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    report = json.loads((tmp_path / "probed" / "equiv_probe_report.json").read_text())
    found = {row["name"].rpartition("/")[2] for row in report["measured"]}
    assert {"energy", "forces"} <= found
    assert not any("feats" in name or "weight" in name for name in found)
    compared(model, frames[:4])


def compared(model: Any, frames: Any) -> None:
    """Numbers of the weights, in a network that is given stretched positions."""
    from mace import data as mace_data
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    torch.set_default_dtype(torch.float64)
    configurations = [mace_data.config_from_atoms(one) for one in frames]
    graphs = [mace_data.AtomicData.from_config(one, z_table=table, cutoff=float(model.r_max)) for one in configurations]
    batch = torch_geometric.Batch.from_data_list(graphs).to_dict()
    torch.set_default_dtype(torch.float32)
    count = len(batch["ptr"]) - 1
    middle = torch.stack([batch["positions"][batch["batch"] == k].mean(0) for k in range(count)])[batch["batch"]]
    model.register_forward_pre_hook(lambda _, args: ({**args[0], "positions": stretched(args[0]["positions"])},))

    def forces(g: Any) -> Any:
        positions = (batch["positions"] - middle) @ g.T + middle
        return model({**batch, "positions": positions})["forces"] @ g

    model.eval()
    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as probe:
        model(dict(batch))
    agree(measured(probe, "forces"), variance(forces))


def random_model(path: Path) -> Path:
    """A small MACE with random weights in float64, saved as ``mace_run_train`` saves it."""
    import numpy as np
    from e3nn.o3 import Irreps
    from mace.modules import ScaleShiftMACE, interaction_classes

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    interaction = interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = ScaleShiftMACE(
        r_max=4.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=5,
        hidden_irreps=Irreps("16x0e+16x1o"),
        MLP_irreps=Irreps("16x0e"),
        atomic_energies=np.array([-13.0, -1030.0, -2040.0, -1300.0, -460.0]),
        avg_num_neighbors=8.0,
        atomic_numbers=[1, 6, 8, 11, 17],
        correlation=2,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.set_default_dtype(torch.float32)
    torch.save(model, path)
    return path


def test_a_batch_of_mace(tmp_path: Path) -> None:
    spec = f"mace:{random_model(tmp_path / 'mace.model')}"
    calculator = batch_is_loop(spec, structures(), tolerance=1e-11, network=lambda one: one.models[0])
    evaluator, loop = evaluator_for(calculator), LoopEvaluator(calculator)
    found, expected = (one.evaluate(structures(), ["energies", "free_energy"]) for one in (evaluator, loop))
    assert max(deviations(found, expected).values()) < 1e-12


def test_a_batch_of_a_committee(tmp_path: Path) -> None:
    from mace.calculators import MACECalculator

    one = random_model(tmp_path / "one.model")
    other = torch.load(one, weights_only=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    torch.save(other, tmp_path / "other.model")
    calculator = MACECalculator([str(one), str(tmp_path / "other.model")], device="cpu", default_dtype="float64")
    evaluator, loop = evaluator_for(calculator), LoopEvaluator(calculator)
    assert evaluator.batched
    found, expected = (some.evaluate(structures(), ["energy", "forces"]) for some in (evaluator, loop))
    assert max(deviations(found, expected).values()) < 1e-11
    alone = evaluator_for(MACECalculator(str(one), device="cpu", default_dtype="float64"))
    assert deviations(found, alone.evaluate(structures(), ["energy", "forces"]))["forces"] > 1e-3
