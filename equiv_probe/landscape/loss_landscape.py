"""The three losses on a grid of two directions in the space of the weights, under rotations that stay the same.

>>> import equiv_probe as ep
>>> weights = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
>>> def loss():  # a bowl, nine times steeper in L_mean than in L_equiv along the second weight
...     mean, equiv = (9 * weights[1] ** 2 + weights[0] ** 2) / 2, (weights**2).sum() / 2
...     return mean + equiv, mean, equiv
>>> found = ep.analysis.landscape(loss, parameters=[weights], n=8, step=0.1)
>>> found.directions, found.roughness["L_mean"].kind
(('largest eigenvalue of L_total', 'smallest positive eigenvalue of L_total'), 'quartic')
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.curvature import DENSE
from equiv_probe.landscape.curvature_products import CurvatureProducts
from equiv_probe.landscape.decomposed_loss import LOSSES, pieces_of, protocol_of, space_of
from equiv_probe.landscape.eigenvalues import dense
from equiv_probe.landscape.landscape_record import Landscape
from equiv_probe.landscape.orbit_loss import OrbitLoss
from equiv_probe.landscape.parameter_line import direction_of, losses_now
from equiv_probe.progress import progress as progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.landscape.decomposed_loss import DecomposedLoss, Which
    from equiv_probe.landscape.parameter_groups import Block
    from equiv_probe.landscape.parameter_space import ParameterSpace
    from equiv_probe.rotations.resolve import PlanLike
    from equiv_probe.schema.schema import Schema

REACH = 0.01
"""Half the width of the grid, relative to the length of the weights."""
ROUNDINGS = 1000
"""Units in the last place by which a loss may differ between two calls, and what a quartic may leave over of it."""


def landscape(
    model: Callable[..., Any],
    inputs: Any = None,
    targets: Any = None,
    schema: Schema | None = None,
    plan: PlanLike | None = None,
    *,
    directions: Sequence[str | Mapping[str, Tensor] | Tensor] | None = None,
    of: Which = "total",
    parameters: Block | None = None,
    n: int = 20,
    step: float | None = None,
    rotations: Literal["fixed", "fresh"] = "fixed",
    loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
    center: str | Tensor = "centroid",
    seed: int = 0,
    name: str = "",
    progress: bool = True,
) -> Landscape:
    """``L_total``, ``L_mean`` and ``L_equiv`` at ``θ + a d₁ + b d₂``; afterwards the weights have their old bits.

    The rotations are the same at every point, and so are the noise and times of a step (:meth:`OrbitLoss.of_step`):
    then all that is rough is the loss. With others at each point the estimate of a few rotations is what one sees; that
    is what ``rotations="fresh"`` is for.

    Args:
        model: a network, with the data that :class:`equiv_probe.analysis.OrbitLoss` takes; or, without them, a
            decomposed loss as :func:`equiv_probe.analysis.along_line` takes it.
        inputs: of the network; None where ``model`` is a loss.
        targets: likewise.
        schema: likewise.
        plan: likewise; None is four tetrahedral replicates.
        directions: two of those that :func:`equiv_probe.analysis.along_line` takes; made as long as 1. None: the
            eigenvectors of a Hessian's largest and smallest positive eigenvalue (of those that are more than rounding).
        of: the loss whose Hessian that is; without labels, of ``L_equiv``.
        parameters: the weights: names of parameters or modules, or patterns of them such as ``"layers.0.*"``; modules;
            tensors; None takes all that the loss names. Buffers are not moved.
        n: points along each axis.
        step: between them, in the unit of the weights; None: the grid reaches as far as 1 % of the weights' length.
        rotations: ``"fixed"``, or ``"fresh"`` ones at every point, for an :class:`equiv_probe.analysis.OrbitLoss` or a
            loss with ``redrawn(generator)``.
        loss: of the network, where ``model`` is one.
        center: of rotation, likewise.
        seed: of fresh rotations and random directions.
        name: of the model, for the page and the file.
        progress: say how far it is, once it takes two seconds.

    Returns:
        The losses on the grid and how rough they are, which print and plot.

    Raises:
        EquivProbeError: directions that are zero or parallel, a block too large for all its eigenvalues, fewer than six
            points, a loss that cannot draw other rotations.

    Warns:
        UserWarning: the loss differs between two calls at the same weights and rotations: it draws noise of its own.
    """
    if n < 6 or rotations not in {"fixed", "fresh"}:
        raise EquivProbeError(f"n={n}, rotations={rotations!r}", 'n=6 or more, and "fixed" or "fresh"')
    if inputs is None and isinstance(model, nn.Module):
        raise EquivProbeError("a network without data", "what OrbitLoss takes", "landscape(model, inputs, targets)")
    given: Any = model if inputs is None else OrbitLoss(model, inputs, targets, schema, plan, loss=loss, center=center)
    space = space_of(given, parameters)
    redrawn: Callable[[torch.Generator], DecomposedLoss] | None = getattr(given, "redrawn", None)
    if rotations == "fresh" and redrawn is None:
        raise EquivProbeError(
            'rotations="fresh" and a loss that cannot draw others', "OrbitLoss, or a method redrawn(generator)"
        )
    here, again = losses_now(pieces_of(given)), losses_now(pieces_of(given))
    notes = _noise(here, again, space.precision)
    vectors, names, values = _directions(given, space, directions, of if np.isfinite(here[0]) else "equiv", seed)
    apart = step or 2 * REACH * float(space.here.norm()) / (n - 1)
    at = apart * (np.arange(n, dtype=np.float64) - (n - 1) / 2)
    generator = torch.Generator().manual_seed(seed)
    surface = np.empty((n, n, 3), dtype=np.float64)
    with space.walking() as walk, progress_bar(n * n, "landscape", shown=progress) as advance:
        for i, j in np.ndindex(n, n):
            walk.to(float(at[i]) * vectors[0] + float(at[j]) * vectors[1])
            now = redrawn(generator) if rotations == "fresh" and redrawn is not None else given
            surface[i, j] = losses_now(pieces_of(now))
            advance(1)
    return Landscape.of(
        at,
        surface,
        ROUNDINGS * space.precision,
        rotations=rotations,
        directions=names,
        parameters=space.size,
        here=tuple(here.tolist()),
        eigenvalues=values,
        seed=seed,
        notes=notes,
        name=name,
        protocol=protocol_of([given], space),
    )


def _noise(here: Any, again: Any, precision: float) -> tuple[str, ...]:
    """A note, and a warning, if a loss is not the same twice."""
    change = np.nanmax(np.abs(here - again))
    if not change > ROUNDINGS * precision * np.nanmax(np.abs(here)):
        return ()
    note = (
        f"the loss draws fresh noise: at the same weights L_total was {here[0]:.4g} and then {again[0]:.4g}; what is "
        "rough in the landscape is that noise. Fix its seed, switch dropout off, or use OrbitLoss.of_step"
    )
    warnings.warn(f"equiv_probe: {note}", stacklevel=3)
    return (note,)


def _directions(
    loss: DecomposedLoss,
    space: ParameterSpace,
    directions: Sequence[str | Mapping[str, Tensor] | Tensor] | None,
    of: Which,
    seed: int,
) -> tuple[list[Tensor], tuple[str, str], tuple[float, float]]:
    """Two vectors of length one, what they are, and their eigenvalues."""
    if directions is None:
        return _eigenvectors(loss, space, of)
    if isinstance(directions, str) or len(directions) != 2:
        raise EquivProbeError(f"directions={directions!r}", "two directions", 'directions=("gradient", "random")')
    made = [direction_of([loss], space, one, seed + k) for k, one in enumerate(directions)]
    vectors = [vector / vector.norm() for vector, _ in made]
    if not bool(torch.stack(vectors).isfinite().all()) or abs(float(vectors[0] @ vectors[1])) > 1 - 1e-9:
        raise EquivProbeError("directions that are zero, not finite or parallel", "two that span a plane")
    return vectors, (made[0][1], made[1][1]), (float("nan"), float("nan"))


def _eigenvectors(
    loss: DecomposedLoss, space: ParameterSpace, of: Which
) -> tuple[list[Tensor], tuple[str, str], tuple[float, float]]:
    if of not in LOSSES:
        raise EquivProbeError(f"of={of!r}", ", ".join(LOSSES))
    if space.size > DENSE:
        raise EquivProbeError(
            f"{space.size} weights, of whose Hessian the smallest positive eigenvalue is wanted",
            f"a block of at most {DENSE}, or two directions",
            'parameters="name.of.a.layer", or directions=("gradient", "random")',
        )
    pairs = dense(CurvatureProducts(loss, space).whole(of), space.precision)
    above = np.flatnonzero(pairs.values > pairs.floor)
    if len(above) < 2:
        raise EquivProbeError(
            f"a Hessian of L_{of} with {len(above)} positive eigenvalues",
            "two or more",
            'directions=("gradient", "random")',
        )
    places = [int(above[-1]), int(above[0])]
    names = f"largest eigenvalue of L_{of}", f"smallest positive eigenvalue of L_{of}"
    first, second = (float(pairs.values[k]) for k in places)
    return [pairs.vectors[k] for k in places], names, (first, second)
