"""
Probe a PyG model
=================

``attach`` puts a probe on a PyG model for the time of a ``with`` block. It reads batches of graphs, and compares
outputs with the labels that the graphs carry.
"""

import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MLP, global_mean_pool

import equiv_probe as ep
from equiv_probe_pyg import RandomRotation, attach

torch.manual_seed(0)
graphs = [Data(pos=torch.randn(n, 3), z=torch.ones(n)) for n in (5, 7, 9) * 5]
for graph in graphs:
    graph.force = graph.pos.mean(0) - graph.pos


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = MLP([3, 32, 3], norm=None)

    def forward(self, data):
        arms = data.pos - global_mean_pool(data.pos, data.batch)[data.batch]  # from the centre of each graph
        return {"forces": self.mlp(arms)}


def train(transform=lambda graph: graph):
    torch.manual_seed(1)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with attach(net, targets={"forces": "force"}, every=10) as probe:
        for _ in range(200):
            batch = Batch.from_data_list([transform(graph.clone()) for graph in graphs])
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(batch)["forces"], batch.force).backward()
            optimizer.step()
    return probe


plain = train()
plain.report()

# %%
# The loss has become small, and nearly all that is left of it is broken symmetry: fifteen graphs in one orientation
# each do not teach a perceptron what a rotation is.
#
# Random rotations
# ----------------
# PyG's own ``RandomRotate`` rotates ``pos`` and forgets the forces. This one rotates whatever is there:

augmented = train(RandomRotation())
for name, probe in {"one orientation each": plain, "RandomRotation()": augmented}.items():
    found = probe.compute()  # as logged: the latest ten measurements
    total, equiv = (found[f"equiv/train/forces/{part}"] for part in ("L_total", "L_equiv"))
    print(f"{name}: L_total {total:.5f}, of it L_equiv {equiv:.5f}")
augmented.report().plot_share()

# %%
# Both losses are lower, and the share is as large: look at the losses, and not at the share alone.
#
# Is an augmentation right?
# -------------------------
# ``check_augmentation`` says whether a transform of yours is uniform over rotations, and whether the labels rotate
# along.

from torch_geometric.transforms import Compose, RandomRotate

print(ep.check_augmentation(Compose([RandomRotate(180, axis=a) for a in range(3)]), sample=graphs[0]))
