"""
A flow and its sampler
======================

Flow matching draws noise and times in its own step. The probe runs that step again with the same draws, so that no
loss needs to be declared. Afterwards the sampler is audited: how far do end points move if the noise is rotated?
"""

import matplotlib.pyplot as plt
import torch

import equiv_probe as ep


class Velocity(torch.nn.Module):  # nothing in it respects rotation
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(13, 64), torch.nn.SiLU(), torch.nn.Linear(64, 12)).double()

    def forward(self, x_t, t):
        return self.layers(torch.cat([x_t.flatten(1), t[:, None]], 1)).reshape(x_t.shape)


torch.manual_seed(0)
net, molecule, orientations = Velocity(), 2 * torch.randn(4, 3).double(), ep.RotationPlan("haar", 64)
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
probe = ep.Probe(net, every=10, over="t", bins=4, center="origin")
for _ in range(400):  # flow matching on one molecule in random orientations
    noise, data = torch.randn(64, 4, 3).double(), molecule @ orientations.rotations(torch.default_generator)[:, 0]
    t = torch.rand(64).double()
    x_t = noise + t[:, None, None] * (data - noise)
    loss = probe.step(lambda: (net(x_t, t) - (data - noise)).square().mean())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# By diffusion time
# -----------------
# ``over="t"`` splits everything into bins of an input of the network. Near the data the share is larger than near the
# noise.

times = probe.over_time()
print(times)
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
times.plot(ax=axes)

# %%
# In the samples
# --------------
# A small share of the loss is not small in the samples: errors add up along the path. ``audit_sampler`` rotates the
# initial noise, runs the sampler, rotates the end points back and compares.


def sampler(noise, velocity, steps=20):
    for k in range(steps):
        noise = noise + velocity(noise, torch.full((len(noise),), k / steps).double()) / steps
    return noise


start = torch.randn(64, 4, 3).double()


def by_velocity(noise):
    return sampler(noise, net)


plain = ep.audit_sampler(by_velocity, start)
plain

# %%
# Averaged over rotations
# -----------------------
# ``Twirled`` is the network averaged over rotations, here twelve at every step.

twirled = ep.Twirled(net, probe.schema, ep.RotationPlan("tetrahedral", 1), center="origin")
averaged = ep.audit_sampler(lambda noise: sampler(noise, twirled), start)
print(f"end points move by {plain.rms:.2f} Å with the frame, by {averaged.rms:.2f} Å with 12 rotations a step")
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
plain.plot_samples(ax=axes)

# %%
# Noise that cannot be rotated, samplers that draw rotations themselves, equality in distribution:
# :doc:`/how-to/audit-a-sampler`.
