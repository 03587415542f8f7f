"""A small transformer force field that nobody taught about rotation, and its ASE calculator.

Atoms are tokens: an element embedding plus the coordinates relative to the centroid. Every layer attends over all atoms
of the molecule, with each pair's displacement, its x, y and z fed to ordinary perceptrons, as bias and message. Energy
and forces come from two heads, so forces are not the gradient of the energy and need not sum to zero. Translations and
permutations of like atoms are respected by construction; rotations only as far as the training data taught it.

Needs torch, numpy and ase, and the `weights.pt` beside it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import atomic_numbers
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

WEIGHTS = Path(__file__).parent / "weights.pt"
ELEMENTS = ("H", "C", "N", "O", "F", "S", "Cl")
PADDING = 0  # species index of a padded slot; elements count from 1


class Config(NamedTuple):
    """What it takes to build the network again; its scales are fitted to the training labels."""

    width: int = 64
    heads: int = 8
    layers: int = 3
    pair_width: int = 48
    radial: int = 16
    reach: float = 6.0  # Å: the largest pair distance that the radial functions resolve
    energy_scale: float = 1.0  # eV
    force_scale: float = 1.0  # eV/Å


class PairFeatures(nn.Module):
    """The displacement and the two elements of every ordered pair of atoms, mixed by a perceptron."""

    centres: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        # Not persistent: they follow from the config, and half precision would move them.
        self.register_buffer("centres", torch.linspace(0.7, config.reach, config.radial), persistent=False)
        self.spacing = (config.reach - 0.7) / (config.radial - 1)
        self.geometry = nn.Linear(config.radial + 6, config.pair_width)
        self.receiver = nn.Embedding(len(ELEMENTS) + 1, config.pair_width)
        self.sender = nn.Embedding(len(ELEMENTS) + 1, config.pair_width)
        self.hidden = nn.Linear(config.pair_width, config.pair_width)

    def forward(self, positions: Tensor, species: Tensor) -> Tensor:
        """Return pair features (B, N, N, P) from positions (B, N, 3) in Å and species (B, N)."""
        displacement = positions[:, None, :, :] - positions[:, :, None, :]
        # The constant keeps the direction from an atom to itself finite: zero.
        distance = (displacement.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        radial = torch.exp(-((distance - self.centres) / self.spacing).square())
        geometry = self.geometry(torch.cat([radial, displacement, displacement / distance], dim=-1))
        mixed = geometry + self.receiver(species)[:, :, None] + self.sender(species)[:, None, :]
        features: Tensor = self.hidden(nn.functional.silu(mixed))
        return nn.functional.silu(features)


class Layer(nn.Module):
    """Masked self-attention with pair features as bias and as message, then a perceptron per atom."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.queries_keys_values = nn.Linear(config.width, 3 * config.width)
        self.bias = nn.Linear(config.pair_width, config.heads)
        self.message = nn.Linear(config.width + config.heads * config.pair_width, config.width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 2 * config.width),
            nn.SiLU(),
            nn.Linear(2 * config.width, config.width),
        )

    def forward(self, tokens: Tensor, pairs: Tensor, mask: Tensor) -> Tensor:
        """Return tokens (B, N, D) from tokens (B, N, D), pairs (B, N, N, P) and the mask (B, N) of real atoms."""
        b, n, width = tokens.shape
        projected = self.queries_keys_values(self.norm(tokens)).view(b, n, 3, self.heads, width // self.heads)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        logits = queries @ keys.transpose(-1, -2) / math.sqrt(width / self.heads)
        logits = logits + self.bias(pairs).permute(0, 3, 1, 2)
        # Exactly zero weight on padded atoms, so that a molecule does not know what it was batched with.
        attention = logits.masked_fill(~mask[:, None, None, :], -math.inf).softmax(dim=-1)
        from_atoms = (attention @ values).transpose(1, 2).reshape(b, n, width)
        from_pairs = (attention.transpose(1, 2) @ pairs).reshape(b, n, -1)
        tokens = tokens + self.message(torch.cat([from_atoms, from_pairs], dim=-1))
        out: Tensor = tokens + self.perceptron(tokens)
        return out


class Transformer(nn.Module):
    """Positions and elements of a padded batch of molecules -> energies and forces."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.elements = nn.Embedding(len(ELEMENTS) + 1, config.width, padding_idx=PADDING)
        self.coordinates = nn.Linear(3, config.width)
        self.pairs = PairFeatures(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.energy = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, 1))
        self.forces = nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, 3))

    def forward(self, positions: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a padded batch.

        Args:
            positions: (B, N, 3) in Å; the values at padded slots are ignored.
            species: (B, N) integers, 1 + the index in `ELEMENTS`, or `PADDING`.

        Returns:
            Energies (B,) in eV without the per-element references, and forces (B, N, 3) in eV/Å, zero where padded.
        """
        mask = species != PADDING
        real = mask[..., None].to(positions.dtype)
        centroid = (positions * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        positions = (positions - centroid) * real
        pairs = self.pairs(positions, species)
        tokens = self.elements(species) + self.coordinates(positions)
        for layer in self.layers:
            tokens = layer(tokens, pairs, mask)
        tokens = self.norm(tokens)
        energies = (self.energy(tokens) * real).sum((1, 2)) * self.config.energy_scale
        return energies, self.forces(tokens) * real * self.config.force_scale


_SPECIES = np.zeros(len(atomic_numbers) + 1, dtype=np.int64)
_SPECIES[[atomic_numbers[symbol] for symbol in ELEMENTS]] = np.arange(1, len(ELEMENTS) + 1)


def species_of(atoms: Atoms) -> np.ndarray:
    """Return the species indices (N,) of a molecule.

    Raises:
        ValueError: the structure is empty or periodic, or has an element the network was not built for.
    """
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms; expected at least one")
    if atoms.pbc.any():
        raise ValueError(
            f"{atoms.get_chemical_formula()} is periodic; this force field knows molecules only: pbc=False"
        )
    species: np.ndarray = _SPECIES[atoms.numbers]
    if (species == PADDING).any():
        unknown = sorted(set(np.array(atoms.get_chemical_symbols())[species == PADDING]))
        raise ValueError(
            f"{atoms.get_chemical_formula()} contains {', '.join(unknown)}; expected only {' '.join(ELEMENTS)}"
        )
    return species


def padded(structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Stack molecules of different size: positions (B, N, 3) float64 in Å about each centroid, species (B, N)."""
    longest = max(len(atoms) for atoms in structures)
    positions = np.zeros((len(structures), longest, 3))
    species = np.full((len(structures), longest), PADDING, dtype=np.int64)
    for row, atoms in enumerate(structures):
        species[row, : len(atoms)] = species_of(atoms)
        # Centred here in double precision, because a molecule far from the origin would lose digits in single.
        positions[row, : len(atoms)] = atoms.positions - atoms.positions.mean(axis=0)
    return positions, species


class TransformerCalculator(Calculator):  # type: ignore[misc]
    """The force field as an ASE calculator that also takes a whole batch of molecules.

    Args:
        network: the trained network; moved to `device` and `dtype`.
        references: (7,) energy of each of `ELEMENTS` in eV, added to what the network says.
        device: where to evaluate.
        dtype: floating-point precision of the evaluation.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, network: Transformer, references: Tensor, *, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(device=device, dtype=dtype).eval().requires_grad_(requires_grad=False)
        # In double precision: hundreds of eV that do not depend on the geometry would drown the energy's last digits.
        self.references = np.concatenate([[0.0], references.double().cpu().numpy()])
        self.device = torch.device(device)
        self.dtype = dtype

    def calculate_batch(
        self, structures: Sequence[Atoms], properties: Sequence[str]
    ) -> list[dict[str, np.ndarray | float]]:
        """Evaluate molecules of any sizes in one padded pass.

        Args:
            structures: the molecules.
            properties: any of `implemented_properties`.

        Returns:
            One dictionary per molecule with the properties asked for: energies in eV, forces (N, 3) in eV/Å, float64.

        Raises:
            ValueError: a structure is empty, periodic, or has an unknown element.
            PropertyNotImplementedError: a property is not among `implemented_properties`.
        """
        for name in properties:
            if name not in self.implemented_properties:
                raise PropertyNotImplementedError(f"{name!r} is not computed; expected {self.implemented_properties}")
        if not structures:
            return []
        positions, species = padded(structures)
        with torch.no_grad():
            energies, forces = self.network(
                torch.as_tensor(positions, dtype=self.dtype, device=self.device),
                torch.as_tensor(species, device=self.device),
            )
        energy = energies.double().cpu().numpy() + self.references[species].sum(axis=1)
        force = forces.double().cpu().numpy()
        everything: list[dict[str, np.ndarray | float]] = [
            {"energy": float(energy[b]), "free_energy": float(energy[b]), "forces": force[b, : len(atoms)].copy()}
            for b, atoms in enumerate(structures)
        ]
        return [{name: found[name] for name in properties} for found in everything]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """ASE's entry point: fill `self.results` for one molecule."""
        super().calculate(atoms, properties, system_changes)
        # One pass gives everything, so keep everything.
        self.results: dict[str, Any] = dict(self.calculate_batch([self.atoms], self.implemented_properties)[0])


def calculator(weights: str | Path | None = None, device: str = "cpu", dtype: str = "float32") -> TransformerCalculator:
    """Load a trained force field.

    Args:
        weights: a file that `train.py` wrote; the embedded one by default.
        device: where to evaluate, as torch spells it.
        dtype: name of a torch floating-point type. Weights are stored in float16; the arithmetic runs in this one.

    Returns:
        The calculator.

    Raises:
        ValueError: `dtype` is not a floating-point type, or the weights were made for other elements.
    """
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype) or not precision.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is not a torch floating-point type; pass for example dtype='float64'")
    path = WEIGHTS if weights is None else Path(weights)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if tuple(stored["elements"]) != ELEMENTS:
        raise ValueError(f"{path.name} was trained for {stored['elements']}; expected {list(ELEMENTS)}")
    network = Transformer(Config(**stored["config"]))
    network.load_state_dict({name: value.float() for name, value in stored["state"].items()})
    return TransformerCalculator(network, stored["references"], device=device, dtype=precision)
