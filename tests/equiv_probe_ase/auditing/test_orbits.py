"""Calls of bounded size, added replicates, and what is found out about a calculator. Exact unless stated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator

import equiv_probe as ep
from equiv_probe.testing import CentralForces, LinearField
from equiv_probe_ase import audit
from equiv_probe_ase.calculators.inspection import model_precision
from equiv_probe_ase.evaluators import Evaluator
from equiv_probe_ase.evaluators.engine import Engine

FIELD = torch.tensor([[1.2, 0.7, -0.3], [-0.5, 0.4, 0.9], [0.1, -0.8, 0.6]], dtype=torch.float64)


class Small(Evaluator):
    """Fits so many atoms, and gives the number of atoms."""

    name, batched = "small", True

    def __init__(self, room: int, error: BaseException) -> None:
        self.room, self.error, self.calls = room, error, []

    def evaluate(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, np.ndarray]]:
        atoms = sum(map(len, structures))
        self.calls.append(atoms)
        if atoms > self.room:
            raise self.error
        return [{"energy": np.array(float(len(one)))} for one in structures]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: out of memory")],
)
def test_running_out_of_memory_halves_the_call_and_carries_on(error: BaseException) -> None:
    evaluator = Small(room=30, error=error)
    engine = Engine(evaluator, atoms_per_call=100)
    sizes = [3, 9, 5, 20, 1, 28, 4, 4, 4, 16]
    found = [float(r["energy"]) for r in engine.run([Atoms(f"H{n}") for n in sizes], ["energy"])]
    assert found == sizes  # in order, none twice
    assert engine.evaluations == len(sizes)
    assert engine.atoms_per_call <= 50
    assert sum(atoms > 30 for atoms in evaluator.calls) <= 2  # it remembers


def test_structures_of_similar_size_share_a_call() -> None:
    """Whichever structure they are copies of: nothing is padded by more than what one call spans."""
    evaluator = Small(room=100, error=MemoryError())
    sizes = [2, 9, 2, 9, 2, 9, 2, 9]
    found = [float(r["energy"]) for r in Engine(evaluator, atoms_per_call=18).run([Atoms(f"H{n}") for n in sizes], [])]
    assert found == sizes
    assert evaluator.calls == [8 + 9, 18, 9]


def test_a_structure_that_does_not_fit_alone_fails_alone() -> None:
    engine = Engine(Small(room=30, error=MemoryError()), atoms_per_call=100)
    with pytest.raises(ep.EquivProbeError, match="31 atoms, which do not fit"):
        list(engine.run([Atoms("H31")], ["energy"]))


def test_other_errors_are_not_taken_for_memory() -> None:
    engine = Engine(Small(room=3, error=RuntimeError("shapes do not match")), atoms_per_call=100)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(engine.run([Atoms("H4")], ["energy"]))


@pytest.mark.slow
def test_memory_that_runs_out_in_an_audit_changes_no_result(batched: Any, mixed: list[Atoms]) -> None:
    class Tight(batched):
        def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
            if sum(map(len, structures)) > 40:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().calculate_batch(structures, properties)

    roomy, tight = (audit(cls(LinearField(FIELD)), mixed, name="x") for cls in (batched, Tight))
    assert tight.structures == roomy.structures
    assert not tight.failures


def test_replicates_are_added_until_it_is_tight(planted: Any, mixed: list[Atoms]) -> None:
    plan = ep.RotationPlan("haar", replicates=8)
    model = LinearField(FIELD)
    report = audit(planted(model), mixed, plan=plan, rel_err=0.2, max_rotations=2000)
    for atoms, record in zip(mixed, report.structures, strict=True):
        values = record["quantities"]["forces"]
        low, high = values["equiv_interval"]
        assert (high - low) / 2 / values["equiv"] <= 0.2
        assert 8 < record["rotations"] < 2000
        # Five half-widths of 20 % at 95 %: half a per mille of runs would miss by more, if widths are right.
        truth = 1e6 * model.equiv(torch.from_numpy(atoms.positions))["forces"]
        assert values["equiv"] == pytest.approx(truth, rel=0.5)
    assert any("0 of 4 structures stopped after the first 8" in note for note in report.notes)


def test_added_replicates_end_at_the_limit(planted: Any, mixed: list[Atoms]) -> None:
    plan = ep.RotationPlan("klein", replicates=4)
    report = audit(planted(LinearField(FIELD)), mixed, plan=plan, rel_err=1e-6, max_rotations=50)
    assert [record["rotations"] for record in report.structures] == [48] * 4  # twelve replicates of four
    assert any("4 reached the limit of 50" in note for note in report.notes)


def test_added_replicates_are_those_of_a_longer_plan(planted: Any) -> None:
    """The first replicates stay; the new ones come from the same stream: nothing depends on the rounds."""
    water, model = molecule("H2O"), planted(LinearField(FIELD))
    adaptive = audit(model, water, plan=ep.RotationPlan("klein", replicates=4), rel_err=1e-6, max_rotations=48)
    at_once = audit(model, water, plan=ep.RotationPlan("klein", replicates=12))
    assert adaptive["forces"].equiv == pytest.approx(at_once["forces"].equiv, rel=1e-12)


def test_round_off_stops_at_once_and_says_so(planted: Any, mixed: list[Atoms]) -> None:
    report = audit(planted(CentralForces()), mixed, rel_err=0.01)
    assert [record["rotations"] for record in report.structures] == [48] * 4
    assert any("4 of 4 structures stopped after the first 48 rotations" in note for note in report.notes)


def test_precision_is_found_out() -> None:
    single = SimpleNamespace(model=torch.nn.Linear(2, 2), dtype="anything")
    double = SimpleNamespace(model=torch.nn.Linear(2, 2).double())
    assert model_precision(single) == torch.float32
    assert model_precision(double) == torch.float64
    assert model_precision(SimpleNamespace(dtype=torch.float32)) == torch.float32
    assert model_precision(SimpleNamespace(models=[torch.nn.Linear(2, 2)])) == torch.float32  # ensembles
    assert model_precision(SumCalculator([EMT(), EMT()])) == torch.float64
    thirds = np.arange(1, 9) / 3
    assert model_precision(EMT(), {"forces": thirds.astype(np.float32).astype(float)}) == torch.float32
    assert model_precision(EMT(), {"forces": thirds}) == torch.float64
    # One atom in a crystal: an energy, and forces that are rounding errors of larger numbers.
    rounding = np.array([[3.0, -1.0, 2.0]]) * 2.0**-53
    for energy, expected in ((np.float32(-1 / 3), torch.float32), (-1 / 3, torch.float64), (-1.5, torch.float64)):
        found = model_precision(EMT(), {"energy": np.array(float(energy)), "forces": rounding})
        assert found == expected
    assert model_precision(EMT(), {"forces": np.zeros(3), "energies": thirds}) == torch.float64  # zeros tell nothing
    assert model_precision(EMT(), {"energy": np.array(-3000.0)}) == torch.float64  # nor does a round number


def test_a_single_precision_calculator_without_torch_is_recognised(planted: Any, mixed: list[Atoms]) -> None:
    """Its rounding would otherwise be taken for broken symmetry."""

    class Plain(planted):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            x = torch.from_numpy(atoms.positions).float()
            return {name: value.double().numpy() for name, value in CentralForces()(x).items()}

    calculator = Plain(CentralForces())
    del calculator.dtype
    report = audit(calculator, mixed)
    assert report.protocol["precision"] == "float32"
    assert {m.verdict for m in report.measured} == {"round-off"}
    assert report["forces"].rms > 1e-6  # meV/Å: not float64's
