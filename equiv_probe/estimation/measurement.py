"""An orbit and a loss, measured: the loss on the orbit, on its mean and on its leave-one-out means, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.jackknife import Jackknife, jackknife
from equiv_probe.estimation.losses import PointwiseLoss, Reduction, frame_dependence, is_of_classes, of_voxels, resolve
from equiv_probe.representations.grids import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema


@dataclass(frozen=True)
class Objective:
    """One loss of one output, or of all together: predictions by output to one value per structure."""

    outputs: tuple[str, ...]
    loss: PointwiseLoss | Callable[..., Any]
    targets: Mapping[str, Tensor]
    reduction: Reduction
    labelled: bool
    event_axes: int = 0
    """Of one event of the output: 0 for scalars, 1 for vectors, 2 for tensors of rank 2, −4 for channels of grids."""

    @classmethod
    def of(
        cls,
        orbit: Orbit,
        targets: Any,
        loss: AnyLoss | Mapping[str, AnyLoss],
        *,
        structures: Any,
        weights: Any,
        mask: Any,
    ) -> dict[str, Objective]:
        """One objective per output that has a target (all, without targets); a single one for a callable of dicts."""
        names = list(orbit.identity)
        for what, given in (("targets", targets), ("loss", loss), ("weights", weights), ("mask", mask)):
            require_outputs(what, given, names)
        if targets is not None and not isinstance(targets, Mapping) and len(names) > 1:
            raise EquivProbeError(
                f"one target for outputs {names}", "targets by output", 'targets={"' + names[0] + '": ...}'
            )
        labels = {name: _pick(targets, name) for name in names}
        found = {name: _like(label, orbit.identity[name]) for name, label in labels.items() if label is not None}
        if callable(loss) and len(names) > 1:
            if not found:
                raise EquivProbeError(
                    "no targets for a loss of several outputs",
                    "a dict of targets",
                    "decompose(orbit, targets, loss=...)",
                )
            return {"loss": cls(tuple(names), loss, found, Reduction(structures), labelled=True)}
        objectives = {}
        for name in found if targets is not None else names:
            own = resolve(loss.get(name, "mse") if isinstance(loss, Mapping) else loss)
            if targets is None and not _is_squared(own):
                raise EquivProbeError(
                    f"no target for {name!r}",
                    "a target: only squared error has an L_equiv that does not depend on the labels",
                    "decompose(orbit, targets, loss=...)",
                )
            rep, identity = orbit.schema.outputs[name], orbit.identity[name]
            own = loss_on(own, rep)
            reduction = Reduction(structures, _pick(weights, name), _pick(mask, name), counted=rep.counted(identity))
            target = found.get(name, identity)
            _require_same_shape(name, own, identity, target, -4 if rep.is_whole else -1)
            alike = isinstance(own, PointwiseLoss) or target.shape == identity.shape
            if rep.is_whole and target.is_floating_point() and alike:
                target = rep.within(target.expand(identity.shape))
            objectives[name] = cls((name,), own, {name: target}, reduction, targets is not None, rep.norm_axes)
        if not objectives:
            raise EquivProbeError("no usable target", f"targets for outputs among {names}", "a dict by output")
        return objectives

    def about(self, values: Mapping[str, Tensor]) -> Objective:
        """The same objective, label-free, with these values in the place of the targets."""
        return replace(self, targets={name: values[name] for name in self.outputs}, labelled=False)

    @property
    def label(self) -> str:
        """The loss's name, for reports."""
        if isinstance(self.loss, PointwiseLoss):
            return self.loss.name
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    def __call__(self, predictions: Mapping[str, Tensor], lead: int) -> tuple[Tensor, Tensor]:
        """Losses ``(*L, U)`` and weights ``(U,)`` of predictions ``(*L, *S)`` with ``lead`` leading axes."""
        if isinstance(self.loss, PointwiseLoss):
            (name,) = self.outputs
            elements = self.loss.of(predictions[name], self.targets[name], self.event_axes)
            return self.reduction(elements, lead)
        shape = next(iter(predictions.values())).shape[:lead]
        flat = {name: values.reshape(-1, *values.shape[lead:]) for name, values in predictions.items()}
        rows = [self._call({name: values[k] for name, values in flat.items()}) for k in range(shape.numel())]
        values = torch.stack(rows)
        return values.reshape(*shape, -1), values.new_ones(values.shape[-1])

    def _call(self, prediction: Mapping[str, Tensor]) -> Tensor:
        """The user's own loss on one prediction, ``(U,)``."""
        assert callable(self.loss)  # pointwise losses do not come here
        if len(self.outputs) == 1:
            (name,) = self.outputs
            value = self.loss(prediction[name], self.targets[name])
        else:
            value = self.loss(dict(prediction), dict(self.targets))
        value = torch.as_tensor(value).double().reshape(-1)
        # Of the prediction's graph alone: a loss may have parameters of its own.
        return value if any(given.requires_grad for given in prediction.values()) else value.detach()


