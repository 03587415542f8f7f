"""How the three losses bend at the weights as they are: eigenvalues, density, rank and condition numbers.

>>> import equiv_probe as ep
>>> weights = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
>>> def loss():  # a bowl, nine times steeper in L_mean than in L_equiv along the second weight
...     mean, equiv = (9 * weights[1] ** 2 + weights[0] ** 2) / 2, (weights**2).sum() / 2
...     return mean + equiv, mean, equiv
>>> found = ep.analysis.curvature(loss, parameters=[weights])
>>> found.mean.condition("mass-1").value, found.equiv.condition("mass-1").value
(9.0, 1.0)
"""

from __future__ import annotations

import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_doubts import doubts
from equiv_probe.landscape.curvature_estimates import LossCurvature
from equiv_probe.landscape.curvature_products import LOSSES, CurvatureProducts, space_of
from equiv_probe.landscape.curvature_record import Curvature
from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity
from equiv_probe.landscape.eigenvalues import dense, extreme
from equiv_probe.landscape.lanczos import lanczos
from equiv_probe.orbit.twirl import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from equiv_probe.landscape.curvature_products import DecomposedLoss, Matrix, Which
    from equiv_probe.landscape.eigenvalues import Eigenpairs
    from equiv_probe.landscape.parameter_space import ParameterSpace

DENSE = 256
"""Up to this many parameters all eigenvalues are computed: random probes would cost as much."""


def curvature(
    orbit_loss: DecomposedLoss | Sequence[DecomposedLoss],
    *,
    parameters: nn.Module | Mapping[str, Tensor] | Iterable[Any] | None = None,
    losses: Sequence[Which] = LOSSES,
    matrix: Matrix = "hessian",
    top: int = 4,
    probes: int = 4,
    steps: int = 24,
    trace_probes: int = 16,
    tolerance: float = 1e-3,
    exact: bool | None = None,
    hold: bool = False,
    seed: int = 0,
    name: str = "",
    progress: bool = True,
) -> Curvature:
    """The curvature of ``L_total``, ``L_mean`` and ``L_equiv`` on fixed structures and rotations.

    With finitely many rotations the matrix of ``L_equiv`` is an estimate: its trace is unbiased, its extreme
    eigenvalues err outwards, and L_mean's too. So use a plan of high degree, of icosahedral replicates, and give two or
    more losses with independent rotations (``loss.blocks(2)`` of one with four replicates): the change between them is
    then in the error bars, and the largest eigenvalue is bracketed. The structures are taken as
    given: error bars do not speak of others.

    Args:
        orbit_loss: a callable without arguments that gives ``(total, mean, equiv)``, 0-d with graph, at the current
            weights, such as :class:`equiv_probe.analysis.OrbitLoss`; or several that differ in their rotations alone.
        parameters: the weights; None takes those that the loss names.
        losses: of ``"total"``, ``"mean"`` and ``"equiv"``, those to look at.
        matrix: ``"hessian"``, or ``"gauss-newton"`` for a loss that gives its outputs.
        top: how many eigenvalues of largest magnitude to find, about 20 + 10 ``top`` products.
        probes: random vectors for the density, ``steps`` products each.
        steps: of Lanczos; 2·steps − 1 moments of every probe are right.
        trace_probes: random vectors for trace and norm, those above among them.
        tolerance: of the eigenvalues, relative to the largest magnitude; rounding allows about 1e-5 in float32.
        exact: compute all eigenvalues, one product a parameter; None does so up to 256 parameters.
        hold: keep graphs between products: about twice as fast, if memory allows.
        seed: of the random vectors.
        name: of the model, for the page and the file.
        progress: show a progress bar in a terminal.

    Returns:
        The numbers with error bars, which print.

    Raises:
        EquivProbeError: no weights, a loss that changes between calls, fewer than two probes, a product that is not
            finite, a model that cannot be differentiated twice.
    """
    given = several(orbit_loss)
    if not given or not losses or set(losses) - set(LOSSES):
        raise EquivProbeError(f"{len(given)} losses, and of them {losses!r}", f"one or more, and of them {LOSSES}")
    if probes < 2 or steps < 2:
        raise EquivProbeError(f"probes={probes}, steps={steps}", "two or more of each: error bars are over probes")
    if top < 1:
        raise EquivProbeError(f"top={top}", "one eigenvalue or more")
    began = time.perf_counter()
    spaces = [space_of(loss, parameters) for loss in given]
    sets = [CurvatureProducts(loss, s, matrix=matrix, hold=hold) for loss, s in zip(given, spaces, strict=True)]
    for products in sets:
        require_same_twice(products.pieces[0], losses)
    n = spaces[0].size
    all_of_them = n < 3 or (exact if exact is not None else n <= DENSE)
    small = min(top, max(1, n - 2))
    each = n if all_of_them else max(2 * small + 1, 20) * 2 + probes * steps + max(trace_probes - probes, 0)
    found: dict[Which, LossCurvature] = {}
    converged = True
    shown = progress and sys.stderr.isatty()
    with progress_bar(len(losses) * len(sets) * each, "curvature", shown=shown) as advance:
        for which in losses:
            times = [_counting(products, which, advance) for products in sets]
            pairs, densities = [], []
            for one, space in zip(times, spaces, strict=True):
                generator = torch.Generator().manual_seed(seed)  # the same probes for every loss and set of rotations
                if all_of_them:
                    outer, rest = dense(one, space.here), {}
                else:
                    outer = extreme(one, space.random(generator), small, tolerance)
                    rest = _probed(one, outer, space, generator, (probes, steps, max(trace_probes, probes)))
                pairs.append(outer)
                converged = converged and outer.converged
                densities.append(EigenvalueDensity(n, outer.values, outer.residuals, outer.square, **rest))
            found[which] = LossCurvature.of(densities, _bracket(times, pairs))
    notes = [] if len(given) > 1 else ["one set of rotations: their noise is in the numbers and not in the error bars"]
    if not converged:
        notes.append("the eigenvalue solver stopped early: extreme eigenvalues may lie further out; raise tolerance")
    notes += doubts(sets[0], found, seed)
    return Curvature.of(
        found,
        matrix=matrix,
        products=sum(products.count for products in sets),
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
        name=name,
        protocol={
            **rotations_of(given),
            "eigenvalues": "all" if all_of_them else f"{small} of largest magnitude, to {tolerance:g} of the largest",
            "random vectors": f"{probes} of {steps} steps, {max(trace_probes, probes)} for trace and norm, seed {seed}"
            if not all_of_them
            else "none",
            "precision": str(spaces[0].tensors[0].dtype).removeprefix("torch."),
            **versions(),
        },
    )


