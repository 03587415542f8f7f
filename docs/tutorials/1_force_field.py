"""
Audit a force field
===================

You chose a force field and want to know whether its forces depend on how a molecule happens to lie in space. One call
says so, in meV/Å, with an error bar and beside what rounding alone would make.

The model here is the small transformer that comes with the project. It saw randomly rotated molecules in training and
knows nothing else of rotation. Any ASE calculator can stand in its place: an object, or the name of a preset such as
``"chgnet"``.
"""

# sphinx_gallery_thumbnail_number = 1
import matplotlib.pyplot as plt
from ase.io import read

from equiv_probe_ase import audit

FOLDER = "../../integrations/force_field"  # as seen from docs/tutorials of a checkout
molecules = read(f"{FOLDER}/data/molecules.extxyz", "::5")  # 12 small molecules, with labels of GFN2-xTB
report = audit(f"{FOLDER}/transformer.py:calculator", molecules, progress=False)
report

# %%
# Read it from the top. The first sentence is the result; the verdict compares it with the round-off floor, which is
# what the same measurement reads where only rounding differs. Labels were found in the file, so the loss is split as
# well: some 20 % of the squared error of the forces is there only because the model does not respect rotation.
#
# Numbers by name
# ---------------

forces = report["forces"]
print(forces.sentence)
print(f"{forces.verdict}; share of the loss {100 * forces.labelled.share:.0f} %")

# %%
# Where it sits
# -------------
# Every structure has a value of its own, and every element.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
report.plot_structures(ax=left)
report.plot_elements(ax=right)

# %%
# How it varies with angle
# ------------------------
# The angular spectrum tells a model that is smoothly tilted (all at degree 1) from one that is rough in every
# direction.

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
report.plot_spectrum(ax=axes)

# %%
# Keep it
# -------
# ``report.save("report.json")`` keeps everything, ``.csv`` the table, and ``.html`` is a page to look at, with the
# worst structures in 3D, as in the :doc:`gallery </gallery/index>`. On the command line the same audit is
#
# .. code-block:: console
#
#    $ cd integrations/force_field
#    $ equiv-probe audit transformer.py:calculator data/molecules.extxyz
#
# Next: what each number means is in :doc:`/how-to/read-a-report`; :doc:`/how-to/guard-releases` makes a test of it.
