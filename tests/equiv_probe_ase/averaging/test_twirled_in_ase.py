"""TwirledCalculator among ASE's own tools: memory, files, copies, errors, audits."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

import equiv_probe as ep
from equiv_probe.cli.main import main
from equiv_probe.errors import EquivProbeError
from equiv_probe.results.report import Report
from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, audit, evaluators
from equiv_probe_ase.auditing.versions import versions
from equiv_probe_ase.averaging.plans import parse_twirl
from equiv_probe_ase.calculators.inspection import model_precision, weights_digest
from equiv_probe_ase.evaluators import Evaluator, registry
from equiv_probe_ase.evaluators.evaluator import ase_results

from .wells import ROUND_OFF, BatchedWell, Well

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms


def test_one_evaluation_of_the_orbit_serves_everything_asked_of_a_state(cluster: Atoms) -> None:
    inner = Well()
    cluster.calc = calc = TwirledCalculator(inner, ep.RotationPlan("klein", replicates=2))
    cluster.get_forces()
    first = inner.evaluations  # eight, and what it took to find out that there are no magnetic moments and no stress
    assert not calc.calculation_required(cluster, ["energy", "forces", "free_energy", "charges"])
    cluster.get_potential_energy(force_consistent=True)
    cluster.get_charges()
    assert inner.evaluations == first
    cluster.rattle(0.1)
    assert calc.calculation_required(cluster, ["forces"])
    cluster.get_forces()
    assert inner.evaluations == first + 8  # found out once
    before = calc.evaluations
    cluster.rattle(0.1, seed=2)
    cluster.get_forces()
    assert (calc.evaluations - before, calc.model_calls > 0, calc.model_seconds > 0) == (8, True, True)


def test_what_is_asked_of_a_state_later_comes_from_the_same_rotations(cluster: Atoms) -> None:
    """Energies of atoms, asked for on demand only, sum up to the energy of the same frame; a copy asks for itself."""
    calc = TwirledCalculator(Well(), mode="random-frame")
    energy = calc.get_potential_energy(cluster)
    other = copy.copy(calc)
    assert other.get_property("energies", cluster).sum() == pytest.approx(energy, rel=1e-12)
    assert "energies" not in calc.results
    assert calc.get_potential_energies(cluster).sum() == pytest.approx(energy, rel=1e-12)
    calc.reset()
    assert abs(calc.get_potential_energy(cluster) - energy) > 1e-3


def test_what_the_calculator_does_not_give_is_not_implemented(cluster: Atoms) -> None:
    cluster.calc = TwirledCalculator(Well(), ep.RotationPlan("klein", replicates=1))
    for name in ("stress", "magmoms", "stresses"):  # no cell; promised only; never heard of
        with pytest.raises(PropertyNotImplementedError, match=name):
            cluster.calc.get_property(name, cluster)
    assert np.isfinite(cluster.get_forces()).all()


def test_the_calculators_own_errors_surface(cluster: Atoms) -> None:
    cluster.symbols[0] = "U"
    cluster.calc = TwirledCalculator(EMT())
    with pytest.raises(NotImplementedError, match="No EMT-potential for U"):
        cluster.get_forces()
    cluster.symbols[0] = "Cu"
    np.testing.assert_allclose(cluster.get_forces(), EMT().get_forces(cluster), atol=1e-10)


def test_copies_go_their_own_ways_and_draw_what_the_original_would(cluster: Atoms) -> None:
    original = TwirledCalculator(BatchedWell(), ep.RotationPlan("haar", replicates=2), redraw=True, seed=5)
    original.get_forces(cluster)
    copies = [copy.copy(original), copy.deepcopy(original), pickle.loads(pickle.dumps(original))]
    moved = cluster.copy()
    moved.rattle(0.1, seed=8)
    stored = copy.deepcopy(original.results)
    found = [one.get_forces(moved) for one in copies]
    np.testing.assert_array_equal(original.results["forces"], stored["forces"])  # not written over
    for forces in found:
        np.testing.assert_array_equal(forces, original.get_forces(moved))
    assert copies[1].calculator is not original.calculator
    assert copies[0].calculator is original.calculator
    assert (found[0] - TwirledCalculator(Well(), original.plan, redraw=True, seed=6).get_forces(moved)).any()


class HoldsAModule(Evaluator):
    """As that of SevenNet does: a module can be neither copied nor pickled."""

    batched, name = True, "holds a module"

    def __init__(self, calculator: Well) -> None:
        self.module, self.calculator = np, calculator

    def evaluate(self, structures, properties):
        return self.calculator.calculate_all(structures, properties)


class Registered(Well):
    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        raise AssertionError("called one by one")

    def calculate_all(self, structures, properties):
        batch = BatchedWell(self.quartic).calculate_batch(structures, properties)
        return [ase_results(one, properties, len(atoms), "well") for one, atoms in zip(batch, structures, strict=True)]


def test_evaluators_that_cannot_be_copied_are_found_again(cluster: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EVALUATORS", {f"{__name__}.Registered": "equiv_probe_ase.evaluators:Planted"})
    monkeypatch.setattr(evaluators, "Planted", HoldsAModule, raising=False)
    calc = TwirledCalculator(Registered(), ep.RotationPlan("klein", replicates=1), properties=["forces"])
    forces = calc.get_forces(cluster)
    for one in (copy.copy(calc), copy.deepcopy(calc)):
        one.reset()
        np.testing.assert_array_equal(one.get_forces(cluster), forces)
        assert one.model_calls == 2  # in one pass again; what was counted goes with it


def test_parameters_results_and_names_are_what_ase_writes(crystal: Atoms, tmp_path: Path) -> None:
    crystal.calc = TwirledCalculator("emt", ep.RotationPlan("tetrahedral", replicates=2), seed=4)
    forces, stress = crystal.get_forces(), crystal.get_stress()
    with Trajectory(tmp_path / "one.traj", "w") as trajectory:
        trajectory.write(crystal)
    ase.io.write(tmp_path / "one.extxyz", crystal)
    for name in ("one.traj", "one.extxyz"):
        again = ase.io.read(tmp_path / name)
        np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
        np.testing.assert_allclose(again.get_stress(), stress, atol=1e-7)
    again = ase.io.read(tmp_path / "one.traj")
    assert again.calc.name == "twirled(emt)"
    expected = {"mode": "average", "design": "tetrahedral", "replicates": 2, "seed": 4, "improper": False}
    assert expected.items() <= again.calc.parameters.items()
    assert crystal.get_properties(["energy", "forces"])["energy"] == crystal.get_potential_energy()
    plain = TwirledCalculator("emt", ep.RotationPlan("tetrahedral", replicates=2), seed=4, store_std=False)
    plain.get_forces(crystal)
    frozen = SinglePointCalculator(crystal, **plain.results)  # names of ASE's alone
    np.testing.assert_array_equal(frozen.get_forces(crystal), forces)
    with pytest.raises(EquivProbeError, match="options at construction"):
        crystal.calc.set(mode="random-frame")


def test_what_cannot_be_averaged_is_said() -> None:
    with pytest.raises(EquivProbeError, match=r'found mode=.mean.; expected "average" or "random-frame"'):
        TwirledCalculator(EMT(), mode="mean")
    with pytest.raises(EquivProbeError, match="expected no plan"):
        TwirledCalculator(EMT(), ep.RotationPlan("klein"), "random-frame")
    with pytest.raises(EquivProbeError, match="rotated at random"):
        TwirledCalculator(EMT(), ep.RotationPlan("cube"), redraw=True)
    with pytest.raises(EquivProbeError, match="what the calculator has"):
        TwirledCalculator(EMT(), properties="dipole")
    with pytest.raises(EquivProbeError, match="an ASE calculator, its name, or a factory"):
        TwirledCalculator(3)


def test_large_structures_go_through_in_parts(cluster: Atoms) -> None:
    """A pass of nine atoms holds two copies of four: the parts cut across replicates, and sum up to the same."""
    whole, parts = (
        TwirledCalculator(
            BatchedWell(), ep.RotationPlan("klein", replicates=3), properties=["forces"], atoms_per_call=n
        )
        for n in (4096, 9)
    )
    np.testing.assert_allclose(whole.get_forces(cluster), parts.get_forces(cluster), atol=ROUND_OFF)
    np.testing.assert_allclose(whole.results["forces_std"], parts.results["forces_std"], atol=1e-9)
    np.testing.assert_allclose(whole.results["forces_stderr"], parts.results["forces_stderr"], atol=1e-9)
    assert (whole.model_calls, parts.model_calls) == (1, 6)


@pytest.mark.slow
def test_an_audit_of_the_average_finds_it_symmetric_and_that_of_a_frame_finds_chance(cluster: Atoms) -> None:
    """And it looks within: weights, precision and versions are those of the calculator that is averaged."""
    atoms = [molecule("CH3CH2OH"), molecule("H2O")]
    plain = BatchedWell()
    report = audit(TwirledCalculator(plain), atoms, properties=["energy", "forces"], center="origin")
    assert {report["energy"].verdict, report["forces"].verdict} == {"round-off"}
    assert plain.evaluations > 60 * 48 * 2
    assert report.protocol["model calls"] < 20
    assert audit(Well(), atoms, properties=["forces"], center="origin")["forces"].verdict == "broken"
    frame = TwirledCalculator(Well(), mode="random-frame")
    assert audit(frame, atoms, properties=["forces"])["forces"].verdict == "non-deterministic"


def test_an_audit_sees_the_model_within() -> None:
    inner = Well()
    inner.model = torch.nn.Linear(2, 2)
    calc = TwirledCalculator(inner)
    assert model_precision(calc) == torch.float32
    assert weights_digest(calc) == weights_digest(inner) != ""
    assert "numpy" in versions(SumCalculator([EMT(), _of_package("numpy")]))


def _of_package(name: str) -> EMT:
    return type("Foreign", (EMT,), {"__module__": f"{name}.calculators"})()


TILTED = """
import numpy as np
from ase.calculators.emt import EMT