def rotations_of(given: Sequence[DecomposedLoss]) -> dict[str, Any]:
    """Structures and rotations of losses, as far as they know them."""
    known = {name: getattr(given[0], name, None) for name in ("structures", "replicates")}
    return {
        "sets of rotations": len(given),
        **{what: number for what, number in known.items() if isinstance(number, int)},
    }


def versions() -> dict[str, str]:
    """What it was measured with."""
    return {"equiv-probe": metadata.version("equiv-probe"), "torch": torch.__version__}


def several(orbit_loss: DecomposedLoss | Sequence[DecomposedLoss]) -> list[DecomposedLoss]:
    """One loss, or several, as a list."""
    return [orbit_loss] if callable(orbit_loss) else list(orbit_loss)


def require_same_twice(loss: DecomposedLoss, losses: Sequence[Which]) -> None:
    """See that a loss is a function of the weights.

    Args:
        loss: whole, or a piece of it.
        losses: what is asked of it: without labels that is L_equiv alone.

    Raises:
        EquivProbeError: two calls in a row differ by more than rounding, or are not finite.
    """
    asked = [LOSSES.index(which) for which in losses]
    with torch.enable_grad():
        first, second = (torch.stack([value.detach().double().cpu() for value in loss()]) for _ in range(2))
    if not bool(first[asked].isfinite().all()):
        labels = "" if not bool(first[2].isfinite()) else 'losses=("equiv",), which needs no labels'
        raise EquivProbeError(f"losses {first.tolist()}", "finite numbers at the weights as they are", labels)
    first, second = first[asked], second[asked]
    if float((first - second).abs().max()) > 1e-4 * float(first.abs().max()):
        raise EquivProbeError(
            f"a loss that is {first.tolist()} and then {second.tolist()}",
            "the same at the same weights",
            "fix its rotations and its noise, and rotate dropout off: model.eval()",
        )


def _probed(
    times: Callable[[Tensor], Tensor],
    outer: Eigenpairs,
    space: ParameterSpace,
    generator: torch.Generator,
    counts: tuple[int, int, int],
) -> dict[str, Any]:
    probes, steps, in_all = counts
    left = space.size - len(outer.values)
    if left < 1:
        return {}
    all_made = [
        lanczos(times, space.random(generator), steps if k < probes else 1, without=outer.vectors)
        for k in range(in_all)
    ]
    return {
        "probes": tuple(all_made[:probes]),
        "quadratic": np.array([one.quadratic for one in all_made]),
        "squares": np.array([one.square for one in all_made]),
    }


def _bracket(times: Sequence[Callable[[Tensor], Tensor]], pairs: Sequence[Eigenpairs]) -> tuple[float, float]:
    """Inner and outer estimate of the largest eigenvalue; see :class:`LossCurvature`."""
    if len(times) < 2:
        return float("nan"), float("nan")
    inner = []
    for mine, pair in enumerate(pairs):
        top = pair.vectors[-1]
        inner += [float(top @ other(top)) for k, other in enumerate(times) if k != mine]
    return float(np.mean(inner)), float(np.mean([pair.values[-1] for pair in pairs]))


def _counting(products: CurvatureProducts, which: Which, advance: Callable[[int], None]) -> Callable[[Tensor], Tensor]:
    def times(vector: Tensor) -> Tensor:
        advance(1)
        return products(vector, which)

    return times
