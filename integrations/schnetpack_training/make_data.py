"""Extended XYZ with energies and forces to SchNetPack's database.

    python integrations/schnetpack_training/make_data.py train.xyz ethanol.db

Energies in eV, forces in eV/Å, as they are in the file. Molecules lose the box that some files draw around them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase.io import iread
from schnetpack.data import ASEAtomsData


def convert(source: Path, database: Path) -> int:
    """Write a database that is not there yet; how many structures it holds.

    Args:
        source: any file that ASE reads, with energies and forces.
        database: whose name ends in ``.db``.
    """
    entries, structures = [], []
    for atoms in iread(source, index=":"):
        entries.append({"energy": np.array([atoms.get_potential_energy()]), "forces": atoms.get_forces()})
        atoms.calc = None
        if not atoms.pbc.any():
            atoms.cell[:] = 0
        structures.append(atoms)
    made = ASEAtomsData.create(
        str(database), distance_unit="Ang", property_unit_dict={"energy": "eV", "forces": "eV/Ang"}
    )
    made.add_systems(entries, structures)
    return len(entries)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("database", type=Path)
    given = parser.parse_args()
    print(f"{convert(given.source, given.database)} structures in {given.database}")
