"""Ways of public codes to draw rotations, and samplers that use them: augmented, oriented, undone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Callable

    Draw = Callable[[int], Tensor]

DOUBLE = {"dtype": torch.float64}


def quaternions(count: int) -> Tensor:
    """As Boltz and PyTorch3D: normalised Gaussian quaternions, nine entries stacked and reshaped."""
    w, x, y, z = normalize(torch.randn(count, 4, **DOUBLE), dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    rows += [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)]
    rows += [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).reshape(count, 3, 3)


def householder(count: int) -> Tensor:
    """The QR of a Gaussian matrix as it comes: not Haar."""
    return torch.linalg.qr(torch.randn(count, 3, 3, **DOUBLE))[0]


def mended(count: int) -> Tensor:
    """The QR of a Gaussian matrix with its signs mended (Mezzadri), and the determinant, in place."""
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, **DOUBLE))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    q[:, :, 0] *= torch.linalg.det(q)[:, None]
    return q


def _about_z(angle: Tensor) -> Tensor:
    found = torch.zeros(len(angle), 3, 3, **DOUBLE)  # filled entry by entry
    found[:, 0, 0] = found[:, 1, 1] = angle.cos()
    found[:, 0, 1], found[:, 1, 0] = -angle.sin(), angle.sin()
    found[:, 2, 2] = 1
    return found


def _about_y(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    entries = [angle.cos(), zero, angle.sin(), zero, one, zero, -angle.sin(), zero, angle.cos()]
    return torch.stack(entries, -1).view(-1, 3, 3)


def euler(count: int) -> Tensor:
    """Three uniform angles, drawn as (count, 3): not Haar."""
    a, b, c = (2 * math.pi * torch.rand(count, 3, **DOUBLE)).unbind(-1)
    return _about_z(a) @ _about_y(b) @ _about_z(c)


def euler_haar(count: int) -> Tensor:
    """As e3nn: the middle angle with density sin β."""
    a, c = 2 * math.pi * torch.rand(2, count, **DOUBLE)
    return _about_z(a) @ _about_y(torch.acos(2 * torch.rand(count, **DOUBLE) - 1)) @ _about_z(c)


def axis_angle(count: int) -> Tensor:
    """Rodrigues' formula, a uniform angle about a uniform axis: not Haar, but as likely about any axis."""
    u = normalize(torch.randn(count, 3, **DOUBLE), dim=-1)
    angle = 2 * math.pi * torch.rand(count, 1, 1, **DOUBLE)
    k = torch.zeros(count, 3, 3, **DOUBLE)
    k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -u[:, 2], u[:, 1], -u[:, 0]
    k = k - k.mT
    return torch.eye(3, **DOUBLE) + angle.sin() * k + (1 - angle.cos()) * (k @ k)


def gram_schmidt(count: int) -> Tensor:
    """Two Gaussian vectors, made orthonormal."""
    a, b = torch.randn(2, count, 3, **DOUBLE)
    a = normalize(a, dim=-1)
    b = normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], -1)


def svd(count: int) -> Tensor:
    """The orthogonal factor of a Gaussian matrix."""
    u, _, vt = torch.linalg.svd(torch.randn(count, 3, 3, **DOUBLE))
    return u @ vt


def exponential(count: int) -> Tensor:
    """The exponential of a Gaussian rotation vector: as likely about any axis."""
    eye = torch.eye(3, **DOUBLE).expand(count, 3, 3)
    return torch.matrix_exp(torch.linalg.cross(torch.randn(count, 1, 3, **DOUBLE).expand(count, 3, 3), eye))


HAAR = {one.__name__: one for one in (quaternions, mended, euler_haar, gram_schmidt, svd)}
CONJUGATE = {**HAAR, "axis_angle": axis_angle, "exponential": exponential}
"""As likely in every frame as ``g R g⁻¹``."""
SKEWED = {"householder": householder}


def shrink(x: Tensor, squeeze: float = 1.0) -> Tensor:
    """A denoiser, equivariant if ``squeeze`` (along z) is one."""
    well = torch.tensor([1.0, 1.0, squeeze], dtype=x.dtype)
    return x * (1 - 0.3 * torch.tanh(x.square().sum(-1, keepdim=True))) * well


def augmented(draw: Draw, squeeze: float = 1.0, *, rows: bool = False, steps: int = 4) -> Callable[[Tensor], Tensor]:
    """As AlphaFold 3: centred, rotated and shifted at random at every step, and never rotated back."""

    def sampler(noise: Tensor) -> Tensor:
        x = noise
        for _ in range(steps):
            x = x - x.mean(1, keepdim=True)
            rotation = draw(len(x)).to(x.dtype)
            x = x @ rotation if rows else torch.einsum("bij,bnj->bni", rotation, x)
            x = x + 0.2 * torch.randn(len(x), 1, 3, dtype=x.dtype)
            x = shrink(x + 0.3 * torch.randn_like(x), squeeze)
        return x

    return sampler


def undone(draw: Draw, *, rows: bool = False) -> Callable[[Tensor], Tensor]:
    """A network without symmetry in a random frame at every step, its output rotated back: equivariant in law."""

    def network(x: Tensor) -> Tensor:
        return torch.tanh(x * torch.tensor([1.0, 2.0, 0.3], dtype=x.dtype))

    def sampler(noise: Tensor) -> Tensor:
        x = noise
        for _ in range(4):
            r = draw(len(x))
            v = network(x @ r) @ r.mT if rows else network(x @ r.mT) @ r
            x = x + 0.1 * v + 0.1 * torch.randn_like(x)
        return x

    return sampler


def oriented(draw: Draw, part: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A rod at every atom, of random orientation."""

    def sampler(noise: Tensor) -> Tensor:
        rods = draw(noise.shape[0] * noise.shape[1]) @ torch.tensor([1.0, 0.0, 0.0], **DOUBLE)
        return part * noise + rods.view(noise.shape)

    return sampler
