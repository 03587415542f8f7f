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

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature_estimates import LossCurvature
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.curvature_record import Curvature
from equiv_probe.landscape.decomposed_loss import LOSSES, protocol_of, require_same_twice, several, space_of
from equiv_probe.landscape.eigenvalue_density import EigenvalueDensity
from equiv_probe.landscape.eigenvalues import dense, extreme
from equiv_probe.landscape.lanczos import lanczos
from equiv_probe.landscape.second_derivatives import APART, FLOORS, disagreement
from equiv_probe.progress import progress as progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.landscape.curvature_products import Matrix
    from equiv_probe.landscape.decomposed_loss import DecomposedLoss, Which
    from equiv_probe.landscape.eigenvalues import Eigenpairs
    from equiv_probe.landscape.parameter_groups import Block

DENSE = 3000
"""Up to this many parameters all eigenvalues are computed."""
_EARLY = "the eigenvalue solver stopped early: extreme eigenvalues may lie further out; raise tolerance"


def curvature(
    orbit_loss: DecomposedLoss | Sequence[DecomposedLoss],
    *,
    parameters: Block | None = None,
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
        parameters: the weights: names of parameters or modules among those that the loss names, or patterns of them
            such as ``"layers.0.*"``; modules; tensors; None takes all that the loss names.
        losses: of ``"total"``, ``"mean"`` and ``"equiv"``, those to look at.
        matrix: ``"hessian"``, or ``"gauss-newton"`` for a loss that gives its outputs.
        top: how many eigenvalues of largest magnitude to find, about 20 + 10 ``top`` products.
        probes: random vectors for the density, ``steps`` products each.
        steps: of Lanczos; 2·steps − 1 moments of every probe are right.
        trace_probes: random vectors for trace and norm, those above among them.
        tolerance: of the eigenvalues, relative to the largest magnitude; rounding allows about 1e-5 in float32.
        exact: compute all eigenvalues, from one product a parameter, several at once; None does so up to 3,000
            parameters. Then nothing is random, and the smallest positive eigenvalue is known.
        hold: keep graphs between products: about twice as fast, if memory allows.
        seed: of the random vectors.
        name: of the model, for the page and the file.
        progress: say how far it is, once it takes two seconds.

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
    sets = [CurvatureProducts(one, space_of(one, parameters), matrix=matrix, hold=hold) for one in given]
    for products in sets:
        require_same_twice(products.pieces[0], losses)
    search = _Search(sets[0].space.size, top, probes, steps, max(trace_probes, probes), tolerance, exact, seed)
    found: dict[Which, LossCurvature] = {}
    notes = [] if len(given) > 1 else ["one set of rotations: their noise is in the numbers and not in the error bars"]
    with progress_bar(len(losses) * len(sets) * search.products, "curvature", shown=progress) as advance:
        for which in losses:
            times = [_counting(products, which, advance) for products in sets]
            spectra = [search.spectrum(products, which, advance) for products in sets]
            pairs = [pair for pair, _ in spectra]
            found[which] = LossCurvature.of([density for _, density in spectra], _bracket(times, pairs))
            if not all(pair.converged for pair in pairs) and _EARLY not in notes:
                notes.append(_EARLY)
    return Curvature.of(
        found,
        matrix=matrix,
        notes=(*notes, *_doubts(sets[0], found, seed)),
        products=sum(products.count for products in sets),
        seconds=time.perf_counter() - began,
        name=name,
        protocol=protocol_of(given, sets[0].space, **search.protocol),
    )


@dataclass(frozen=True)
class _Search:
    """How the spectrum of one matrix is found; see :func:`curvature`."""

    size: int
    top: int
    probes: int
    steps: int
    trace_probes: int
    tolerance: float
    exact: bool | None
    seed: int

    @property
    def finds_all(self) -> bool:
        return self.size < 3 or (self.exact if self.exact is not None else self.size <= DENSE)

    @property
    def few(self) -> int:
        return min(self.top, max(1, self.size - 2))

    @property
    def products(self) -> int:
        """About how many it takes."""
        searched = max(2 * self.few + 1, 20) * 2 + self.probes * self.steps + self.trace_probes - self.probes
        return self.size if self.finds_all else searched

    @property
    def protocol(self) -> dict[str, Any]:
        if self.finds_all:
            return {"eigenvalues": "all", "random vectors": "none"}
        return {
            "eigenvalues": f"{self.few} of largest magnitude, to {self.tolerance:g} of the largest",
            "random vectors": f"{self.probes} of {self.steps} steps, {self.trace_probes} for trace and norm, seed "
            f"{self.seed}",
        }

    def spectrum(
        self, products: CurvatureProducts, which: Which, advance: Callable[[int], None]
    ) -> tuple[Eigenpairs, EigenvalueDensity]:
        """The eigenpairs at its ends, and the density; the same probes for every loss and set of rotations."""
        space, times = products.space, _counting(products, which, advance)
        generator = torch.Generator().manual_seed(self.seed)
        if self.finds_all:
            outer = dense(products.whole(which, advance), space.precision)
        else:
            outer = extreme(times, space.random(generator), self.few, self.tolerance)
        known = self.size, outer.values, outer.residuals, outer.square
        if self.finds_all or self.size == len(outer.values):
            return outer, EigenvalueDensity(*known, floor=outer.floor)
        made = [
            lanczos(times, space.random(generator), self.steps if k < self.probes else 1, without=outer.vectors)
            for k in range(self.trace_probes)
        ]
        quadratic, squares = np.array([[one.quadratic, one.square] for one in made]).T
        return outer, EigenvalueDensity(*known, tuple(made[: self.probes]), quadratic, squares)


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


def _doubts(products: CurvatureProducts, found: Mapping[Which, LossCurvature], seed: int) -> list[str]:
    """Notes on numbers that may not mean what they say: L_equiv within rounding, products that lack something."""
    space, notes = products.space, []
    vector = space.random(torch.Generator().manual_seed(seed))
    equiv = found.get("equiv")
    if equiv is not None and bool(torch.stack(list(products.pieces[0]())).isfinite().all()):
        rounding = space.precision * float(products(vector, "total").norm() / vector.norm()) * space.size**0.5
        if 0 < equiv.norm_squared.value < (FLOORS * rounding) ** 2:
            notes.append("the curvature of L_equiv is within rounding of that of L_total: its numbers say nothing")
    if products.matrix == "hessian":
        which = next(iter(found))
        apart = disagreement(products(vector, which), lambda: products.gradient(which), space, vector)
        if apart is not None and apart > APART:
            notes.append(
                f"products of the Hessian differ from differences of gradients by {100 * apart:.0f} %: kinks such as "
                "ReLU's have no second derivative, or an operation of one's own gives none"
            )
    return notes
