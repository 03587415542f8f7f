"""An orbit and a loss, measured: the loss on the orbit, on its mean and on its leave-one-out means, with error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.jackknife import Jackknife, jackknife
from equiv_probe.estimation.losses import PointwiseLoss, frame_dependence
from equiv_probe.estimation.objective import Objective, is_squared, loss_on, require_outputs
from equiv_probe.representations.grids import Grid

__all__ = ["Measurement", "Objective", "equiv_by_structure", "loss_on", "measure", "require_outputs"]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.schema.schema import Schema


def measure(orbit: Orbit, objective: Objective, *, live: bool = False) -> Measurement:
    """Evaluate an objective on an orbit, on its mean and on its leave-one-out means, and jackknife.

    Args:
        orbit: the orbit.
        objective: the loss.
        live: on a training path: nothing is checked and noted that would wait for the device.
    """
    estimate, weight = _estimate(orbit, objective, live=live)
    estimate, noise, of_noise = _without_noise(orbit, objective, estimate)
    return Measurement(
        estimate,
        weight,
        noise=float((noise * weight).sum() / weight.sum()) if noise is not None else math.nan,
        floor=_floor(orbit, orbit.round_trips, objective, among=_interpolates(orbit.schema)),
        nondeterminism=_floor(orbit, orbit.repeats, objective),
        loss=objective.label,
        squared=is_squared(objective.loss),
        labelled=objective.labelled,
        notes=() if live else (*_notes(orbit, objective), *_of_interpolation(orbit), *of_noise),
    )


def equiv_by_structure(orbit: Orbit, objective: Objective) -> Tensor:
    """``L_equiv`` of each structure, ``(U,)``: what :func:`measure` gives, without the floors and the notes."""
    return _without_noise(orbit, objective, _estimate(orbit, objective)[0])[0].equiv


def _without_noise(
    orbit: Orbit, objective: Objective, estimate: Jackknife
) -> tuple[Jackknife, Tensor | None, tuple[str, ...]]:
    """The estimate for the model's mean over calls, the variance of one call ``(U,)``, and what there is to say.

    See :mod:`equiv_probe.estimation.noise`. Of other losses than squared error nothing can be subtracted.
    """
    of_noise = orbit.of_the_noise()
    if of_noise is None:
        return estimate, None, ()
    if not is_squared(objective.loss):
        said = f"the outputs vary from call to call, which a {objective.label!r} loss counts with the rest"
        return estimate, None, (said,)
    own, _ = _estimate(of_noise, objective.about(of_noise.identity))
    less = replace(estimate, total=estimate.total - own.equiv, pseudo_total=estimate.pseudo_total - own.pseudo_equiv)
    return less, 2 * own.equiv, ()


def _estimate(orbit: Orbit, objective: Objective, *, live: bool = False) -> tuple[Jackknife, Tensor]:
    """The jackknife and the weights of the structures, ``(U,)``."""
    share = orbit.sizes / orbit.sizes.sum()
    means = {name: orbit.means[name] for name in objective.outputs}
    shares = {name: share.to(m).reshape(-1, *(1,) * (m.ndim - 1)) for name, m in means.items()}
    mean = {name: (shares[name] * m).sum(0) for name, m in means.items()}
    losses = _group_losses(orbit, objective)
    of_mean, weight = objective(mean, 0)
    if not live and not bool((losses.isfinite() | (weight <= 0)).all()):
        raise EquivProbeError(
            f"a non-finite {objective.label!r} loss of {', '.join(objective.outputs)}",
            "finite targets wherever weights and mask let them count",
            "decompose(..., mask=...) for labels that are missing",
        )
    if not orbit.plan.is_random:  # the average over the subgroup is exact: no replicates, and no noise from them
        estimate = Jackknife(losses.mean(0), of_mean, losses[:0], losses[:0], orbit.sizes)
    elif objective.labelled and is_squared(objective.loss):
        # The L_equiv of squared error does not depend on the labels, replicate by replicate: taken about the unrotated
        # prediction it does not drown in the rounding of a large L_total.
        own, _ = _estimate(orbit, objective.about(orbit.identity), live=live)
        total = jackknife(losses, of_mean, losses, orbit.sizes, orbit.plan.population)
        pseudo = total.pseudo_total
        estimate = Jackknife(total.total, total.total - own.equiv, pseudo, pseudo - own.pseudo_equiv, orbit.sizes)
    else:
        left_out = {name: (mean[name] - shares[name] * m) / (1 - shares[name]) for name, m in means.items()}
        estimate = jackknife(losses, of_mean, objective(left_out, 1)[0], orbit.sizes, orbit.plan.population)
    return estimate, weight


def _group_losses(orbit: Orbit, objective: Objective) -> Tensor:
    """``Σ_i w_i ℓ(h_{ri}, y)``, averaged within each group of replicates, ``(G, U)``."""
    if orbit.values is not None:
        each, _ = objective({name: orbit.values[name] for name in objective.outputs}, 2)
        return orbit.in_groups(torch.einsum("n,rnu->ru", orbit.weights.to(each), each))
    if not isinstance(objective.loss, PointwiseLoss) or not objective.loss.squared:
        raise EquivProbeError(
            f"loss {objective.label!r} and an orbit of which only moments were kept",
            "the orbit itself, for a loss other than squared error",
            "twirl(..., keep=True)",
        )
    # E(h − y)² from moments about the unrotated prediction: no cancellation against large energies.
    (name,) = objective.outputs
    identity, target = orbit.identity[name], objective.targets[name]
    shift = identity - target
    elements = orbit.squares[name] + 2 * (orbit.means[name] - identity) * shift + shift.square()
    return objective.reduction(elements, 1)[0]


def _of_interpolation(orbit: Orbit) -> tuple[str, ...]:
    """What a reader must know of the floor."""
    if not _interpolates(orbit.schema) or not orbit.round_trips:
        return ()
    return ("grids were interpolated: the floor is not that of rounding, but of interpolation there and back",)


def _interpolates(schema: Schema) -> bool:
    return any(rep.interpolates for rep in (*schema.inputs.values(), *schema.outputs.values()))


def _floor(orbit: Orbit, copies: Mapping[str, Tensor], objective: Objective, *, among: bool = False) -> float:
    """The same estimator over the unrotated prediction and evaluations that should equal it; NaN if there are none.

    ``among`` the evaluations alone where grids are interpolated: that smooths all of them, which is no scatter.
    """
    if not copies or (among and len(next(iter(copies.values()))) < 2):
        return math.nan
    if is_squared(objective.loss):
        objective = objective.about(orbit.identity)
    first = 1 if among else 0
    rows = {name: torch.cat([orbit.identity[name][None], copies[name]])[first:] for name in objective.outputs}
    losses, weight = objective(rows, 1)
    mean = {name: values.mean(0) for name, values in rows.items()}
    left_out = {name: (len(v) * mean[name] - v) / (len(v) - 1) for name, v in rows.items()}
    equiv = jackknife(losses, objective(mean, 0)[0], objective(left_out, 1)[0]).equiv
    return float((equiv * weight).sum() / weight.sum())


def _notes(orbit: Orbit, objective: Objective) -> tuple[str, ...]:
    """What a reader must know to use the numbers: a loss that depends on the frame."""
    if not isinstance(objective.loss, PointwiseLoss) or len(objective.outputs) != 1:
        return ()
    (name,) = objective.outputs
    representation = orbit.schema.outputs[name]
    if not objective.labelled or representation.event_shape == ():
        return ()
    target = orbit.schema.target(name)
    if isinstance(representation, Grid) and isinstance(target, Grid):  # where the voxels go changes no loss of voxels
        representation, target = representation.channels, target.channels
    change = frame_dependence(
        objective.loss,
        objective.reduction,
        orbit.identity[name],
        objective.targets[name],
        representations=(representation, target),
        rotations=orbit.rotations.reshape(-1, 3, 3)[:4],
    )
    if change < 1e-5:
        return ()
    remedy = {
        "mae": "use the norm-wise 'mae-norm'",
        "huber": "use the norm-wise 'huber-norm'",
    }.get(objective.label, "give Voigt shears weight 2, or use the full tensor")
    return (
        f"the loss {objective.label!r} on {name!r} depends on the frame (it changed by {100 * change:.2g} % when "
        "prediction and target rotated together), so L_total here is that of the data's own frame; "
        f"{remedy} for a frame-independent one",
    )


@dataclass(frozen=True)
class Measurement:
    """One objective's jackknife ``(U,)``, weights ``(U,)`` and floors, before they are summed up."""

    estimate: Jackknife
    weight: Tensor
    floor: float
    nondeterminism: float
    loss: str
    squared: bool
    labelled: bool
    notes: tuple[str, ...] = ()
    noise: float = math.nan
    """Variance of one call about the model's mean, where outputs vary from call to call and it was measured."""

    @classmethod
    def sum(cls, parts: Mapping[str, Measurement], factors: Mapping[str, float]) -> Measurement:
        """The weighted sum of several outputs' losses, structure by structure where they have the same structures."""
        first = next(iter(parts.values()))
        same = all(len(part.weight) == len(first.weight) for part in parts.values())
        pooled = {name: part if same else part.pooled() for name, part in parts.items()}
        used = torch.stack([part.weight > 0 for part in pooled.values()]).any(0)
        weights = [factors[name] for name in pooled]
        estimate = Jackknife.combined(
            [part.evened(used) for part in pooled.values()],
            lambda values: torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum(0),
        )
        return cls(
            estimate,
            used.to(next(iter(pooled.values())).weight),
            sum(factors[name] * part.floor for name, part in pooled.items()),
            sum(factors[name] * part.nondeterminism for name, part in pooled.items()),
            " + ".join(f"{factors[name]:g}·{part.loss}({name})" for name, part in parts.items()),
            squared=False,
            labelled=all(part.labelled for part in parts.values()),
        )

    @classmethod
    def joined(cls, parts: list[Measurement]) -> Measurement:
        """Measurements of different structures by the same rotations, as one of all of them."""
        weights = [float(part.weight.sum()) for part in parts]

        def pool(field_name: str) -> float:
            values = [getattr(part, field_name) for part in parts]
            return float(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))

        return replace(
            parts[0],
            estimate=Jackknife.combined([part.estimate for part in parts], lambda values: torch.cat(values, -1)),
            weight=torch.cat([part.weight for part in parts]),
            floor=pool("floor"),
            nondeterminism=pool("nondeterminism"),
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def evened(self, used: Tensor) -> Jackknife:
        """The same estimates for structures of equal weight, so that several outputs can be added.

        With ``ρ = Σwℓ/Σw``, ``ρ + w/w̄ (ℓ − ρ)`` averages to ρ and scatters as the ratio does; it is ℓ where all weigh
        the same.
        """
        est, total = self.estimate, self.weight.sum()
        ratio = self.weight / total * used.sum()

        def even(values: Tensor, estimate: Tensor) -> Tensor:
            center = (estimate * self.weight).sum(-1, keepdim=True) / total
            return center + ratio * (values - center)

        return Jackknife(
            even(est.total, est.total),
            even(est.mean, est.mean),
            even(est.pseudo_total, est.total),
            even(est.pseudo_mean, est.mean),
            est.sizes,
        )

    def pooled(self) -> Measurement:
        """All structures as one."""
        w = self.weight / self.weight.sum()
        pooled = Jackknife.combined([self.estimate], lambda values: (values[0] * w).sum(-1, keepdim=True))
        return replace(self, estimate=pooled, weight=w.sum(-1, keepdim=True))
