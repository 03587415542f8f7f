"""The two networks, a 3D U-Net from grid to grid and a 3D CNN from grid to one number, and kernels for the cube.

Pooling is by means over 2×2×2 voxels and upsampling by repetition, which a cube's rotations keep (a convolution with
stride would not): with kernels averaged over the 24 rotations both networks are equivariant to them exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

import equiv_probe as ep


class Block(nn.Sequential):
    """Two convolutions, each normalised over groups of eight channels."""

    def __init__(self, channels: int, width: int) -> None:
        layers: list[nn.Module] = []
        for given in (channels, width):
            layers += [nn.Conv3d(given, width, 3, padding=1), nn.GroupNorm(max(1, width // 8), width), nn.SiLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """Grid `(B, C, D, H, W)` to grid; edges are multiples of `2^(len(widths) − 1)`."""

    def __init__(self, channels: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((channels, *widths), widths, strict=False))
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]
        self.up = nn.ModuleList(Block(deep + wide, wide) for deep, wide in pairs)
        self.read = nn.Conv3d(widths[0], channels, 1)

    def forward(self, grid: Tensor) -> Tensor:
        """Denoised grid."""
        kept: list[Tensor] = []
        for block in self.down:
            grid = block(functional.avg_pool3d(grid, 2) if kept else grid)
            kept.append(grid)
        kept.pop()
        for block in self.up:
            up = functional.interpolate(grid, scale_factor=2.0)
            grid = block(torch.cat([up, kept.pop()], 1))
        return self.read(grid)


class ScalarCNN(nn.Module):
    """Grid `(B, C, D, H, W)` to one number `(B,)`.

    Args:
        channels: C.
        widths: of the blocks; the grid is halved after each.
        flatten: edge of the grid of features that the last layers see place by place, as in Gnina's networks, which
            know where in the box something is; 0 for their mean over the box.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (16, 32, 64), *, flatten: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip((channels, *widths), widths, strict=False))
        self.flatten = flatten
        features = widths[-1] * max(1, flatten**3)
        self.read = nn.Sequential(nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, grid: Tensor) -> Tensor:
        """One number for each structure."""
        for block in self.blocks:
            grid = functional.avg_pool3d(block(grid), 2)
        features = functional.adaptive_avg_pool3d(grid, max(1, self.flatten))
        return self.read(features.flatten(1))[:, 0]


class CubeAveraged(nn.Module):
    """The kernel averaged over the 24 rotations of the cube: a projection, `(O, I, k, k, k)` with k odd."""

    def __init__(self, edge: int) -> None:
        super().__init__()
        axis = torch.arange(edge) - (edge - 1) // 2
        place = torch.cartesian_prod(axis, axis, axis)
        mean = torch.zeros(edge**3, edge**3, dtype=torch.float64)
        rotations = ep.RotationPlan("cube").rotations()[0].long()
        for rotation in rotations:
            x, y, z = ((place @ rotation.T) + (edge - 1) // 2).unbind(-1)
            mean[torch.arange(edge**3), (x * edge + y) * edge + z] += 1 / len(rotations)
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, kernel: Tensor) -> Tensor:
        """The averaged kernel."""
        return (kernel.flatten(2) @ self.mean.to(kernel)).reshape(kernel.shape)


def respect_the_cube(network: nn.Module) -> nn.Module:
    """Keep every 3D kernel of a network averaged over the cube's rotations, in training too; returns the network."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            parametrize.register_parametrization(module, "weight", CubeAveraged(module.kernel_size[0]))
    return network
