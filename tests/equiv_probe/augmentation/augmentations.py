"""Right and wrong augmentations of a generic sample, and of PyG's data."""

from __future__ import annotations

import copy
from collections.abc import Callable  # noqa: TC003
from typing import TYPE_CHECKING, Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch_geometric.data import Data

from equiv_probe.augmentation.sample_layout import generic_sample
from equiv_probe.rotations.haar import generators, haar

if TYPE_CHECKING:
    import equiv_probe as ep

Names = dict[str, Tensor]


def scipy_rotation() -> Tensor:
    return torch.from_numpy(Rotation.random().as_matrix())


def three_angles() -> Tensor:
    g = torch.eye(3, dtype=torch.float64)
    for generator in generators():
        g = torch.linalg.matrix_exp(2 * torch.pi * torch.rand((), dtype=torch.float64) * generator) @ g
    return g


def rotating(draw: Callable[[], Tensor], **wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Names], Names]:
    """A transform that rotates everything in the generic sample as it should, but for what is given."""
    right: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "pos": lambda g, x: x @ g.T,
        "forces": lambda g, x: x @ g.T,
        "dipole": lambda g, x: g @ x,
        "cell": lambda g, x: x @ g.T,
        "stress": lambda g, x: g @ x @ g.T,
    }

    def transform(sample: Names) -> Names:
        g = draw()
        how = {**right, **wrong}
        return {name: how[name](g, value) if name in how else value for name, value in sample.items()}

    return transform


def verdicts(check: ep.AugmentationCheck) -> dict[str, bool | None]:
    return {finding.name: finding.passed for finding in check.findings}


def molecule(**more: Any) -> Data:
    sample = generic_sample()
    data = Data(pos=sample["pos"].float(), z=sample["z"], force=torch.randn(6, 3), energy=torch.zeros(1), **more)
    data.edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return data


class RightForPyG:
    """Rotates a Data, or a whole Batch by one rotation or by one for each structure."""

    def __init__(self, each: bool = True) -> None:
        self.each = each

    def __call__(self, data: Data) -> Data:
        count = getattr(data, "num_graphs", 1) if self.each else 1
        g = haar(count, torch.default_generator).float()
        own = g[data.batch] if self.each and "batch" in data else g.expand(len(data.pos), 3, 3)
        data = copy.copy(data)
        data.pos = torch.einsum("nij,nj->ni", own, data.pos)
        data.force = torch.einsum("nij,nj->ni", own, data.force)
        return data
