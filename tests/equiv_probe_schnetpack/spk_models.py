"""Real SchNetPack models, tasks and batches in double precision; one model whose broken symmetry is known exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import schnetpack as spk
import torch
from ase.build import bulk, molecule
from schnetpack import properties
from schnetpack.data.loader import _atoms_collate_fn
from torch import Tensor, nn

if TYPE_CHECKING:
    from ase import Atoms

CUTOFF = 4.0


class Quadratic(spk.model.AtomisticModel):
    """``E = Σ xᵀ A x`` about the centroid, with SchNetPack's own force module.

    With S₀ the traceless symmetric part of A and M₀ that of ``Σ x xᵀ``: the twirled forces are ``−2 tr(A)/3 x``,
    ``L_equiv`` of the forces is ``4 tr(S₀²)/3 Σ|x|²/(3N)``, of the energy ``tr(S₀²) tr(M₀²)/5``.
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())
        self.forces = spk.atomistic.Forces()
        self.model_outputs = ["energy", "forces"]
        self.collect_derivatives()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = self.initialize_derivatives(inputs)
        x = centred(inputs)
        each = torch.einsum("ni,ij,nj->n", x, self.matrix, x)
        inputs["energy"] = x.new_zeros(len(inputs["_n_atoms"])).index_add(0, inputs["_idx_m"], each)
        inputs = self.postprocess(self.forces(inputs))
        return self.extract_outputs(inputs)


def centred(batch: dict[str, Tensor]) -> Tensor:
    x, index, sizes = batch["_positions"], batch["_idx_m"], batch["_n_atoms"]
    return x - (x.new_zeros(len(sizes), 3).index_add(0, index, x) / sizes[:, None])[index]


def quadratic_truth(matrix: Tensor, batch: dict[str, Tensor]) -> tuple[float, float]:
    """``L_equiv`` of energy and forces, by the closed forms."""
    x, index = centred(batch), batch["_idx_m"]
    s0 = _traceless((matrix + matrix.T) / 2)
    forces = 4 * (s0 @ s0).trace() / 3 * x.square().mean()
    squares = x.new_zeros(len(batch["_n_atoms"]), 3, 3).index_add(0, index, x[:, :, None] * x[:, None, :])
    m0 = torch.stack([_traceless(one) for one in squares])
    energy = (s0 @ s0).trace() * m0.square().sum((1, 2)).mean() / 5
    return float(energy), float(forces)


def _traceless(matrix: Tensor) -> Tensor:
    return matrix - matrix.trace() / 3 * torch.eye(3, dtype=matrix.dtype)


class Unconstrained(nn.Module):
    """A representation of raw coordinates: an embedding plus a perceptron of each atom's own coordinates."""

    def __init__(self, n_atom_basis: int = 16) -> None:
        super().__init__()
        self.n_atom_basis = n_atom_basis
        self.embedding = nn.Embedding(20, n_atom_basis)
        self.layers = nn.Sequential(nn.Linear(n_atom_basis + 3, 32), nn.Tanh(), nn.Linear(32, n_atom_basis))
        with torch.no_grad():  # rougher over rotations than torch's usual weights are
            for parameter in self.layers.parameters():
                parameter.mul_(4)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        atoms = torch.cat([self.embedding(inputs["_atomic_numbers"]), centred(inputs)], -1)
        inputs["scalar_representation"] = self.layers(atoms)
        return inputs


def representation(kind: str) -> nn.Module:
    if kind == "unconstrained":
        return Unconstrained()
    basis = {
        "n_atom_basis": 16,
        "radial_basis": spk.nn.GaussianRBF(n_rbf=8, cutoff=CUTOFF),
        "cutoff_fn": spk.nn.CosineCutoff(CUTOFF),
    }
    if kind == "so3net":
        return spk.representation.SO3net(n_interactions=2, lmax=2, return_vector_representation=True, **basis)
    kinds = {"schnet": spk.representation.SchNet, "painn": spk.representation.PaiNN}
    return kinds[kind](n_interactions=2, **basis)


def potential(
    kind: str = "unconstrained", *, stress: bool = False, modules: tuple[nn.Module, ...] = (), **kwargs: Any
) -> spk.model.NeuralNetworkPotential:
    torch.manual_seed(1)
    distances = [spk.atomistic.PairwiseDistances()] if kind != "unconstrained" or stress else []
    made = representation(kind)
    model = spk.model.NeuralNetworkPotential(
        representation=made,
        input_modules=[*([spk.atomistic.Strain()] if stress else []), *distances],
        output_modules=[
            spk.atomistic.Atomwise(n_in=made.n_atom_basis, output_key="energy"),
            *modules,
            spk.atomistic.Forces(calc_stress=stress),
        ],
        **kwargs,
    )
    return model.double()


def output(name: str, loss: nn.Module | None, weight: float = 1.0, **kwargs: Any) -> spk.task.ModelOutput:
    return spk.task.ModelOutput(name, loss_fn=loss, loss_weight=weight, metrics={}, **kwargs)


def make_task(model: nn.Module, *outputs: spk.task.ModelOutput, cls: type = spk.AtomisticTask) -> spk.AtomisticTask:
    chosen = outputs or (output("energy", nn.MSELoss(), 0.01), output("forces", nn.MSELoss(), 0.99))
    task = cls(model, list(chosen), optimizer_args={"lr": 1e-3})
    task.log = lambda *args, **kwargs: None  # no trainer
    return task


MOLECULES = ("CH3CH2OH", "H2O", "CH4", "C2H6")


def structures(seed: int = 0, names: tuple[str, ...] = MOLECULES) -> list[Atoms]:
    found = [molecule(name) for name in names]
    for k, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed + k)
    return found


def crystals(seed: int = 0) -> list[Atoms]:
    """Sheared cells: neighbours lie across every face."""
    found = [bulk("C", "diamond", a=3.6), bulk("NaCl", "rocksalt", a=5.0)]
    for k, atoms in enumerate(found):
        shear = np.eye(3) + 0.1 * np.random.default_rng(seed + k).normal(size=(3, 3))
        atoms.set_cell(atoms.cell @ shear, scale_atoms=True)
        atoms.rattle(0.1, seed=seed + k)
    return found


def sample(atoms: Atoms, seed: int = 0, transforms: tuple[nn.Module, ...] = ()) -> dict[str, Tensor]:
    """One entry as a dataset gives it, with random labels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    one = {
        properties.idx: torch.tensor([seed]),
        properties.n_atoms: torch.tensor([len(atoms)]),
        properties.Z: torch.tensor(atoms.numbers),
        properties.R: torch.tensor(atoms.positions),
        properties.cell: torch.tensor(np.array(atoms.cell))[None],
        properties.pbc: torch.tensor(atoms.pbc),
        "energy": draw(1),
        "forces": draw(len(atoms), 3),
        "stress": draw(1, 3, 3),
        "dipole_moment": draw(1, 3),
        "considered_atoms": torch.rand(len(atoms), generator=generator) < 0.5,
    }
    for transform in transforms:
        one = transform(one)
    return one


def batch(atoms: list[Atoms] | None = None, seed: int = 0, *extra: nn.Module) -> dict[str, Tensor]:
    transforms = (spk.transform.MatScipyNeighborList(cutoff=CUTOFF), *extra)
    given = structures(seed) if atoms is None else atoms
    return _atoms_collate_fn([sample(one, seed + k, transforms) for k, one in enumerate(given)])


def copied(one: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in one.items()}
