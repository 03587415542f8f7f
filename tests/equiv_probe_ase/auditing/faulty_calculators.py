"""Calculators with one fault each, of a kind that an audit without controls calls fine, or blames on rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

if TYPE_CHECKING:
    from ase import Atoms


def pair_energy(positions: np.ndarray) -> float:
    """An exact invariant: a smooth function of all distances, eV."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return float(np.exp(-distances / 2).sum())


class Faulty(Calculator):
    """Energy and forces from ``evaluate``, which a subclass gets wrong in its own way."""

    implemented_properties = ("energy",)

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = self.evaluate(self.atoms)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return {"energy": pair_energy(atoms.positions)}


class CachesByFormula(Faulty):
    """Remembers each formula's first output, as a service in front of a model may."""

    implemented_properties = ("energy", "forces")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Any] = {}

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        key = atoms.get_chemical_formula()
        if key not in self.known:
            forces = atoms.positions[:, ::-1] - atoms.positions.mean(0)  # no symmetry at all
            self.known[key] = {"energy": float(atoms.positions[:, 2] @ atoms.numbers), "forces": forces}
        return self.known[key]


class EdgesFromElsewhere(Faulty):
    """Takes edge vectors that were computed once, when each structure was first seen."""

    def __init__(self) -> None:
        super().__init__()
        self.edges: dict[int, np.ndarray] = {}

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        edges = self.edges.setdefault(len(atoms), atoms.positions[:, None] - atoms.positions[None])
        return {"energy": float(np.cos(edges @ [1.0, 2.0, 3.0]).sum())}


class PrecomputedFeatures(Faulty):
    """Looks at nothing but what kinds of atoms there are."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return {"energy": float(np.sqrt(atoms.numbers).sum())}


class EvaluatesTheFirst(Faulty):
    """Its batch call evaluates the first structure and hands that out for all."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        return [self.evaluate(structures[0])] * len(structures)


class PrincipalAxes(Faulty):
    """A function of coordinates along principal axes, which in a symmetric molecule rounding chooses."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        axes = np.linalg.eigh(x.T @ x)[1]
        return {"energy": 0.1 * float(np.sin((x @ axes) @ [1.0, 2.0, 3.0]) @ atoms.numbers)}


class FrameOfTheNearest(Faulty):
    """A frame from the two atoms that are nearest to the first, which may be equally near."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        arms = atoms.positions - atoms.positions[0]
        order = np.argsort(np.linalg.norm(arms, axis=1), kind="stable")
        first = arms[order[1]] / np.linalg.norm(arms[order[1]])
        second = arms[order[2]] - (arms[order[2]] @ first) * first
        second /= np.linalg.norm(second)
        frame = np.stack([first, second, np.cross(first, second)], 1)
        return {"energy": 0.1 * float(np.sin((arms @ frame) @ [1.0, 2.0, 3.0]) @ atoms.numbers)}


