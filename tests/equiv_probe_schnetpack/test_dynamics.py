"""The hook on real SchNetPack dynamics: right numbers, in eV and Å, and a trajectory that does not notice."""

from __future__ import annotations

import copy
import csv
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import schnetpack as spk
import torch
from schnetpack import md, units
from schnetpack.md.calculators import MDCalculator, SchNetPackCalculator, SchNetPackEnsembleCalculator
from schnetpack.md.integrators import VelocityVerlet
from schnetpack.md.neighborlist_md import NeighborListMD
from schnetpack.transform import MatScipyNeighborList

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe_schnetpack import EquivarianceHook
from equiv_probe_schnetpack.dynamics_log import DynamicsLog

from .. import warm_processes
from .spk_models import CUTOFF, Quadratic, batch, crystals, potential, quadratic_truth, structures

if TYPE_CHECKING:
    from ase import Atoms

MATRIX = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 3 * torch.eye(3).double()
HARTREE, BOHR, KCAL = 27.211386, 0.52917721, 0.0433641


@pytest.fixture(autouse=True)
def _load_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def simulator(
    path: Path,
    model: torch.nn.Module | list[torch.nn.Module],
    hooks: list[Any],
    *,
    atoms: list[Atoms] | None = None,
    replicas: int = 2,
    energy_unit: str = "kcal/mol",
    position_unit: str = "Ang",
    **kwargs: Any,
) -> md.Simulator:
    models = model if isinstance(model, list) else [model]
    files = [str(path / f"model_{k}") for k in range(len(models))]
    for one, file in zip(models, files, strict=True):
        torch.save(one, file)
    system = md.System()
    system.load_molecules(structures() if atoms is None else atoms, replicas, position_unit_input="Angstrom")
    torch.manual_seed(0)
    md.initial_conditions.MaxwellBoltzmannInit(300.0).initialize_system(system)
    calculators = (SchNetPackCalculator, SchNetPackEnsembleCalculator)
    if isinstance(model, list):
        kwargs["script_model"] = False
    calculator = calculators[isinstance(model, list)](
        files if isinstance(model, list) else files[0],
        "forces",
        energy_unit,
        position_unit,
        NeighborListMD(CUTOFF, 0.5, MatScipyNeighborList),
        energy_key="energy",
        **kwargs,
    )
    made = md.Simulator(system, VelocityVerlet(0.5), calculator, hooks, progress=False)
    return made.to(torch.float64)


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("energy_unit", "position_unit", "ev", "angstrom"),
    [("kcal/mol", "Ang", KCAL, 1.0), ("Hartree", "Bohr", HARTREE, BOHR), ("eV", "Angstrom", 1.0, 1.0)],
)
def test_planted_model_meets_its_closed_form_in_ev_and_angstrom(
    tmp_path: Path, energy_unit: str, position_unit: str, ev: float, angstrom: float
) -> None:
    """At the first step, before anything has moved, for each structure alone."""
    hook = EquivarianceHook(1, str(tmp_path / "log.csv"), ep.RotationPlan("lebedev-5", 2))
    model = Quadratic(MATRIX * 1e-3)
    run = simulator(tmp_path, model, [hook], energy_unit=energy_unit, position_unit=position_unit)
    run.system.momenta.zero_()
    run.integrator.time_step = 0.0
    run.simulate(1)
    found = rows(tmp_path / "log.csv")
    assert [(row["replica"], row["molecule"]) for row in found] == [(r, m) for r in (0, 1) for m in range(4)]
    for k, atoms in enumerate(structures()):
        given = batch([atoms])
        given["_positions"] = given["_positions"] / angstrom
        energy, forces = quadratic_truth(MATRIX * 1e-3, given)
        for row in (found[k], found[k + 4]):
            # 1e-5: SchNetPack's systems are loaded in single precision.
            assert row["energy_L_equiv_eV2"] == pytest.approx(energy * ev**2, rel=1e-5)
            assert row["forces_L_equiv_eV2_per_A2"] == pytest.approx(forces * (ev / angstrom) ** 2, rel=1e-5)
            assert row["net_force_eV_per_A"] < 1e-9, "it depends on no position but relative ones"
            x = given["_positions"].numpy() - given["_positions"].numpy().mean(0)
            own = -1e-3 * x @ (MATRIX + MATRIX.T).numpy()
            torque = np.linalg.norm(np.cross(x, own).sum(0)) * ev
            assert row["net_torque_eV"] == pytest.approx(torque, rel=1e-5)


