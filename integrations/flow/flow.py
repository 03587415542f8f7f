"""Flow matching: the path from noise to data, what the network is asked for on it, and the sampler.

``x_t = (1 − t) x_0 + t x_1`` with noise ``x_0`` at ``t = 0`` and data ``x_1`` at ``t = 1``, of zero centre of mass, in
units of the data's rms coordinate. The network is asked for the velocity ``x_1 − x_0``, the noise ``x_0`` or the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from transformer import centred

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

Predict = Literal["velocity", "noise", "data"]


def schema(predict: Predict) -> ep.Schema:
    """How the network's input and output rotate; the centre of rotation is the origin."""
    return ep.Schema(inputs={"x": ep.point}, outputs={"0": ep.point if predict == "data" else ep.vector})


def target(x0: Tensor, x1: Tensor, predict: Predict) -> Tensor:
    """What the network is asked for."""
    return {"velocity": x1 - x0, "noise": x0, "data": x1}[predict]


def draw(x1: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Noise ``(B, N, 3)`` of zero centre of mass and times ``(B,)``, from torch's global random state."""
    return centred(torch.randn_like(x1), mask), torch.rand(len(x1), device=x1.device, dtype=x1.dtype)


def loss(net: nn.Module, x1: Tensor, z: Tensor, mask: Tensor, predict: Predict = "velocity") -> Tensor:
    """The flow-matching loss of a batch: mean squared error over the components of all atoms.

    Args:
        net: ``(x, t, z, mask)`` to ``(B, N, 3)``.
        x1: data ``(B, N, 3)``.
        z: kinds of atoms ``(B, N)``.
        mask: which slots hold an atom ``(B, N)``.
        predict: what the network is asked for.
    """
    x0, t = draw(x1, mask)
    xt = torch.lerp(x0, x1, t[:, None, None])
    off = torch.where(mask[..., None], net(xt, t, z, mask) - target(x0, x1, predict), 0.0)
    return off.float().square().sum() / (3 * mask.sum())


def velocity(output: Tensor, x: Tensor, t: float, predict: Predict, shortest: float = 1e-3) -> Tensor:
    """``dx/dt`` from the network's output.

    Args:
        output: of the network ``(B, N, 3)``.
        x: where it was asked ``(B, N, 3)``.
        t: when.
        predict: what it was trained for.
        shortest: times nearer to an end than this count as that end.
    """
    if predict == "velocity":
        return output
    if predict == "noise":  # at t = 0 the noise is known and says nothing of the data, whose mean is zero
        return (x - output) / t if t >= shortest else -output
    return (output - x) / max(1 - t, shortest)


def sampler(
    net: nn.Module, z: Tensor, mask: Tensor, scale: float, *, predict: Predict = "velocity", steps: int = 50
) -> Callable[[Tensor], Tensor]:
    """Euler's method from noise to data, as a function of the noise.

    Args:
        net: the network, or one that takes its place.
        z: kinds of atoms ``(B, N)``.
        mask: which slots hold an atom ``(B, N)``.
        scale: Å in a unit of the network's coordinates.
        predict: what the network was trained for.
        steps: of equal length.

    Returns:
        From standard normal noise ``(B, N, 3)`` to coordinates in Å.
    """

    def sample(noise: Tensor) -> Tensor:
        x = centred(noise, mask)
        for k in range(steps):
            t = x.new_full((len(x),), k / steps)
            x = x + velocity(net(x, t, z, mask), x, k / steps, predict) / steps
        return scale * x

    return sample
