"""A calculator that gives a structure what it gave for a rotated copy of it looks invariant; and who is not accused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from equiv_probe_ase import audit

from ..auditing.faulty_calculators import Faulty

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ase import Atoms

CONTROL = "does not remember"


class Planted(Faulty):
    """Atoms in a fixed field that varies along one direction: energy and forces depend on the orientation."""

    implemented_properties = ("energy", "forces")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        phase = (atoms.positions - atoms.positions.mean(0)) @ [1.0, 2.0, 3.0]
        return {"energy": float(np.sin(phase).sum()), "forces": -np.cos(phase)[:, None] * [1.0, 2.0, 3.0]}


class Remembers(Planted):
    """Keeps what it gave, the energy alone or all of it, under a key that rotated copies share."""

    def __init__(self, *, forces: bool) -> None:
        super().__init__()
        self.forces, self.known = forces, {}

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        given = super().evaluate(atoms)
        kept = self.known.setdefault(self.key(atoms), given)
        return kept if self.forces else {**given, "energy": kept["energy"]}

    def key(self, atoms: Atoms) -> Hashable:
        raise NotImplementedError


class ByDistances(Remembers):
    def key(self, atoms: Atoms) -> Hashable:
        return tuple(np.sort(atoms.get_all_distances(mic=bool(atoms.pbc.any())).ravel()).round(4))


class ByMoments(Remembers):
    def key(self, atoms: Atoms) -> Hashable:
        return tuple(atoms.get_moments_of_inertia().round(3))


class ByCoulombMatrix(Remembers):
    def key(self, atoms: Atoms) -> Hashable:
        distances = atoms.get_all_distances() + np.eye(len(atoms))
        return tuple(np.linalg.eigvalsh(np.outer(atoms.numbers, atoms.numbers) / distances).round(2))


def rattled(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=0)
    return atoms


def control_of(report: Any) -> Any:
    (found,) = (one for one in report.controls if one.name == CONTROL)
    return found


@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("kind", [ByDistances, ByMoments, ByCoulombMatrix])
@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH"])
def test_what_is_remembered_of_a_rotated_copy_is_not_called_invariant(
    kind: type[Remembers], forces: bool, name: str
) -> None:
    report = audit(kind(forces=forces), rattled(name), progress=False)
    assert report["energy"].rms < 1e-9, "the negative control: by its number alone it is perfect"
    assert control_of(report).failed
    assert report["energy"].verdict == "unknown"
    assert "remembers" in report["energy"].sentence
    assert "Not to be believed" in repr(report)
    fresh = audit(Planted(), rattled(name), progress=False)
    assert fresh["energy"].verdict == "broken"
    assert control_of(fresh).passed


class Steps(Planted):
    """Counts neighbours within a cutoff, which is invariant, and jumps."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return {
            "energy": float((atoms.get_all_distances() < 2.2).sum()),
            "forces": np.zeros((len(atoms), 3)),
        }


class Noisy(Planted):
    """Invariant on average, with chance in every call."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        energy = float(np.exp(-atoms.get_all_distances()).sum())
        noise = self.rng.normal(size=(1 + len(atoms), 3))
        return {"energy": energy + 0.01 * noise[0, 0], "forces": 0.01 * noise[1:]}


class InSinglePrecision(Planted):
    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions.astype(np.float32)
        distances = np.linalg.norm(x[:, None] - x, axis=-1)
        return {"energy": np.float32(np.exp(-distances).sum() - 3000.0), "forces": np.zeros_like(x)}


def test_nobody_else_is_accused() -> None:
    """Sound models and broken ones, smooth and not: an output may jump, be noise, or have few digits."""
    made = [bulk("Cu") * (2, 1, 1), bulk("Al", cubic=True), molecule("CH3CH2OH"), molecule("CO"), molecule("H2O")]
    for seed, own in enumerate(4 * made):
        atoms = own.copy()
        atoms.rattle(0.1, seed=seed)
        kinds = [Planted(), Steps(), InSinglePrecision(), *([] if atoms.pbc.any() else [Noisy(seed)])]
        for calculator in [EMT(), *kinds]:
            report = audit(calculator, atoms, plan="klein", progress=False)
            assert not control_of(report).failed, (type(calculator).__name__, seed, control_of(report).sentence)


def test_an_output_that_is_zero_everywhere_is_not_measured() -> None:
    """A head that is not connected is perfectly equivariant; alone it fails a control, beside others it says so."""

    class Zero(Planted):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            return {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}

    class NoForces(Planted):
        def evaluate(self, atoms: Atoms) -> dict[str, Any]:
            return super().evaluate(atoms) | {"forces": np.zeros((len(atoms), 3))}

    dead = audit(Zero(), rattled("H2O"), progress=False)
    assert {one.verdict for one in dead.measured} == {"unknown"}
    assert "Not to be believed" in repr(dead)
    beside = audit(NoForces(), rattled("H2O"), progress=False)
    assert beside["forces"].verdict == "unknown"
    assert "zero" in beside["forces"].sentence
    assert beside["energy"].verdict == "broken"
    crystal = audit(EMT(), bulk("Cu"), progress=False)
    assert crystal["forces"].verdict == "round-off", "zero by symmetry: displaced atoms have forces"


class Slanted(Faulty):
    """A sound energy of pairs, and a little of a field; ``remembers`` rotated copies, by distances."""

    def __init__(self, field: float, *, remembers: bool) -> None:
        super().__init__()
        self.field, self.remembers, self.known = field, remembers, {}

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        heights = (atoms.positions - atoms.positions.mean(0))[:, 2]
        found = {"energy": super().evaluate(atoms)["energy"] + self.field * float(np.square(heights).sum())}
        key = tuple(atoms.get_all_distances().ravel().round(6))
        return self.known.setdefault(key, found) if self.remembers else found


@pytest.mark.parametrize(("field", "remembers"), [(1e-4, True), (1e-4, False), (0.0, True)])
def test_a_small_error_is_not_remembered_away_either(field: float, remembers: bool) -> None:
    """Hundredths of a meV/atom of several eV; a cache of a sound model changes nothing, and is not accused."""
    for seed in range(4):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=seed)
        report = audit(Slanted(field, remembers=remembers), atoms, progress=False)
        assert control_of(report).failed == (remembers and field > 0)
        assert report["energy"].verdict == ({False: "broken", True: "unknown"}[remembers] if field else "round-off")
