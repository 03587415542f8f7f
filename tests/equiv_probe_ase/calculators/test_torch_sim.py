"""torch-sim models by name: planted ones with closed forms, and torch-sim's own pair potentials against ASE's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet

import equiv_probe as ep
from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, audit
from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.calculators.torch_sim import TorchSimCalculator
from equiv_probe_ase.evaluators import LoopEvaluator, evaluator_for

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch_sim", reason="torch-sim is not installed")

PLANTED = """
import torch
from torch_sim.models.interface import ModelInterface

STIFFNESS = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)

class Springs(ModelInterface):
    '''E = ½ Σ x·K·x about the centroid, K = diag(1, 2, 6) eV/Å²: the twirled forces are −tr(K)/3 x = −3 x.'''

    def __init__(self, device=None, dtype=torch.float64, coupled=False, shape=1):
        super().__init__()
        self._device, self._dtype = torch.device(device or "cpu"), dtype
        self._compute_forces, self._compute_stress = True, False
        self.coupled, self.shape = coupled, shape
        self.calls = 0

    def forward(self, state):
        self.calls += 1
        sums = torch.zeros((state.n_systems, 3), dtype=self._dtype).index_add_(0, state.system_idx, state.positions)
        counts = torch.bincount(state.system_idx, minlength=state.n_systems)[:, None]
        x = state.positions - (sums / counts)[state.system_idx]
        if self.coupled:  # as by normalisation over all that is in the batch
            x = x / x.square().mean().sqrt()
        energy = torch.zeros(state.n_systems, dtype=self._dtype)
        energy.index_add_(0, state.system_idx, 0.5 * (STIFFNESS * x.square()).sum(-1))
        return {"energy": energy[: len(energy) // self.shape], "forces": -STIFFNESS * x}
"""


@pytest.fixture
def planted(tmp_path: Path) -> str:
    (tmp_path / "springs.py").write_text(PLANTED)
    return f"torchsim:{tmp_path / 'springs.py'}:Springs"


def molecules() -> list[Atoms]:
    """Three, of 4, 7 and 4 atoms, in Å."""
    positions = [np.random.default_rng(seed).normal(size=(size, 3)) for seed, size in enumerate((4, 7, 4))]
    return [Atoms("C" * len(x), x) for x in positions]


def argon() -> list[Atoms]:
    """Crystals of two sizes and a molecule, rattled."""
    found = [bulk("Ar", "fcc", 5.3), bulk("Ar", "fcc", 5.3, cubic=True) * (2, 1, 1), Atoms("Ar3", 3.8 * np.eye(3))]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return found


def test_an_audit_finds_what_was_planted(planted: str) -> None:
    """Mean over rotations of |(gᵀKg − k) x|² is |x|² (tr K² − (tr K)²/3)/3 = 14/3 |x|² with k = tr K/3."""
    report = audit(planted, molecules(), properties=["energy", "forces"], plan=ep.RotationPlan("icosahedral", 4))
    spread = [(14 / 3) * np.square(one.positions - one.positions.mean(0)).mean() for one in molecules()]
    found = [record["quantities"]["forces"]["equiv"] for record in report.structures]  # (meV/Å)²
    np.testing.assert_allclose(found, 1e6 * np.array(spread), rtol=1e-6)
    assert report.protocol["evaluator"] == "TorchSimCalculator, batched"
    assert report.protocol["model calls"] < report.protocol["evaluations"] / 10


def test_an_averaged_model_is_the_twirl(planted: str) -> None:
    atoms = molecules()[0]
    x = atoms.positions - atoms.positions.mean(0)
    atoms.calc = TwirledCalculator(make_calculator(planted), plan=ep.RotationPlan("tetrahedral", 1))
    np.testing.assert_allclose(atoms.get_forces(), -3 * x, atol=1e-10)
    atoms.calc = make_calculator(planted)  # negative control: the identity alone is not the average
    np.testing.assert_allclose(atoms.get_forces(), -np.array([1.0, 2.0, 6.0]) * x, atol=1e-12)


def test_dynamics_are_monitored(planted: str) -> None:
    atoms = molecules()[0]
    atoms.calc = make_calculator(planted)
    dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
    monitor = SymmetryMonitor(dynamics, every=1, plan=ep.RotationPlan("icosahedral", 4), log=None)
    dynamics.run(2)
    (forces,) = [one for one in monitor.report().measured if one.name == "forces"]
    x = atoms.positions - atoms.positions.mean(0)  # hardly moved in two steps
    assert forces.rms == pytest.approx(1e3 * np.sqrt(14 / 3 * np.square(x).mean()), rel=1e-2)


def test_a_batch_that_couples_its_structures_is_not_trusted(planted: str) -> None:
    report = audit(f"{planted}?coupled=true", molecules(), properties=["energy", "forces"])
    assert "one call per structure" in report.protocol["evaluator"]
    assert any("batch" in str(control) for control in report.controls if control.failed)


def test_lennard_jones_of_torch_sim_is_that_of_ase() -> None:
    """In a batch of crystals and a molecule.

    Energies of ASE's are shifted by a constant for each pair within the cutoff, which one pair within it tells. In
    torch-sim 0.3 every pair is counted twice in forces and stress, and once in the energy.
    """
    spec = "torchsim:torch_sim.models.lennard_jones:LennardJonesModel?sigma=3.4&epsilon=0.0104&cutoff=8.5"
    evaluator = evaluator_for(make_calculator(spec, dtype="float64"))
    dimer = Atoms("Ar2", [[0, 0, 0], [3.6, 0, 0]])
    (pair,) = evaluator.evaluate([dimer], ["energy", "forces"])
    reach = (3.4 / 3.6) ** 6
    assert pair["energy"] == pytest.approx(4 * 0.0104 * (reach**2 - reach), rel=1e-12)
    counted = round(pair["forces"][1, 0] / (24 * 0.0104 / 3.6 * (2 * reach**2 - reach)))
    assert counted in {1, 2}
    own = LoopEvaluator(LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5))
    for some, names in ((argon(), ["forces"]), (argon()[:2], ["forces", "stress"])):
        found = evaluator.evaluate(some, names)
        for one, other in zip(found, own.evaluate(some, names), strict=True):
            for name in names:
                np.testing.assert_allclose(one[name], counted * other[name], rtol=1e-9, atol=1e-12)


def test_passes_that_fit_into_memory_keep_the_order(planted: str) -> None:
    some = [*molecules(), *molecules()[::-1]]
    calculator = make_calculator(f"{planted}?max_memory_scaler=8")  # atoms, since there is no cell
    expected = evaluator_for(make_calculator(planted)).evaluate(some, ["energy", "forces"])
    found = evaluator_for(calculator).evaluate(some, ["energy", "forces"])
    assert calculator.model.calls == 4  # 4 + 4, 4 + 4, 7, 7
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["forces"], other["forces"])
    large = evaluator_for(make_calculator(f"{planted}?max_memory_scaler=5"))  # what does not fit is tried alone
    assert len(large.evaluate(some, ["energy"])) == 6


def test_models_and_results_of_another_shape_are_refused(planted: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"energy of shape \(3,\) from Springs; expected 6"):
        make_calculator(f"{planted}?shape=2").calculate_batch([*molecules(), *molecules()], ["energy"])
    with pytest.raises(ep.EquivProbeError, match="without device; expected a ModelInterface"):
        TorchSimCalculator(object())
    with pytest.raises(ep.EquivProbeError, match="ModelInterface"):
        make_calculator("torchsim:ase.calculators.emt:EMT")


def knows_slabs() -> bool:
    import torch_sim

    return torch_sim.SimState.__annotations__["pbc"] not in {bool, "bool"}


def test_a_slab_is_periodic_or_refused(planted: str) -> None:
    """torch-sim 0.3 has one flag for the three directions: a slab would lose its period without a word."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    calculator = make_calculator(planted)
    if knows_slabs():
        assert np.isfinite(calculator.calculate_batch([slab], ["energy"])[0]["energy"])
    else:
        with pytest.raises(ep.EquivProbeError, match="periodicity True/True/False"):
            calculator.calculate_batch([slab], ["energy"])
    slab.pbc = True
    assert np.isfinite(calculator.calculate_batch([slab], ["energy"])[0]["energy"])
