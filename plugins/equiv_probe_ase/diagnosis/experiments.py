"""The experiments of the core, with those that know what a calculator and a crystal are in the place of their like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.experiments import EXPERIMENTS
from equiv_probe_ase.diagnosis.choice_of_cell import choice_of_cell
from equiv_probe_ase.diagnosis.forces_and_energy import forces_and_energy
from equiv_probe_ase.diagnosis.in_company import in_company
from equiv_probe_ase.diagnosis.in_float64 import calculator_in_float64
from equiv_probe_ase.diagnosis.stress_and_strain import stress_and_strain

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Experiment

_OWN = (choice_of_cell, in_company, calculator_in_float64, stress_and_strain, forces_and_energy)
_OF_MODULES = {"compilation", "device", "edges", "Cartesian or spherical", "output transposed"}
"""What a calculator does not show."""
ATOMS_EXPERIMENTS: tuple[Experiment, ...] = (
    *(one for one in EXPERIMENTS if one.name not in {*_OF_MODULES, *(own.name for own in _OWN)}),
    *_OWN,
)
