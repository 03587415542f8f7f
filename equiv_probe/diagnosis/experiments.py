"""The experiments that need nothing but a model, its input and the schema; plugins add those of their framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.diagnosis.angular_spectrum import angular_degree
from equiv_probe.diagnosis.conventions.angles import angles, units_of_angle
from equiv_probe.diagnosis.conventions.components import cartesian_or_spherical, order_of_axes, voigt_order
from equiv_probe.diagnosis.conventions.fixed_change import fixed_change
from equiv_probe.diagnosis.conventions.input_representation import input_representation
from equiv_probe.diagnosis.conventions.transposed import input_transposed, output_transposed
from equiv_probe.diagnosis.conventions.usual_mistakes import USUAL_MISTAKES, another_representation
from equiv_probe.diagnosis.forces import gradient, net_force
from equiv_probe.diagnosis.graph.discrete_choices import few_values, small_angles, ties
from equiv_probe.diagnosis.graph.edges import edges
from equiv_probe.diagnosis.grids.kernels import embedded_places, kernels, windows
from equiv_probe.diagnosis.group.beside_rotation import permutation, time_reversal, translation
from equiv_probe.diagnosis.group.crystals import choice_of_cell, lattice
from equiv_probe.diagnosis.group.fixed_origin import fixed_origin
from equiv_probe.diagnosis.group.reflection import reflection
from equiv_probe.diagnosis.group.some_rotations import one_axis, right_angles
from equiv_probe.diagnosis.numerics.batch_of_one import batch_of_one
from equiv_probe.diagnosis.numerics.chance import chance
from equiv_probe.diagnosis.numerics.conditioning import conditioning
from equiv_probe.diagnosis.numerics.cut_inputs import cut_inputs
from equiv_probe.diagnosis.numerics.far_from_origin import far_from_origin
from equiv_probe.diagnosis.numerics.fused_kernels import fused_kernels
from equiv_probe.diagnosis.numerics.quantised import quantised
from equiv_probe.diagnosis.numerics.run_otherwise import compiled, in_float64, other_device

if TYPE_CHECKING:
    from equiv_probe.diagnosis.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    *USUAL_MISTAKES,
    order_of_axes,
    output_transposed,
    voigt_order,
    cartesian_or_spherical,
    angles,
    another_representation,
    fixed_change,
    few_values,
    angular_degree,
    net_force,
    permutation,
    time_reversal,
    translation,
    lattice,
    choice_of_cell,
    batch_of_one,
    chance,
    conditioning,
    kernels,
    embedded_places,
    right_angles,
    small_angles,
    reflection,
    fixed_origin,
    far_from_origin,
    compiled,
    fused_kernels,
    cut_inputs,
    other_device,
    in_float64,
    input_transposed,
    ties,
    one_axis,
    gradient,
    edges,
    units_of_angle,
    windows,
    quantised,
    input_representation,
)
"""All of them; of equal cost, in the order in which they are tried."""