@pytest.mark.parametrize("kind", ["painn", "unconstrained"])
def test_the_trajectory_does_not_notice(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(hooks: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        thermostat = md.simulation_hooks.LangevinThermostat(300.0, 100.0)  # draws from the global state
        made = simulator(tmp_path, potential(kind), [thermostat, *hooks])
        torch.manual_seed(1)
        made.simulate(25)
        return made.system.positions, made.system.momenta, torch.get_rng_state()

    hook = EquivarianceHook(3, str(tmp_path / "log.csv"))
    for plain, probed in zip(run([]), run([hook]), strict=True):
        assert torch.equal(plain, probed)
    found = rows(tmp_path / "log.csv")
    assert len(found) == 9 * 8
    assert [row["step"] for row in found[::8]] == list(range(0, 25, 3))
    assert found[8]["time_fs"] == pytest.approx(1.5, rel=1e-5)
    mean = np.mean([row["forces_L_equiv_eV2_per_A2"] for row in found])
    shown = capsys.readouterr().out
    assert "72 structures" in shown
    if kind == "painn":
        assert abs(mean) < 1e-20, "float64 rounding, squared"
    else:
        assert mean > 1e-8
        assert f"{1e3 * mean**0.5:.4g} meV/Å" in shown


def test_periodic_structures_with_stress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook = EquivarianceHook(2, str(tmp_path / "log.csv"))
    run = simulator(
        tmp_path, potential("schnet", stress=True), [hook], atoms=crystals(), energy_unit="eV", stress_key="stress"
    )
    run.simulate(3)
    found = rows(tmp_path / "log.csv")
    assert len(found) == 2 * 2 * 2
    for row in found:
        assert abs(row["stress_L_equiv_eV2_per_A6"]) < 1e-20
        assert np.isnan(row["net_torque_eV"])
    assert "not defined for periodic" in capsys.readouterr().out


def test_of_an_ensemble_the_mean_is_measured(tmp_path: Path) -> None:
    """``A`` and ``B`` with a mean that is isotropic: each is broken, the ensemble is not."""
    tilt = torch.diag(torch.tensor([1.0, -1.0, 0.0])).double()
    models: list[Any] = [Quadratic(torch.eye(3).double() + sign * tilt) for sign in (1, -1)]
    hook = EquivarianceHook(1, str(tmp_path / "log.csv"))
    simulator(tmp_path, models, [hook]).simulate(2)
    for row in rows(tmp_path / "log.csv"):
        assert abs(row["forces_L_equiv_eV2_per_A2"]) < 1e-24
    alone = EquivarianceHook(1, str(tmp_path / "alone.csv"))
    simulator(tmp_path, models[0], [alone]).simulate(2)
    assert min(row["forces_L_equiv_eV2_per_A2"] for row in rows(tmp_path / "alone.csv")) > 1e-5


def test_a_restart_continues_the_file(tmp_path: Path) -> None:
    def hook() -> EquivarianceHook:
        return EquivarianceHook(2, str(tmp_path / "log.csv"))

    first = simulator(tmp_path, potential("schnet"), [hook()])
    first.simulate(4)
    second = simulator(tmp_path, potential("schnet"), [hook()])
    second.restart_simulation(first.state_dict)
    second.simulate(3)
    assert [row["step"] for row in rows(tmp_path / "log.csv")[::8]] == [0, 2, 4, 6]


def test_a_run_that_was_killed_has_every_step_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It had gone on after its checkpoint, and died in the middle of a line; and a second run of one simulator."""
    path = tmp_path / "log.csv"
    first = simulator(tmp_path, potential("schnet"), [EquivarianceHook(2, str(path))])
    first.simulate(4)
    checkpoint = copy.deepcopy(first.state_dict)
    first.simulate(4)
    assert [row["step"] for row in rows(path)[::8]] == [0, 2, 4, 6]
    with path.open("a") as file:
        file.write("8,4.0,0,0,1e-")
    second = simulator(tmp_path, potential("schnet"), [EquivarianceHook(2, str(path))])
    second.restart_simulation(checkpoint)
    capsys.readouterr()
    second.simulate(3)
    assert [row["step"] for row in rows(path)[::8]] == [0, 2, 4, 6]
    assert len(rows(path)) == 32
    assert "in 32 structures" in capsys.readouterr().out
    path.write_text("step,energy\n0,1.0\n")
    third = simulator(tmp_path, potential("schnet"), [EquivarianceHook(2, str(path))])
    third.restart_simulation(checkpoint)
    with pytest.raises(EquivProbeError, match=r"log\.csv with the columns step, energy"):
        third.simulate(1)


def test_what_is_not_finite_is_not_left_out_in_silence(tmp_path: Path) -> None:
    log = DynamicsLog(tmp_path / "log.csv")
    log.begin(["forces"])
    for value in (4e-6, math.nan, 2e-6):
        log.add(0, 0.0, 1, {"forces": [value], "net_force": [math.nan], "net_torque": [math.nan]})
    said = log.summary(EquivarianceHook().plan)
    assert "forces      not finite in 1 of 3 structures" in said
    assert "net_force   not finite in 3 of 3 structures" in said
    assert "net_torque  not defined for periodic structures" in said


class Springs(MDCalculator):
    """A calculator without a model: every atom is drawn to the origin."""

    def calculate(self, system: md.System) -> None:
        self.results = {"forces": -system.positions.view(-1, 3), "energy": torch.zeros(8)}
        self._update_system(system)


def test_a_calculator_without_a_model_is_an_error(tmp_path: Path) -> None:
    run = simulator(tmp_path, potential("schnet"), [EquivarianceHook()])
    run.calculator = Springs([], "forces", "kJ/mol", "nm", energy_key="energy")
    with pytest.raises(EquivProbeError, match="Springs"):
        run.simulate(1)
    with pytest.raises(EquivProbeError, match="every=0"):
        EquivarianceHook(0)


CONFIG = """
defaults: [_self_]
device: cpu
precision: 64
seed: 1
simulation_dir: run
overwrite: false
restart: null
load_config: null
calculator:
  _target_: schnetpack.md.calculators.SchNetPackCalculator
  model_file: {model}
  force_key: forces
  energy_key: energy
  energy_unit: eV
  position_unit: Ang
  required_properties: []
  neighbor_list:
    _target_: schnetpack.md.neighborlist_md.NeighborListMD
    cutoff: 4.0
    cutoff_shell: 0.5
    base_nbl: schnetpack.transform.MatScipyNeighborList
system:
  molecule_file: {molecules}
  load_system_state: null
  n_replicas: 1
  position_unit_input: Angstrom
  mass_unit_input: 1.0
  initializer:
    _target_: schnetpack.md.UniformInit
    temperature: 300
dynamics:
  n_steps: 21
  progress: false
  thermostat: null
  barostat: null
  simulation_hooks: []
  integrator:
    _target_: schnetpack.md.integrators.VelocityVerlet
    time_step: 0.5
callbacks:
  equivariance:
    _target_: equiv_probe_schnetpack.EquivarianceHook
    every: 10
hydra:
  run:
    dir: {run}
"""


@pytest.mark.slow
def test_spkmd_takes_it_from_its_configuration(tmp_path: Path) -> None:
    """The wheel of SchNetPack 2.2.0 lacks its own `md_configs/*.yaml`, so the whole configuration is given."""
    from ase.io import write

    torch.save(potential("unconstrained"), tmp_path / "model")
    write(tmp_path / "ethanol.xyz", structures()[0])
    text = CONFIG.format(model=tmp_path / "model", molecules=tmp_path / "ethanol.xyz", run=tmp_path / "run")
    (tmp_path / "md.yaml").write_text(text)
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]  # the stored model is unpickled from this folder's modules
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, sys.path)])
    given = ("--config-dir", tmp_path, "--config-name", "md")
    done = warm_processes.run(
        "schnetpack.md.cli:simulate", *given, cwd=tmp_path, env=environment, imported=warm_processes.SCHNETPACK
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "equiv_probe: symmetry error in 3 structures" in done.stdout
    found = rows(tmp_path / "run" / "equivariance.csv")
    assert [row["step"] for row in found] == [0, 10, 20]
    assert all(row["forces_L_equiv_eV2_per_A2"] > 1e-6 for row in found)


def test_units_are_what_schnetpack_says() -> None:
    assert units.convert_units("kcal/mol", "eV") == pytest.approx(KCAL, rel=1e-5)
    assert spk.units.eV == units.eV
