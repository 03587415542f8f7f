"""MONAI's ``SupervisedTrainer`` on grids of protein-ligand pockets: a network inside of an engine of ignite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import equiv_probe as ep

from .brute_force import agree, bits, measured

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("monai", reason="MONAI is not installed: make hosts HOST=monai")
pytest.importorskip("ignite", reason="pytorch-ignite is not installed: make hosts HOST=monai")


def grids(data: Path) -> list[dict[str, torch.Tensor]]:
    """Densities of the atoms about four pockets, ``(1, 16, 16, 16)``, and where the ligand is."""
    import numpy as np

    found = []
    axis = torch.arange(16.0) - 7.5
    for file in sorted((data / "protein_ligand").glob("*.npz")):
        held = np.load(file)
        xyz = torch.tensor(held["xyz"] - held["center"]).float()
        ligand = torch.tensor(held["is_ligand"]).bool()

        def density(points: torch.Tensor) -> torch.Tensor:
            parts = [torch.exp(-((axis[:, None] - points[:, k]) ** 2) / 2) for k in range(3)]
            return torch.einsum("xn,yn,zn->xyz", *parts)[None]

        found.append({"image": density(xyz), "label": density(xyz[ligand])})
    return found


def test_supervised_trainer(data: Path) -> None:
    from monai.engines import SupervisedTrainer
    from monai.networks.nets import UNet

    samples = grids(data)

    def trained(probed: bool) -> tuple[UNet, ep.Probe]:
        torch.manual_seed(0)
        net = UNet(spatial_dims=3, in_channels=1, out_channels=1, channels=(4, 8), strides=(2,))
        probe = ep.Probe(net, every=1)
        if probed:
            probe.attach()
        loader = torch.utils.data.DataLoader(samples, batch_size=2)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        device = torch.device("cpu")
        SupervisedTrainer(device, 2, loader, net, optimizer, torch.nn.MSELoss()).run()
        probe.remove()
        return net, probe

    plain, (net, probe) = trained(probed=False)[0], trained(probed=True)
    assert bits(plain) == bits(net)
    assert measured(probe, "0") > 0
    image = torch.stack([one["image"] for one in samples])
    net.eval()
    with ep.Probe(net, full=1, cost=None) as exact:
        net(image)
    agree(measured(exact, "0"), over_the_cube(net, image), rel=1e-4)


def over_the_cube(net: torch.nn.Module, image: torch.Tensor) -> float:
    """``L_equiv`` over the 24 rotations of the cube, by permuting and flipping axes."""
    import itertools

    outputs = []
    for order in itertools.permutations(range(3)):
        odd = sum(order[i] > order[j] for i in range(3) for j in range(i + 1, 3)) % 2
        for flips in itertools.product((False, True), repeat=3):
            if sum(flips) % 2 != odd:
                continue
            axes = [2 + k for k in range(3) if flips[k]]
            rotated = image.permute(0, 1, *(2 + k for k in order)).flip(axes)
            with torch.no_grad():
                back = net(rotated).flip(axes)
            undone = [order.index(k) for k in range(3)]
            outputs.append(back.permute(0, 1, *(2 + k for k in undone)).double())
    assert len(outputs) == 24
    return float(torch.stack(outputs).var(0, unbiased=False).mean())