def measure(orbit: Orbit, objective: Objective, *, live: bool = False) -> Measurement:
    """Evaluate an objective on an orbit, on its mean and on its leave-one-out means, and jackknife.

    Args:
        orbit: the orbit.
        objective: the loss.
        live: on a training path: nothing is checked and noted that would wait for the device.
    """
    estimate, weight = _estimate(orbit, objective, live=live)
    estimate, noise, told = _without_noise(orbit, objective, estimate)
    return Measurement(
        estimate,
        weight,
        noise=float((noise * weight).sum() / weight.sum()) if noise is not None else math.nan,
        floor=_floor(orbit, orbit.round_trips, objective, among=_interpolates(orbit.schema)),
        nondeterminism=_floor(orbit, orbit.repeats, objective),
        loss=objective.label,
        squared=_is_squared(objective.loss),
        labelled=objective.labelled,
        notes=() if live else (*_notes(orbit, objective), *_of_interpolation(orbit), *told),
    )


def _without_noise(
    orbit: Orbit, objective: Objective, estimate: Jackknife
) -> tuple[Jackknife, Tensor | None, tuple[str, ...]]:
    """The estimate for the model's mean over calls, the variance of one call ``(U,)``, and what there is to say.

    See :mod:`equiv_probe.estimation.noise`. Of other losses than squared error nothing can be subtracted.
    """
    of_noise = orbit.of_the_noise()
    if of_noise is None:
        return estimate, None, ()
    if not _is_squared(objective.loss):
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
    elif objective.labelled and _is_squared(objective.loss):
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

    Args:
        orbit: whose floor it is.
        copies: the evaluations.
        objective: the loss.
        among: them alone. Interpolation smooths every rotated copy, and what it does to all of them is no scatter.
    """
    if not copies or (among and len(next(iter(copies.values()))) < 2):
        return math.nan
    if _is_squared(objective.loss):
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
        even = {name: part.evened(used) for name, part in pooled.items()}

        def add(field_name: str) -> Tensor:
            return torch.stack([factors[name] * getattr(est, field_name) for name, est in even.items()]).sum(0)

        first = next(iter(pooled.values()))
        sizes = first.estimate.sizes
        estimate = Jackknife(add("total"), add("mean"), add("pseudo_total"), add("pseudo_mean"), sizes)
        return cls(
            estimate,
            used.to(first.weight),
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

        def join(field_name: str) -> Tensor:
            return torch.cat([getattr(part.estimate, field_name) for part in parts], -1)

        def pool(field_name: str) -> float:
            values = [getattr(part, field_name) for part in parts]
            return float(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))

        estimate = Jackknife(
            join("total"), join("mean"), join("pseudo_total"), join("pseudo_mean"), parts[0].estimate.sizes
        )
        return replace(
            parts[0],
            estimate=estimate,
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
        est = self.estimate

        def pool(values: Tensor) -> Tensor:
            return (values * w).sum(-1, keepdim=True)

        pooled = Jackknife(pool(est.total), pool(est.mean), pool(est.pseudo_total), pool(est.pseudo_mean), est.sizes)
        return replace(self, estimate=pooled, weight=w.sum(-1, keepdim=True))


def loss_on(loss: PointwiseLoss | Callable[..., Any], rep: Representation) -> PointwiseLoss | Callable[..., Any]:
    """The loss of such an output: of grids, cross-entropy has its classes on the axis of channels."""
    if not (isinstance(rep, Grid) and is_of_classes(loss)):
        return loss
    if not rep.channel_axis:
        raise EquivProbeError(f"the loss 'cross-entropy' on ep.{rep}", "one channel for each class", "ep.grid()")
    return of_voxels(loss)


def _is_squared(loss: object) -> bool:
    return isinstance(loss, PointwiseLoss) and loss.squared


def _pick(values: Any, name: str) -> Any:
    """The entry for one output of a dict by output, or the one value given for all."""
    return values.get(name) if isinstance(values, Mapping) else values


def require_outputs(what: str, given: Any, names: list[str]) -> None:
    """Raise if a dict by output names an output that is not there: a slip of the pen would change nothing, silently."""
    unknown = sorted(set(given) - set(names)) if isinstance(given, Mapping) else []
    if unknown:
        raise EquivProbeError(f"{what} for {unknown}", f"outputs among {names}")


def _require_same_shape(name: str, loss: object, prediction: Tensor, target: Tensor, class_axis: int) -> None:
    """Raise if the target would broadcast the prediction: energies (B,) against (B, 1) would compare all with all."""
    if not isinstance(loss, PointwiseLoss):
        return
    expected = prediction.shape
    if is_of_classes(loss) and not target.is_floating_point():
        expected = prediction.select(class_axis, 0).shape
    axes = zip(reversed(target.shape), reversed(expected), strict=False)
    fits = target.ndim <= len(expected) and all(length in {1, wanted} for length, wanted in axes)
    if not fits and target.numel() != 1:
        raise EquivProbeError(
            f"a target of shape {tuple(target.shape)} for {name!r}",
            f"the prediction's {tuple(expected)}",
            "reshape the target",
        )


def _like(target: Any, prediction: Tensor) -> Tensor:
    values = torch.as_tensor(target, device=prediction.device)
    return values.to(prediction.dtype) if values.is_floating_point() else values
