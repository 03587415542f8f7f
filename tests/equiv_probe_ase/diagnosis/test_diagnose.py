"""Calculators with planted defects, neighbours without, and the command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from typer.testing import CliRunner

import equiv_probe as ep
from equiv_probe.cli.main import build
from equiv_probe_ase import diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase import Atoms
    from click.testing import Result

    Results = dict[str, Any]


def crystal(seed: int = 0) -> Atoms:
    atoms = bulk("Ar", "fcc", 5.2, cubic=True)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.standard_normal((3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


class Changed(Calculator):
    """Lennard-Jones in the given precision, with something done to its input and to its results."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(
        self,
        results: Callable[[Results, Atoms], Results] = lambda results, _: results,
        given: Callable[[Atoms], Atoms] = lambda atoms: atoms,
    ) -> None:
        super().__init__()
        self.inner = LennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, smooth=True)
        self.of_results, self.of_atoms = results, given

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        copy = self.of_atoms(self.atoms.copy())
        copy.calc = self.inner
        self.inner.reset()
        found = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
        found["stress"] = copy.get_stress() if copy.cell.rank == 3 else np.zeros(6)
        self.results = self.of_results(found, copy)


def with_transposed_cell(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array.T)
    return atoms


def float32(results: Results, _: Atoms) -> Results:
    """Rounded as by a network in float32 whose energies are large: to a part in 10⁵ of the forces."""
    return {**results, "forces": results["forces"] + 1e-3 * np.sin(1e5 * results["forces"])}


def with_stress(change: Callable[[Any], Any]) -> Callable[[], Calculator]:
    return lambda: Changed(lambda results, _: {**results, "stress": change(results["stress"])})


def with_energy(more: Callable[[Atoms], float]) -> Callable[[], Calculator]:
    return lambda: Changed(lambda results, atoms: {**results, "energy": results["energy"] + more(atoms)})


def spread_along_z(atoms: Atoms) -> float:
    return 0.1 * float(atoms.positions[:, 2].var())


