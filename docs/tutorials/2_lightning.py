"""
Watch a Lightning run
=====================

One callback measures, while a model trains, how much of its loss is broken symmetry. The run itself stays what it was:
weights, random numbers and everything that is logged are the same to the last bit.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback

folder = Path(mkdtemp())

# %%
# A model that knows nothing of rotation: a perceptron from an atom's place in the molecule to its force. The forces
# to learn point to the centre; the molecules are long along x, as if all had been drawn in one orientation.


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 3))

    def forward(self, pos):
        return self.layers(pos - pos.mean(1, keepdim=True))


class ForceField(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Network()

    def training_step(self, batch, batch_idx):
        pos, forces = batch
        loss = (self.net(pos) - forces).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        pos, forces = batch
        self.log("val_loss", (self.net(pos) - forces).square().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


torch.manual_seed(0)
pos = torch.randn(512, 8, 3) * torch.tensor([2.0, 0.7, 0.7])
pos -= pos.mean(1, keepdim=True)
forces = -pos * pos.norm(dim=-1, keepdim=True)
train, val = TensorDataset(pos[:448], forces[:448]), TensorDataset(pos[448:], forces[448:])


def fit(callback):
    torch.manual_seed(1)
    trainer = pl.Trainer(
        max_epochs=20,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ForceField(), DataLoader(train, 32, shuffle=True), DataLoader(val, 64))


# %%
# The callback finds the network and infers what rotates, and says what it assumed. ``every=10`` measures every tenth
# step; without it the callback measures as often as 1 % of the run's time allows.

fit(EquivarianceCallback(every=10, report=folder / "plain.json"))

# %%
# The share along the run
# -----------------------
# The same numbers are in your logger as ``equiv/train/loss/share`` and so on. The training loss in the data's own
# frame does not show what happens here; the loss averaged over rotations does.

fit(EquivarianceCallback(every=10, report=folder / "augmented.json", augment=True, verbose=False))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for name, ax in zip(("plain", "augmented"), axes, strict=True):
    ep.load(folder / f"{name}.json").plot_history(ax=ax)
    ax.set_title(name)

# %%
# ``augment=True`` rotates every training structure at random by hooks, without a change to the data. Beside plain
# training it makes the share small.
#
# With a YAML file, an environment variable or no change to the script at all: :doc:`/how-to/configure-a-run`. With
# several processes: :doc:`/how-to/train-on-many-devices`.
