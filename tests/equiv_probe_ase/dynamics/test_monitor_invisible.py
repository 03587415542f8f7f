"""The trajectory does not notice the monitor: bit for bit, with any dynamics, thermostat, filter and calculator."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms, Hookean
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.melchionna import MelchionnaNPT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from threadpoolctl import threadpool_limits

import equiv_probe as ep
from equiv_probe_ase import SymmetryMonitor, make_calculator
from equiv_probe_ase.dynamics import frame_symmetry

from .monitored import TILT, TRANSFORMER, LinearField, crystal, molecule_in_motion, moving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over several threads differ from run to run in their last bits (tblite's do), watched or not."""
    with threadpool_limits(1):
        yield


def verlet(atoms: Atoms) -> Any:
    return VelocityVerlet(atoms, 1.0 * units.fs)


def langevin(atoms: Atoms) -> Any:
    np.random.seed(5)  # noqa: NPY002 - Langevin draws from the global state unless told otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Langevin(atoms, 1.0 * units.fs, temperature_K=300, friction=0.01 / units.fs)


def berendsen(atoms: Atoms) -> Any:
    bath = {"temperature_K": 300, "pressure_au": 1e-4, "compressibility_au": 1e-2}
    return NPTBerendsen(atoms, 1.0 * units.fs, **bath)


def npt(atoms: Atoms) -> Any:
    return MelchionnaNPT(atoms, 1.0 * units.fs, temperature_K=300, externalstress=0.0, ttime=20 * units.fs, pfactor=100)


def held(atoms: Atoms) -> Any:
    atoms.set_constraint([FixAtoms([0]), Hookean(1, 2, k=5.0, rt=1.0)])
    return verlet(atoms)


def relaxed(atoms: Atoms) -> Any:
    return FIRE(FrechetCellFilter(atoms), logfile=None)


def own_noise(atoms: Atoms) -> Any:
    return LangevinBAOAB(atoms, 1 * units.fs, temperature_K=300, T_tau=50 * units.fs, rng=np.random.default_rng(1))


class Dithered(EMT):
    """EMT with noise from NumPy's and torch's global states, as dropout that was left on."""

    def calculate(self, *args: Any) -> None:
        super().calculate(*args)
        size = self.results["forces"].shape
        noise = np.random.normal(size=size) + torch.randn(size).double().numpy()  # noqa: NPY002
        self.results["forces"] = self.results["forces"] + 1e-3 * noise


def sums() -> SumCalculator:
    return SumCalculator([EMT(), LennardJones(sigma=1.0, epsilon=0.1, rc=4.0)])


def trajectory(make: Callable[[], Any], atoms: Atoms, dynamics: Any, *, watched: bool) -> tuple[bytes, Any]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    atoms.calc = make()
    dyn = dynamics(atoms)
    if watched:
        SymmetryMonitor(dyn, every=3, conservative_every=3, log=None, plan=ep.RotationPlan("klein", 2))
    frames: list[bytes] = []
    dyn.attach(lambda: frames.append(atoms.positions.tobytes() + atoms.cell.array.tobytes()))
    dyn.run(steps=8) if isinstance(dyn, (BFGS, FIRE)) else dyn.run(8)
    assert len(frames) == 9
    return b"".join(frames) + atoms.get_momenta().tobytes() + atoms.get_forces().tobytes(), atoms.calc


CASES = {
    "verlet": (EMT, molecule_in_motion, verlet),
    "global noise": (EMT, molecule_in_motion, langevin),
    "own noise": (EMT, molecule_in_motion, own_noise),
    "constraints": (EMT, molecule_in_motion, held),
    "pressure": (EMT, crystal, berendsen),
    "cell": (EMT, crystal, npt),
    "optimiser": (EMT, molecule_in_motion, lambda atoms: BFGS(atoms, logfile=None)),
    "cell filter": (EMT, crystal, relaxed),
    "noisy model": (Dithered, molecule_in_motion, verlet),
    "sum of models": (sums, molecule_in_motion, verlet),
    "network": (lambda: make_calculator(TRANSFORMER), molecule_in_motion, verlet),
    "wavefunction": (lambda: make_calculator("gfn2-xtb"), molecule_in_motion, verlet),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_is_bit_for_bit_the_same(case: str) -> None:
    make, atoms, dynamics = CASES[case]
    if case == "wavefunction":
        pytest.importorskip("tblite", reason="tblite is not installed")
    alone, _ = trajectory(make, atoms(), dynamics, watched=False)
    watched, _ = trajectory(make, atoms(), dynamics, watched=True)
    assert watched == alone


@pytest.mark.slow
@pytest.mark.parametrize("case", ["noisy model", "wavefunction"])
def test_without_a_calculator_of_its_own_it_would_not_be(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control for the test above: the user's calculator is rotated, and forgets its wavefunction and its results."""
    if case == "wavefunction":
        pytest.importorskip("tblite", reason="tblite is not installed")
    make, atoms, dynamics = CASES[case]
    alone, _ = trajectory(make, atoms(), dynamics, watched=False)
    monkeypatch.setattr(frame_symmetry, "own_copy", lambda calculator: (calculator, []))
    watched, _ = trajectory(make, atoms(), dynamics, watched=True)
    assert watched != alone


def test_no_force_call_is_added_and_the_cached_results_stay() -> None:
    counts = []
    for watched in (False, True):
        atoms, dyn = moving(LinearField(TILT))
        if watched:
            SymmetryMonitor(dyn, atoms, every=2, log=None)
        results = []
        dyn.attach(lambda atoms=atoms, results=results: results.append(atoms.calc.results))
        dyn.run(5)
        assert all(set(one) == {"energy", "forces"} for one in results)
        counts.append(atoms.calc.calls)
    assert counts == [6, 6]