DEFECTS: dict[str, tuple[Callable[[], Calculator], set[str]]] = {
    "sign of the stress": (with_stress(lambda stress: -stress), {"stress and energy"}),
    "stress in GPa": (with_stress(lambda stress: 160.21766 * stress), {"stress and energy"}),
    "order of the stress": (with_stress(lambda stress: stress[[0, 1, 2, 5, 4, 3]]), {"Voigt order"}),
    "cell as columns": (lambda: Changed(given=with_transposed_cell), {"input transposed"}),
    "forces half the gradient": (lambda: Changed(lambda r, _: {**r, "forces": r["forces"] / 2}), {"forces and energy"}),
    "length of the cell": (with_energy(lambda a: 1e-2 * len(a) * np.linalg.norm(a.cell[1])), {"choice of cell"}),
    "z is special": (with_energy(spread_along_z), {"angular degree", "a special axis"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_named(name: str) -> None:
    make, said = DEFECTS[name]
    for seed in range(2):
        found = diagnose(make(), crystal(seed))
        assert said & set(found.verdict.split(" + ")), str(found)
        assert [one.why for one in found.attempts if one.state == "failed"] == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [Changed, EMT])
@pytest.mark.parametrize("seed", range(2))
def test_calculators_without_a_defect_are_not_accused(make: Callable[[], Calculator], seed: int) -> None:
    atoms = crystal(seed)
    if make is EMT:
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
    found = diagnose(make(), atoms)
    assert found.verdict == "nothing", str(found)
    assert [one.why for one in found.attempts if one.state == "failed"] == []


def test_a_molecule_without_a_cell() -> None:
    found = diagnose(EMT(), [molecule("CH3OH"), molecule("CO")], everything=True)
    assert found.verdict == "nothing"
    reasons = {one.experiment: one.why for one in found.attempts if one.state == "not applicable"}
    assert reasons["choice of cell"] == "not all directions are periodic"


class InCompany(Calculator):
    """Energies of pair distances, which depend on the mean over all structures of a call."""

    implemented_properties: ClassVar[list[str]] = ["energy"]

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[Results]:
        del properties
        found = np.array([np.exp(-atoms.get_all_distances()).sum() for atoms in structures])
        return [{"energy": energy} for energy in found * (1 + 0.3 * np.tanh(found.mean() - 5))]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = self.calculate_batch([self.atoms], ["energy"])[0]


def test_energies_that_depend_on_the_other_structures_of_a_call() -> None:
    structures = [molecule(name) for name in ("CH3CH2OH", "CH4", "H2O")]
    found = diagnose(InCompany(), structures)
    assert found.verdict == "batch", str(found)
    alone = diagnose(InCompany(), structures, batched=False)
    assert alone.verdict == "nothing"
    assert alone.protocol["rotations"] == 24, "the worst of several is evaluated at all rotations"
    assert "batch (structures are evaluated one at a time" in " ".join(str(alone).split())


def test_a_dipole_of_an_ion_is_said_to_be_one() -> None:
    class Dipole(Calculator):
        implemented_properties: ClassVar[list[str]] = ["dipole"]

        def calculate(self, atoms=None, properties=("dipole",), system_changes=all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            charges = np.linspace(-1.0, 1.0, len(self.atoms)) + 1.0 / len(self.atoms)
            self.results = {"dipole": charges @ self.atoms.positions}

    atoms = molecule("CH3CH2OH")
    atoms.positions += 3.0
    found = diagnose(Dipole(), atoms)
    assert found.verdict == "fixed origin"
    assert "the dipole of an ion with the charge 1, which" in found.decisive[0].sentence


@pytest.mark.slow
def test_the_sign_of_the_stress_is_said_in_words() -> None:
    for name, words in (("sign of the stress", "it has the other sign"), ("stress in GPa", "it is in GPa")):
        assert words in str(diagnose(DEFECTS[name][0](), crystal())), name


@pytest.mark.slow
def test_what_float64_mends() -> None:
    """A calculator that is noisy in float32 alone, and a way to make it in float64."""
    found = diagnose(Changed(float32), crystal(), in_float64=Changed, precision=torch.float32)
    assert "low precision" in found.verdict.split(" + "), str(found)
    without = diagnose(Changed(float32), crystal(), precision=torch.float32)
    assert "low precision" not in without.verdict

    def impossible() -> Calculator:
        raise ep.EquivProbeError("--dtype float64", "a calculator that takes dtype=")

    refused = diagnose(Changed(float32), crystal(), in_float64=impossible, precision=torch.float32)
    reasons = {one.experiment: (one.state, one.why) for one in refused.attempts}
    assert reasons["low precision"] == ("not applicable", "this calculator cannot be made in float64")


def test_a_structure_that_fails_is_named_and_the_others_go_on() -> None:
    strange = molecule("H2O")  # there is no EMT for it beside copper
    strange.numbers[0] = 92
    found = diagnose(EMT(), [strange, molecule("CO")])
    assert found.verdict == "nothing"
    assert "failed" in " ".join(found.notes)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build(), ["diagnose", *arguments])


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    file = str(tmp_path / "c.extxyz")
    ase.io.write(file, bulk("Cu", cubic=True))
    shown = run("emt", file, "-o", str(tmp_path / "d.json"))
    assert shown.exit_code == 0
    assert "Nothing is broken that these experiments look for" in shown.output
    assert isinstance(ep.load(tmp_path / "d.json"), ep.Diagnosis)
    assert json.loads(run("emt", file, "--json", "--all").stdout)["kind"] == "diagnosis"
    refused = run("emt", file, "-o", str(tmp_path / "d.pdf"))
    assert isinstance(refused.exception, ep.EquivProbeError)
    assert "ends in .json" in str(refused.exception)
