"""Conformers of drug-size molecules for the flow study: heavy atoms, RDKit's ETKDG, relaxed with MMFF94.

    python integrations/flow/make_data.py

reads `data/drugs.txt`, couples the acids of `data/fragments.txt` with its amines to amides and sulfonamides, and writes
`data/ligands.npz` (kept in the repository). The split is by molecule. Coordinates stay in the frame in which RDKit made
them, centred: that frame is far from random (the longest axis lies near x), as the frames of real data sets are.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom, rdForceFieldHelpers
from rich.progress import track

DATA = Path(__file__).parent / "data"
HEAVY = (12, 32)  # atoms
MILLI = 1000  # coordinates are stored as integers of 0.001 Å

COUPLINGS = (
    "[C:1](=[O:2])[OX2H].[N;!$(NC=O);!$(NS=O);!H0:3]>>[C:1](=[O:2])[N:3]",
    "[S:1](=[O:2])(=[O:4])Cl.[N;!$(NC=O);!$(NS=O);!H0:3]>>[S:1](=[O:2])(=[O:4])[N:3]",
)


class Molecule(NamedTuple):
    """Its elements ``(N,)`` and conformers ``(C, N, 3)``, heavy atoms alone, Å."""

    smiles: str
    z: np.ndarray
    conformers: np.ndarray


def candidates(rng: np.random.Generator) -> list[str]:
    """Canonical SMILES without duplicates: the drugs first, then couplings in random order."""
    drugs = [smiles for smiles, _ in _lines("drugs.txt")]
    fragments = _lines("fragments.txt")
    acids, amines = ([smiles for kind, smiles in fragments if kind == asked] for asked in ("acid", "amine"))
    coupled = []
    for acid, amine in product(acids, amines):
        pair = Chem.MolFromSmiles(acid), Chem.MolFromSmiles(amine)
        for smarts in COUPLINGS:
            made = AllChem.ReactionFromSmarts(smarts).RunReactants(pair)
            coupled += [Chem.MolToSmiles(made[0][0])] if made else []
    mols = [Chem.MolFromSmiles(smiles) for smiles in [*drugs, *rng.permutation(sorted(coupled)).tolist()]]
    return list(dict.fromkeys(Chem.MolToSmiles(mol) for mol in mols if HEAVY[0] <= mol.GetNumAtoms() <= HEAVY[1]))


def _lines(name: str) -> list[list[str]]:
    return [line.split() for line in (DATA / name).read_text().splitlines() if line[0] != "#"]


def embed(smiles: str, count: int, seed: int) -> Molecule | None:
    """Conformers of a molecule, relaxed with its hydrogens and then stripped of them; None if that fails."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    if len(rdDistGeom.EmbedMultipleConfs(mol, count, parameters)) < count:
        return None
    relaxed = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    if any(status != 0 for status, _ in relaxed):
        return None
    heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    z = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])[heavy]
    xyz = np.stack([conformer.GetPositions()[heavy] for conformer in mol.GetConformers()])
    return Molecule(smiles, z, xyz - xyz.mean(1, keepdims=True))


def bond_lengths(molecule: Molecule) -> np.ndarray:
    """Lengths of the bonds between heavy atoms, ``(C, bonds)``, Å."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in Chem.MolFromSmiles(molecule.smiles).GetBonds()]
    begin, end = np.array(bonds).T
    return np.linalg.norm(molecule.conformers[:, begin] - molecule.conformers[:, end], axis=-1)


def make(molecules: int, conformers: int, held_out: int, seed: int) -> dict[str, np.ndarray]:
    """The arrays of `ligands.npz`; one structure is one conformer, those of a molecule stand together.

    Args:
        molecules: how many.
        conformers: of each.
        held_out: molecules that are not for training, drawn at random.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    found: list[Molecule] = []
    listed = candidates(rng)
    for k, smiles in enumerate(track(listed, "conformers")):
        if len(found) < molecules and (molecule := embed(smiles, conformers, seed + k + 1)) is not None:
            found.append(molecule)
    if len(found) < molecules:
        raise ValueError(f"{len(found)} of {len(listed)} candidates could be embedded; asked for {molecules}")
    test = np.zeros(molecules, bool)
    test[rng.choice(molecules, held_out, replace=False)] = True
    sizes = np.array([len(m.z) for m in found])
    return {
        "smiles": np.array([m.smiles for m in found]),
        "n_atoms": np.repeat(sizes, conformers).astype(np.int16),
        "held_out": np.repeat(test, conformers),
        "z": np.concatenate([np.tile(m.z, conformers) for m in found]).astype(np.int8),
        "xyz": np.concatenate([np.rint(m.conformers * MILLI).reshape(-1, 3) for m in found]).astype(np.int16),
    }


def main() -> None:
    """Write the file, and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=600)
    parser.add_argument("--conformers", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DATA / "ligands.npz")
    args = parser.parse_args()
    rdBase.DisableLog("rdApp.*")
    arrays = make(args.molecules, args.conformers, args.held_out, args.seed)
    np.savez_compressed(args.out, **arrays)
    n = arrays["n_atoms"]
    print(f"{args.out.name}: {len(n)} structures of {args.molecules} molecules, {n.min()} to {n.max()} heavy atoms")
    print(f"held out: {arrays['held_out'].sum()} structures; {args.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
