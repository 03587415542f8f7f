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
# The callback finds the network and infers what rotates, and says what it assumed. By default it measures as often as
# 1 % of the run's time allows, which in a run of seconds is hardly ever; here ``every=10`` measures every tenth step,
# and ``cost=None`` every validation, whatever that costs.

fit(EquivarianceCallback(every=10, cost=None, report=folder / "plain.json"))

# %%
# The share along the run
# -----------------------
# The same numbers are in your logger as ``equiv/train/loss/share`` and so on. The training loss in the data's own
# frame does not show what happens here; the loss averaged over rotations does.

fit(EquivarianceCallback(every=10, cost=None, report=folder / "augmented.json", augment=True, verbose=False))
figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey="row", layout="constrained")
for name, column in zip(("plain", "augmented"), axes.T, strict=True):
    report = ep.load(folder / f"{name}.json")
    for value, ax in zip(("share", "L_equiv"), column, strict=True):
        report.plot_history(value, ax=ax)
    column[0].set_title(name)
    print(f"{name}: L_mean {report['val/loss'].labelled.mean:.2f}, L_equiv {report['val/loss'].labelled.equiv:.2f}")

# %%
# ``augment=True`` rotates every training structure at random by hooks, without a change to the data. In the end both
# parts of the validation loss are several times smaller for it, ``L_mean`` more so than ``L_equiv``: the share is
# larger while less symmetry is broken. So look at both losses before a share is taken for progress.
#
# With a YAML file, an environment variable or no change to the script at all: :doc:`/how-to/configure-a-run`. With
# several processes: :doc:`/how-to/train-on-many-devices`.
