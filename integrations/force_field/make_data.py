"""Molecules with GFN2-xTB energies and forces, split by molecule into a training and a held-out set.

    python integrations/force_field/make_data.py

reads `data/smiles.txt` and writes `data/train.extxyz` (git-ignored: regenerate it) and `data/molecules.extxyz` (kept in
the repository). Every molecule draws from its own seed, so the result does not depend on the number of processes.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn
from scipy.spatial.transform import Rotation
from tblite.ase import TBLite

DATA = Path(__file__).parent / "data"
ELEMENTS = frozenset(["H", "C", "N", "O", "F", "S", "Cl"])
MAX_ATOMS = 24
RATTLE = (0.03, 0.08)  # Å: standard deviation of each Cartesian displacement, drawn uniformly per geometry


class Molecule(NamedTuple):
    """One line of `smiles.txt`."""

    split: str
    smiles: str
    name: str
    number: int


def read_molecules(path: Path) -> list[Molecule]:
    """Read `split SMILES name` lines; refuse a molecule that is listed twice, in whichever split.

    Args:
        path: the list; `#` starts a comment line.

    Returns:
        The molecules in file order.

    Raises:
        ValueError: a line cannot be used; the message names it.
    """
    molecules: list[Molecule] = []
    seen: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        split, smiles, name = line.split()
        if split not in {"train", "heldout"}:
            raise ValueError(f"{path.name}: split {split!r} in {line!r}; expected 'train' or 'heldout'")
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise ValueError(f"{path.name}: RDKit cannot read the SMILES in {line!r}")
        # Stereochemistry is dropped from the key: a mirror image in the other split would leak just as much.
        key = Chem.MolToSmiles(mol, isomericSmiles=False)
        if key in seen:
            raise ValueError(f"{path.name}: {name!r} is the same molecule as {seen[key]!r}; list it once")
        seen[key] = name
        molecules.append(Molecule(split, smiles, name, len(molecules)))
    return molecules


def conformers(molecule: Molecule, count: int, seed: int) -> list[Atoms]:
    """Embed up to `count` conformers with ETKDG and relax them with MMFF94 (positions in Å)."""
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    if len(symbols) > MAX_ATOMS or not ELEMENTS.issuperset(symbols):
        raise ValueError(
            f"{molecule.name}: {len(symbols)} atoms of {sorted(set(symbols))}; "
            f"expected at most {MAX_ATOMS} atoms of {sorted(ELEMENTS)}"
        )
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    found = list(rdDistGeom.EmbedMultipleConfs(mol, count, parameters))
    if not found:
        raise ValueError(f"{molecule.name}: RDKit could not embed {molecule.smiles!r}")
    rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=1000)
    return [Atoms(symbols, mol.GetConformer(i).GetPositions()) for i in found]


def labelled(molecule: Molecule, n_conformers: int, n_geometries: int, seed: int) -> list[Atoms]:
    """Displace, rotate and label one molecule.

    Args:
        molecule: which one.
        n_conformers: conformers asked of RDKit.
        n_geometries: displaced geometries in all, dealt to the conformers in turn.
        seed: of the whole data set; combined with the molecule's number.

    Returns:
        Geometries with GFN2-xTB energy (eV) and forces (eV/Å) in a `SinglePointCalculator`.
    """
    rdBase.DisableLog("rdApp.*")
    # seed + 1: RDKit takes a negative seed to mean "random", and 0 is refused by some of its versions.
    starts = conformers(molecule, n_conformers, seed + 1)
    rng = np.random.default_rng([seed, molecule.number])
    out: list[Atoms] = []
    for k in range(n_geometries):
        atoms = starts[k % len(starts)].copy()
        sigma = rng.uniform(*RATTLE)
        displaced = atoms.positions + rng.normal(scale=sigma, size=(len(atoms), 3))
        # RDKit's embedding has preferred directions. A Haar rotation removes them, so that the frame of the data tells
        # the model nothing, and the loss in that frame is the loss under random rotation.
        rotate = Rotation.random(rng=rng)
        # Rounded to what the file keeps, so that the labels belong to the stored geometry to the last digit.
        atoms.positions = np.round(rotate.apply(displaced - displaced.mean(axis=0)), 6)
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.1)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        atoms.info = {"name": molecule.name, "smiles": molecule.smiles, "rattle": round(float(sigma), 4)}
        out.append(atoms)
    return out


def main(
    *,
    train_geometries: Annotated[int, typer.Option(help="displaced geometries per training molecule")] = 90,
    heldout_geometries: Annotated[int, typer.Option(help="displaced geometries per held-out molecule")] = 3,
    n_conformers: Annotated[int, typer.Option(help="conformers per molecule, at most")] = 3,
    seed: Annotated[int, typer.Option(help="of conformers, displacements and orientations")] = 0,
    jobs: Annotated[int, typer.Option(help="worker processes; does not change the result")] = 1,
    smiles: Annotated[Path, typer.Option(help="the list of molecules")] = DATA / "smiles.txt",
    out: Annotated[Path, typer.Option(help="folder for train.extxyz and molecules.extxyz")] = DATA,
) -> None:
    """Make the training and held-out sets."""
    molecules = read_molecules(smiles)
    counts = [train_geometries if m.split == "train" else heldout_geometries for m in molecules]
    sets: dict[str, list[Atoms]] = {"train": [], "heldout": []}
    columns = (SpinnerColumn(), *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, ProcessPoolExecutor(jobs) as pool:
        task = progress.add_task("GFN2-xTB", total=len(molecules))
        results = pool.map(labelled, molecules, repeat(n_conformers), counts, repeat(seed))
        for molecule, geometries in zip(molecules, results, strict=True):
            sets[molecule.split] += geometries
            progress.update(task, advance=1, description=molecule.name)
    out.mkdir(parents=True, exist_ok=True)
    for split, filename in (("train", "train.extxyz"), ("heldout", "molecules.extxyz")):
        if not sets[split]:
            continue
        path = out / filename
        write(path, sets[split], format="extxyz")
        forces = np.concatenate([atoms.get_forces() for atoms in sets[split]])
        print(
            f"{filename}: {len(sets[split])} structures of {sum(m.split == split for m in molecules)} molecules, "
            f"{len(forces)} atoms, rms force component {np.sqrt(np.mean(forces**2)):.3f} eV/Å, "
            f"{path.stat().st_size / 1000:.0f} kB"
        )


if __name__ == "__main__":
    typer.run(main)
