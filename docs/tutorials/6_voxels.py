"""
A model of voxel grids
======================

The 24 rotations of the cube move voxels onto voxels, exactly. All other rotations interpolate, and interpolation alone
changes the numbers. So there are two numbers, and this page says what each means.
"""

import matplotlib.pyplot as plt
import torch

import equiv_probe as ep

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv3d(8, 1, 3, padding=1))
net, schema = net.double(), ep.Schema(inputs={"input": ep.grid()}, outputs={"0": ep.grid()})


def clean_grids():
    return torch.nn.functional.avg_pool3d(torch.rand(8, 1, 16, 16, 16).double(), 5, 1, 2) - 0.5


# %%
# A denoiser learns, its inputs rotated at random by the rotations of the cube (``augment`` does that by hooks).

optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
probe = ep.Probe(net, schema, every=10)
with ep.augment(net, schema):
    for _ in range(50):
        clean = clean_grids()
        loss = probe.step(lambda: (net(clean + 0.1 * torch.randn_like(clean)) - clean).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

clean = clean_grids()[:4]
found = ep.audit_grid(net, clean, schema, targets=clean)
found

# %%
# Beside each number stands its floor: what interpolation or rounding alone may make of it.

figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
found.plot_numbers(ax=axes[0])
found.plot_angle(ax=axes[1])

# %%
# Channels, axes, spacing, and grids that are made from atoms: :doc:`/how-to/declare-a-schema`.
