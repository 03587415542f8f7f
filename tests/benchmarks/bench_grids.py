"""How long it takes to rotate a batch of voxel grids: exactly, by torch's own flips and permutations, by interpolation.

    python tests/benchmarks/bench_grids.py [--device cuda] [--voxels 64] [--channels 8] [--copies 4]

Prints milliseconds per copy, as a ratio to a copy in memory and to `torch.rot90`, which rotates all alike.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable


def milliseconds(run: Callable[[], object], device: str, repeats: int = 5) -> float:
    """The fastest of several runs."""
    best = float("inf")
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    for name, default in (("voxels", 64), ("channels", 8), ("copies", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    n, channels, copies, device = given.voxels, given.channels, given.copies, given.device
    field = torch.randn(copies, channels, n, n, n, device=device)
    cube = ep.RotationPlan("cube", subset=copies).rotations()[:, 0].to(device)
    haar = ep.RotationPlan("haar", copies).rotations()[:, 0].to(device)
    vectors = ep.grid((channels // 3, ep.vector), (channels % 3, ep.scalar)) if channels % 3 else ep.grid()
    leaf = field.clone().requires_grad_()

    def backward(rep: ep.representations.Representation, g: torch.Tensor) -> None:
        torch.autograd.grad(rep.rotate(leaf, g).sum(), leaf)

    linear, cubic = ep.grid(interpolation="linear"), ep.grid(interpolation="cubic")
    cases: dict[str, Callable[[], object]] = {
        "copy": field.clone,
        "torch.rot90, one for all": lambda: torch.rot90(field, 1, (2, 4)).contiguous(),
        "torch flip and permute": lambda: field.permute(0, 1, 4, 2, 3).flip(2, 4).contiguous(),
        "exact, one each": lambda: ep.grid().rotate(field, cube),
        "exact, vector channels": lambda: vectors.rotate(field, cube),
        "exact, and backward": lambda: backward(ep.grid(), cube),
        "linear": lambda: linear.rotate(field, haar),
        "linear, and backward": lambda: backward(linear, haar),
        "cubic": lambda: cubic.rotate(field, haar),
        "cubic, and backward": lambda: backward(cubic, haar),
    }
    took = {name: milliseconds(run, device, 2 if "cubic" in name else 5) / copies for name, run in cases.items()}
    print(f"{channels} channels of {n}³ voxels, {copies} copies, float32, {device}, {torch.get_num_threads()} threads")
    print(f"{'':<28}{'ms per copy':>12}{'of a copy':>12}{'of rot90':>12}")
    for name, value in took.items():
        ratios = [value / took[other] for other in ("copy", "torch.rot90, one for all")]
        print(f"{name:<28}{value:>12.2f}{ratios[0]:>12.1f}{ratios[1]:>12.1f}")


if __name__ == "__main__":
    main()
