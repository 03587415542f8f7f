"""
Train with SchNetPack
=====================

The callback knows SchNetPack's tasks: which outputs are trained, by which losses, with which weights. Under
``spktrain`` it is one argument more,

.. code-block:: console

   $ spktrain experiment=md17 +callbacks.equivariance._target_=equiv_probe_schnetpack.EquivarianceCallback

Here the same is done in Python, so that it runs in seconds: PaiNN, which respects rotation by construction, beside
the same model behind an input module that somebody got wrong.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import schnetpack as spk
import torch
from ase.io import read
from torch import nn

import equiv_probe as ep
from equiv_probe_schnetpack import EquivarianceCallback

folder = Path(mkdtemp())
molecules = read("../../integrations/force_field/data/molecules.extxyz", ":")  # seen from docs/tutorials of a checkout
database = spk.data.ASEAtomsData.create(
    str(folder / "molecules.db"), distance_unit="Ang", property_unit_dict={"energy": "eV", "forces": "eV/Ang"}
)
labels = [{"energy": [m.get_potential_energy()], "forces": m.get_forces()} for m in molecules]
database.add_systems(labels, molecules)

# %%
# A fault to be found
# -------------------
# Ten percent on one axis: as if a cell had been read in other units than the positions.


class Stretched(nn.Module):
    def forward(self, inputs):
        inputs["_positions"] = inputs["_positions"] * inputs["_positions"].new_tensor([1.1, 1.0, 1.0])
        return inputs


def train(name, *first):
    torch.manual_seed(0)
    painn = spk.representation.PaiNN(16, 2, spk.nn.GaussianRBF(12, 5.0), spk.nn.CosineCutoff(5.0))
    model = spk.model.NeuralNetworkPotential(
        painn,
        input_modules=[*first, spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(16, output_key="energy"), spk.atomistic.Forces()],
    )
    data = spk.data.AtomsDataModule(
        str(folder / "molecules.db"),
        batch_size=12,
        num_train=48,
        num_val=12,
        transforms=[spk.transform.ASENeighborList(5.0), spk.transform.CastTo32()],
        split_file=str(folder / "split.npz"),
        num_workers=0,
        pin_memory=False,
    )
    trainer = pl.Trainer(
        max_epochs=10,
        callbacks=[EquivarianceCallback(every=5, report=folder / f"{name}.json", verbose=False)],
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    forces = spk.task.ModelOutput("forces", nn.MSELoss(), metrics={})
    trainer.fit(spk.task.AtomisticTask(model, [forces], optimizer_args={"lr": 5e-3}), datamodule=data)
    return ep.load(folder / f"{name}.json")


sound, faulty = train("painn"), train("stretched", Stretched())
sound

# %%
# PaiNN is at round-off, as it must be, trained or not. Where a task trains several outputs, each has rows of its own
# beside their weighted sum; error bars are over structures. The stretched one is broken:

faulty

# %%
# Along the run
# -------------

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
faulty.plot_history(ax=axes)

# %%
# ``RandomRotation()`` is a transform that rotates positions, cell, offsets and every label; ``EquivarianceHook``
# watches ``spkmd``. Which of them does what: :doc:`/reference/schnetpack`.
