"""
Molecular dynamics with a non-equivariant model
===============================================

A model that does not respect rotation exerts a torque on a free molecule, which then begins to spin. The monitor
watches that while the run goes on, and changes no bit of it.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from numpy.random import default_rng

from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, make_calculator

FOLDER = "../../integrations/force_field"  # as seen from docs/tutorials of a checkout


def run(calculator, steps=100):
    atoms = read(f"{FOLDER}/data/molecules.extxyz", "6")  # methyl acetate
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=default_rng(0))
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    monitor = SymmetryMonitor(dynamics, atoms, every=10, conservative_every=50, log=None, progress=False)
    dynamics.run(steps)
    return monitor.report()


model = make_calculator(f"{FOLDER}/transformer.py:calculator", dtype="float64")
report = run(model)
report

# %%
# The budget of angular momentum
# ------------------------------
# The molecule began without rotation. What it has now is what the model's own torque made, to rounding.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
report.plot_angular_momentum(ax=left)
report.plot_trajectory(ax=right)

# %%
# Averaged over rotations
# -----------------------
# ``TwirledCalculator`` averages any calculator over fixed rotations: 60 of them in one batch for each step.

averaged = run(TwirledCalculator(model), steps=40)
print(averaged["forces"].sentence)
print(f"before: {report['forces'].sentence}")

# %%
# Averaging mends what is broken under rotation, and nothing else. These forces are predicted beside the energy and
# are no gradient of it, so the energy still drifts: the monitor says how much of the drift that makes. The same
# without a change to a script: ``equiv-probe run md.py``, or ``EQUIV_PROBE=1 python md.py``. More:
# :doc:`/how-to/average-at-test-time`.