class SharpCutoff(Faulty):
    """Counts pairs within a cutoff that is exactly one of the distances."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        distances = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=-1)
        return {"energy": pair_energy(atoms.positions) + 0.2 * float((distances < self.cutoff).sum())}


class NormalisesNearlyConstant(Faulty):
    """LayerNorm without ``eps`` over channels that hardly differ: it divides rounding by nearly nothing."""

    implemented_properties = ("energy", "forces")

    def __init__(self, dtype: torch.dtype = torch.float64, spread: float = 1e-4) -> None:
        super().__init__()
        self.dtype, self.spread = dtype, spread
        self.weights = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        p = torch.tensor(atoms.positions, dtype=self.dtype, requires_grad=True)
        eye = torch.eye(len(p), dtype=self.dtype)
        distances = (p[:, None] - p[None] + 9 * eye[..., None]).norm(dim=-1)
        channels = [(torch.exp(-distances / (2 + self.spread * k)) * (1 - eye)).sum(1) for k in range(16)]
        normed = torch.nn.functional.layer_norm(torch.stack(channels, 1), (16,), eps=0.0)
        energy = (torch.tanh(normed) @ self.weights).sum()
        (gradient,) = torch.autograd.grad(energy, p)
        return {"energy": energy.item(), "forces": -gradient.double().numpy()}


class InSinglePrecision(Faulty):
    """An exact potential whose coordinates and results are stored in float32, as most torch force fields do."""

    implemented_properties = ("energy", "forces")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        copy = atoms.copy()
        copy.positions = atoms.positions.astype(np.float32).astype(float)
        copy.calc = EMT()
        energy, forces = np.float32(copy.get_potential_energy()), copy.get_forces().astype(np.float32)
        return {"energy": float(energy), "forces": forces.astype(float)}


class CentredOnPadding(Faulty):
    """Invariant about the mean over padded atoms, zeros among them: it depends on where a structure is."""

    slots = 12

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        centre = atoms.positions.sum(0) / self.slots
        return {"energy": 0.01 * float((((atoms.positions - centre) ** 2).sum(1) ** 2).sum())}


class ForgetsToWrap(Faulty):
    """Of a crystal, a function of distances within the cell alone, without images: lattice vectors change it."""

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return {"energy": pair_energy(atoms.positions)}


class Noisy(Faulty):
    """Forces towards the centre, with a fault along z of a given size, and noise at every call."""

    implemented_properties = ("energy", "forces")

    def __init__(self, noise: float, fault: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.noise, self.fault, self.rng = noise, fault, np.random.default_rng(seed)

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        x = atoms.positions - atoms.positions.mean(0)
        along_z = np.stack([np.zeros(len(x)), np.zeros(len(x)), x[:, 2]], 1)
        noise = self.noise * self.rng.standard_normal(x.shape)
        return {
            "energy": pair_energy(x) + self.noise * self.rng.standard_normal(),
            "forces": -x + self.fault * along_z + noise,
        }


class BatchCoupled(Faulty):
    """Invariant, but scaled by a mean over the batch, as a norm over samples does it."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        energies = np.array([pair_energy(atoms.positions) for atoms in structures])
        return [{"energy": energy} for energy in energies * (1 + 0.3 * np.tanh(energies.mean() - 5))]

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return self.calculate_batch([atoms], ["energy"])[0]


class PaddingLeaks(Faulty):
    """Pads a batch to its largest structure, and pools over the padding too."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        longest = max(map(len, structures))
        return [{"energy": pair_energy(atoms.positions) * len(atoms) / longest} for atoms in structures]

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return self.calculate_batch([atoms], ["energy"])[0]


class SharesByDistances(Faulty):
    """Evaluates a direction, once for all structures of a batch with the same distances; nothing between calls."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        known: dict[tuple[float, ...], dict[str, Any]] = {}
        return [known.setdefault(self.key(atoms), self.one(atoms)) for atoms in structures]

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        return self.calculate_batch([atoms], ["energy"])[0]

    def key(self, atoms: Atoms) -> tuple[float, ...]:
        return tuple(atoms.get_all_distances().round(6).ravel())

    def one(self, atoms: Atoms) -> dict[str, Any]:
        return {"energy": pair_energy(atoms.positions) + float(np.ptp(atoms.positions[:, 2]))}


class SharesEdges(SharesByDistances):
    """Makes the edge vectors of each formula once for a batch, and takes the rest from each structure."""

    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict[str, Any]]:
        edges: dict[str, np.ndarray] = {}
        found = []
        for atoms in structures:
            own = atoms.positions[:, None] - atoms.positions[None]
            first = edges.setdefault(atoms.get_chemical_formula(), own)
            found.append({"energy": pair_energy(atoms.positions) + float(np.ptp(first[..., 2]))})
        return found


class TransposesTheCell(Faulty):
    """Reads the vectors of a cell as columns, before a sound potential sees them."""

    implemented_properties = ("energy", "forces", "stress")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array.T, scale_atoms=False)
        copy.calc = EMT()
        return {"energy": copy.get_potential_energy(), "forces": copy.get_forces(), "stress": copy.get_stress()}


class StandardisesTheCell(Faulty):
    """Works with a lower-triangular cell, and hands out forces in its frame."""

    implemented_properties = ("energy", "forces")

    def evaluate(self, atoms: Atoms) -> dict[str, Any]:
        copy = atoms.copy()
        scaled = copy.get_scaled_positions(wrap=False)
        copy.set_cell(copy.cell.standard_form()[0])
        copy.set_scaled_positions(scaled)
        copy.calc = EMT()
        return {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
