"""Quick copies of structures: what ASE's own copy holds, and nothing that is shared with the structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from equiv_probe_ase.structures.copying import copied


def everything() -> Atoms:
    """A slab with all that a structure can have."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.set_celldisp([0.1, 0.2, 0.3])
    atoms.set_momenta(np.arange(24.0).reshape(8, 3))
    atoms.set_initial_magnetic_moments(np.arange(8.0))
    atoms.arrays["mine"] = np.arange(16).reshape(8, 2)
    atoms.info.update(name="slab", field=np.ones(3))
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = EMT()
    return atoms


class Marked(Atoms):  # type: ignore[misc]
    """A class of somebody's own, whose copies are made as it says."""

    def copy(self) -> Marked:
        """With a mark."""
        found = super().copy()
        found.info["copied"] = True
        return found


def plain(atoms: Atoms) -> dict[str, Any]:
    """All of it, as plain data."""
    arrays = {name: (str(a.dtype), a.tolist()) for name, a in sorted(atoms.arrays.items())}
    rest = [atoms.cell.tolist(), atoms.pbc.tolist(), atoms.get_celldisp().tolist(), atoms.calc]
    return {**arrays, "rest": rest, "info": str(atoms.info), "constraints": [c.todict() for c in atoms.constraints]}


@pytest.mark.parametrize("atoms", [everything(), molecule("CH4"), Atoms()])
def test_a_copy_is_what_ase_makes(atoms: Atoms) -> None:
    found, expected = copied(atoms), atoms.copy()
    assert plain(found) == plain(expected)
    assert vars(found).keys() == vars(expected).keys()
    assert found == atoms


def test_nothing_that_is_done_to_a_copy_reaches_the_structure_or_another_copy() -> None:
    atoms = everything()
    before, other = plain(atoms) | {"calc": None}, copied(atoms)
    copy = copied(atoms)
    copy.positions += 1.0
    copy.cell[:] = 1.0
    copy.pbc[:] = False
    copy.arrays["mine"][:] = -1
    copy.arrays["new"] = np.zeros(8)
    copy.info["name"] = "changed"
    copy.constraints[0].index[:] = 5
    copy.set_celldisp([9.0, 9, 9])
    copy.set_momenta(np.zeros((8, 3)), apply_constraint=False)
    assert plain(atoms) | {"calc": None} == before
    assert plain(other) == plain(atoms.copy())


def test_a_class_of_somebodys_own_is_copied_as_it_says() -> None:
    found = copied(Marked("CO", [[0, 0, 0], [0, 0, 1.1]]))
    assert type(found) is Marked
    assert found.info == {"copied": True}


def test_what_is_kept_beside_the_usual_parts_is_left_to_ase() -> None:
    atoms = molecule("H2O")
    atoms.remembered = "something"
    assert plain(copied(atoms)) == plain(atoms.copy())
    assert not hasattr(copied(atoms), "remembered")  # as of ASE's own
