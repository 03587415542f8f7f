r"""At which angular degrees the orbit varies, and the bound that infinitesimal rotations put on it.

The orbit ``g ↦ h_g`` is a function on SO(3); by Peter and Weyl it is a sum over degrees l of Wigner functions. With
``χ_l(θ) = sin((2l+1)θ/2) / sin(θ/2)``,

    P_l = (2l+1) E_{g,g'} χ_l(g⁻¹g') ⟨h_g, h_g'⟩,    P_0 = ‖Tf‖²,    Σ_{l≥1} P_l = L_equiv,

and with the generators ``J_a`` of rotation, ``A = E_g Σ_a ‖∂_a h_g‖² = Σ_l l(l+1) P_l ≥ 2 L_equiv``.
Norms are means over the output's components, so that they compare with squared error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.orbit import Orbit


def character(angle: Tensor, degree: int) -> Tensor:
    """``χ_l(θ) = 1 + 2 Σ_{m=1..l} cos mθ``, the form without the singularity at 0, for angles in radians."""
    return _characters(torch.cos(angle), degree)[degree]


def characters(orbit: Orbit, max_degree: int = 6) -> Tensor:
    """``χ_l`` between all rotations of an orbit, ``(max_degree + 1, R, R, n, n)``: the same for all its outputs."""
    flat = orbit.rotations.flatten(-2)  # the trace of g⁻¹g' is the product of their entries
    return _characters((torch.einsum("rna,sma->rsnm", flat, flat) - 1) / 2, max_degree)


def _characters(cosine: Tensor, max_degree: int) -> Tensor:
    """``χ_0`` to ``χ_max`` of ``cos θ``, by the recursion ``cos (m+1)θ = 2 cos θ cos mθ − cos (m−1)θ``."""
    found, last, current = [torch.ones_like(cosine)], torch.ones_like(cosine), cosine
    for _ in range(max_degree):
        found.append(found[-1] + 2 * current)
        last, current = current, 2 * cosine * current - last
    return torch.stack(found)


@dataclass(frozen=True)
class Spectrum:
    """Power of the orbit at each angular degree; :func:`spectrum` makes it. Single estimates may be negative.

    Attributes:
        output: name of the output.
        power: at each degree l = 0 … ``max_degree``, in the output's units squared; l = 0 is the square of the twirl.
        stderr: of each, by the jackknife over replicates; NaN below three.
        equiv: ``L_equiv``, the sum over all l ≥ 1.
        rest: the power above ``max_degree``.
    """

    output: str
    power: tuple[float, ...]
    stderr: tuple[float, ...]
    equiv: float
    rest: float

    @property
    def infinitesimal(self) -> float:
        """``Σ_l l(l+1) P_l`` to ``max_degree``: what :func:`equiv_probe.analysis.infinitesimal` gives if it is all."""
        return sum(degree * (degree + 1) * power for degree, power in enumerate(self.power))

    def __str__(self) -> str:
        largest = max(max(self.power[1:], default=0.0), self.rest, 1e-300)
        rows = [
            f"l = {degree}  {power:10.3g} ± {error:.1g}  {'█' * round(30 * max(power, 0) / largest)}"
            for degree, (power, error) in enumerate(zip(self.power, self.stderr, strict=True))
            if degree > 0
        ]
        rows.append(f"above  {self.rest:10.3g}           {'█' * round(30 * max(self.rest, 0) / largest)}")
        return "\n".join([f"angular spectrum of {self.output} (sum over l ≥ 1: L_equiv = {self.equiv:.4g})", *rows])


def spectrum(
    orbit: Orbit, max_degree: int = 6, output: str | None = None, *, between: Tensor | None = None
) -> Spectrum:
    """Angular spectrum of an orbit, unbiased: averages over pairs of rotations from different replicates.

    Args:
        orbit: kept, of a plan of proper rotations with at least two replicates.
        max_degree: the highest degree.
        output: which output; None is the only one.
        between: :func:`characters` of the orbit to this degree, where they are at hand already.

    Returns:
        The spectrum, with jackknife standard errors over replicates.

    Raises:
        EquivProbeError: the orbit was not kept, has one replicate or improper rotations, or several outputs.
    """
    names = list(orbit.identity)
    if output is None and len(names) > 1:
        raise EquivProbeError(f"outputs {names}", "one", f"spectrum(orbit, output={names[0]!r})")
    name = output or names[0]
    values = orbit.kept(name)
    orbit.require_finite(name)
    replicates = len(values)
    if replicates < 2 or orbit.plan.improper or not orbit.plan.is_rotated:
        wanted = "two or more randomly rotated replicates of proper rotations"
        raise EquivProbeError(str(orbit.plan), wanted, 'twirl(..., ep.RotationPlan("tetrahedral", replicates=4))')
    # Degrees l ≥ 1 do not see a constant: subtracting one that does not depend on the rotations takes the noise of a
    # large mean away and leaves the estimate unbiased.
    flat, identity = values.reshape(replicates, values.shape[1], -1), orbit.identity[name].reshape(-1)
    shifted = flat - identity
    components = flat.shape[-1]
    kernels = (characters(orbit, max_degree) if between is None else between).to(flat.device)
    weights = orbit.weights.to(flat)
    means = torch.einsum("n,rnd->rd", weights, shifted)
    overlap = torch.einsum("rnd,smd->rsnm", shifted, shifted) / components
    odd = 2 * torch.arange(1, max_degree + 1).to(flat) + 1
    whole = means + identity
    pairs = torch.cat(
        [(whole @ whole.mT / components)[None], odd[:, None, None] * ((overlap * kernels[1:]) @ weights @ weights)]
    )
    # Pairs within a replicate are not independent, except for the variance: E‖h‖² needs no pairs.
    variance = torch.einsum("n,rnd->r", weights, shifted.square()) / components
    power = _off_diagonal_mean(pairs).tolist()
    equiv = float(variance.mean()) - float(_off_diagonal_mean(means @ means.mT / components))
    return Spectrum(name, tuple(power), tuple(_off_diagonal_stderr(pairs)), equiv, equiv - sum(power[1:]))


def _off_diagonal_mean(pairs: Tensor) -> Tensor:
    """Mean over pairs of different replicates, ``(..., R, R) -> (...)``."""
    count = pairs.shape[-1]
    return (pairs.flatten(-2).sum(-1) - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))


def _off_diagonal_stderr(pairs: Tensor) -> list[float]:
    """Delete-one jackknife of :func:`_off_diagonal_mean`, ``(L, R, R)``; NaN below three replicates."""
    count = pairs.shape[-1]
    if count < 3:
        return [math.nan] * len(pairs)
    others = pairs - pairs.diagonal(dim1=-2, dim2=-1).diag_embed()
    left_out = others.flatten(-2).sum(-1, keepdim=True) - others.sum(-2) - others.sum(-1)
    left_out = left_out / ((count - 1) * (count - 2))
    stderr: list[float] = ((count - 1) * left_out.var(-1, correction=0)).sqrt().tolist()
    return stderr


def torque_bound(torque: Tensor, weights: Tensor) -> float:
    """``½ E_g ‖τ‖² ≥ Var_g E`` for a scalar energy with conservative forces, whose net torque is ``−∂_a E``.

    Args:
        torque: net torque about the centre of rotation at the rotations of the orbit, ``(R, n, 3)``, energy per radian.
        weights: of the design, ``(n,)``.

    Returns:
        The bound on the variance of the energy over rotations, in energy squared.
    """
    return 0.5 * float((torque.double().square().sum(-1).mean(0) * weights).sum())