class Tilted(EMT):
    def calculate(self, *args):
        super().calculate(*args)
        self.results["forces"] = self.results["forces"] + np.array([0.1, 0.0, 0.0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ("klein", "round-off"),
        ("klein:oriented", "round-off"),
        ("haar:2", "broken"),
        ("random-frame", "non-deterministic"),
    ],
)
def test_an_audit_from_the_command_line(
    how: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A constant force is of degree 1: four rotations of the Klein group make nothing of it, two of no group do not."""
    (tmp_path / "tilted.py").write_text(TILTED)
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("CH4")], format="extxyz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["equiv-probe", "audit", "tilted.py:Tilted", "two.xyz", "--twirl", how])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    (file,) = tmp_path.glob(f"audit-tilted.py-Tilted-{how.replace(':', '-')}-two.xyz.json")
    report = json.loads(file.read_text())
    assert Report.from_dict(report)["forces"].verdict == verdict
    assert f"twirled: {how}" in capsys.readouterr().out


def test_words_for_rotations() -> None:
    assert parse_twirl("octahedral") == {"plan": ep.RotationPlan("octahedral", replicates=1), "orient": False}
    assert parse_twirl("lebedev-3:2") == {"plan": ep.RotationPlan("lebedev-3", replicates=2), "orient": False}
    assert parse_twirl("klein:oriented") == {"plan": ep.RotationPlan("klein", replicates=1), "orient": True}
    assert parse_twirl("klein:3:oriented") == {"plan": ep.RotationPlan("klein", replicates=3), "orient": True}
    assert parse_twirl("random-frame") == {"mode": "random-frame"}
    wrongs = (("klein:many", "'klein:many'"), ("klein:0", "replicates=0"), ("klein:2:3", "'2:3' replicates"))
    for wrong, found in (("cubic", "design 'cubic'"), ("klein:oriented:2", "'oriented:2'"), *wrongs):
        with pytest.raises(EquivProbeError, match=found):
            parse_twirl(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("batched", [True, False])
def test_a_protocol_counts_what_the_model_evaluated_and_not_averages(cluster: Atoms, batched: bool) -> None:
    """Each result takes four evaluations, also behind a sum of calculators, which takes one call for each."""
    plan = ep.RotationPlan("klein", 1)
    plain = audit(Well(), cluster, batched=batched).protocol
    twirled = audit(TwirledCalculator(Well(), plan), cluster, batched=batched).protocol
    assert twirled["evaluations"] == 4 * plain["evaluations"]
    assert twirled["model calls"] >= (1 if batched else 4) * plain["model calls"]
    twice = TwirledCalculator(TwirledCalculator(Well(), plan), plan)
    assert audit(twice, cluster, batched=batched).protocol["evaluations"] == 16 * plain["evaluations"]
    within = SumCalculator([TwirledCalculator(Well(), plan), Well()])
    of_forces = audit(Well(), cluster, properties="forces").protocol["evaluations"]
    assert audit(within, cluster, properties="forces").protocol["evaluations"] == 4 * of_forces


@pytest.mark.slow
def test_so_does_the_protocol_of_a_trajectory(cluster: Atoms) -> None:
    counted = []
    for calc in (Well(), TwirledCalculator(Well(), ep.RotationPlan("klein", 1))):
        atoms = cluster.copy()
        atoms.calc = calc
        dyn = VelocityVerlet(atoms, 0.1)
        monitor = SymmetryMonitor(dyn, atoms, every=1, log=None, properties=["energy", "forces"], conservative_every=0)
        dyn.run(2)
        counted.append(monitor.report().protocol["evaluations"])
    assert counted[1] == 4 * counted[0] > 0
