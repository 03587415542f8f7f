r"""``L_total = L_mean + L_equiv``: the replicate jackknife, for every convex loss.

With replicate means ``m_r = Σ_i w_i h(g_{ri})``, independent and each with mean ``Tf(x)``,

    L_total = mean_r Σ_i w_i ℓ(h_{ri}, y)
    L_mean  = R ℓ(m̄, y) − (R−1) mean_r ℓ(m̄₋r, y)
    L_equiv = L_total − L_mean.

For squared error this is exactly unbiased for every R ≥ 2 and every design; for other smooth convex losses the bias is
O(1/R²). Sources: Quenouille, Biometrika 43 (1956) 353; Tukey, Ann. Math. Statist. 29 (1958) 614 (pseudo-values); Busing,
Meijer & van der Leeden, Stat. Comput. 9 (1999) 3 (groups of unequal size, needed where replicates are merged).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimates import Estimate, Sums
from equiv_probe.losses import PointwiseLoss, Reduction, frame_dependence, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimates import Scale
    from equiv_probe.losses import AnyLoss
    from equiv_probe.twirl import Orbit


@dataclass(frozen=True)
class Jackknife:
    """Estimates and their pseudo-values, each ``(*U)`` and ``(G, *U)``, for G groups of replicates."""

    total: Tensor
    mean: Tensor
    pseudo_total: Tensor
    pseudo_mean: Tensor
    sizes: Tensor

    @property
    def equiv(self) -> Tensor:
        """``L_equiv = L_total − L_mean``, ``(*U)``."""
        return self.total - self.mean

    @property
    def pseudo_equiv(self) -> Tensor:
        """Pseudo-values of ``L_equiv``, ``(G, *U)``: their weighted mean is the estimate."""
        return self.pseudo_total - self.pseudo_mean

    def stderr(self, pseudo: Tensor) -> Tensor:
        """Jackknife standard error from pseudo-values ``(G, *U)``, as if there were one structure."""
        shape = (-1, *(1,) * (pseudo.ndim - 1))
        share = (self.sizes / self.sizes.sum()).to(pseudo).reshape(shape)
        center = (share * pseudo).sum(0)
        return ((pseudo - center).square() * share / (1 - share)).mean(0).sqrt()


def jackknife(losses: Tensor, loss_of_mean: Tensor, losses_left_out: Tensor, sizes: Tensor | None = None) -> Jackknife:
    """Decompose losses that were evaluated on the orbit, on its mean, and on its leave-one-out means.

    Args:
        losses: ``Σ_i w_i ℓ(h_{ri}, y)`` for every replicate (or its mean over a group of replicates), ``(G, *U)``.
        loss_of_mean: ``ℓ(m̄, y)``, ``(*U)``.
        losses_left_out: ``ℓ(m̄₋r, y)``, ``(G, *U)``.
        sizes: replicates in each group, ``(G,)``; None is one each.

    Returns:
        The estimates. ``E[mean] = ℓ(Tf, y)`` exactly for squared error, to O(1/R²) for smooth convex losses.

    Raises:
        EquivProbeError: fewer than two groups.
    """
    groups = len(losses)
    if groups < 2:
        raise EquivProbeError("one replicate", "at least two (four for error bars)", "RotationPlan(..., replicates=4)")
    sizes = torch.ones(groups, dtype=losses.dtype) if sizes is None else sizes
    share = (sizes / sizes.sum()).to(losses).reshape(-1, *(1,) * (losses.ndim - 1))
    pseudo_mean = (loss_of_mean - (1 - share) * losses_left_out) / share
    return Jackknife((share * losses).sum(0), (share * pseudo_mean).sum(0), losses, pseudo_mean, sizes)


@dataclass(frozen=True)
class Decomposition:
    """The three losses and the share, with standard errors and 95 % intervals, in ``unit``.

    ``per_structure`` holds tensors ``(U,)``: total, mean, equiv, equiv_stderr, weight. ``floor`` is what the same measurement
    reads when inputs differ only by rounding, ``nondeterminism`` when they do not differ at all; NaN if not measured.
    """

    total: float
    mean: float
    equiv: float
    share: float
    total_stderr: float
    mean_stderr: float
    equiv_stderr: float
    share_stderr: float
    equiv_interval: tuple[float, float]
    share_interval: tuple[float, float]
    floor: float
    nondeterminism: float
    loss: str
    unit: str
    structures: int
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Decomposition] = field(default_factory=dict)
    per_structure: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def sums(self) -> Sums:
        """Mergeable sums over structures."""
        return Sums.of(*(self.per_structure[key] for key in ("equiv", "total", "weight")))

    def to_dict(self) -> dict[str, Any]:
        """Plain floats, for JSON."""
        plain = {key: value for key, value in vars(self).items() if key not in {"parts", "per_structure"}}
        return {**plain, "parts": {name: part.to_dict() for name, part in self.parts.items()}}

    def __str__(self) -> str:
        def line(name: str, d: Decomposition) -> str:
            shown = f"{name:<12} L_equiv {d.equiv:.4g} ± {d.equiv_stderr:.2g} {d.unit} [{d.loss}]"
            if math.isfinite(d.total):
                shown += f", L_total {d.total:.4g}, L_mean {d.mean:.4g}, share {100 * d.share:.3g} ± {100 * d.share_stderr:.2g} %"
            return shown + (f", round-off floor {d.floor:.2g}" if math.isfinite(d.floor) else "")

        lines = [line(name, part) for name, part in (self.parts or {"loss": self}).items()]
        notes = dict.fromkeys([*self.notes, *(n for part in self.parts.values() for n in part.notes)])
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def decompose(
    orbit: Orbit,
    targets: Any = None,
    loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
    *,
    structures: str | Tensor | None = None,
    weights: Any = None,
    mask: Any = None,
    coefficients: Mapping[str, float] | None = None,
) -> Decomposition:
    """Decompose the loss of an orbit.

    Args:
        orbit: from :func:`equiv_probe.twirl`.
        targets: what the outputs are compared with, in the data's frame: a tensor, or a dict by output. None is allowed for
            squared error, where ``L_equiv`` is the orbit's variance and needs no labels.
        loss: ``"mse"``, ``"mae"``, ``"mae-norm"``, ``"huber"``, ``"huber-norm"``, ``"cross-entropy"``, a dict of these by
            output, or a callable ``(prediction, target)`` to a scalar or to ``(U,)`` values per structure, called with
            dicts when there are several outputs.
        structures: None, the outputs are of one structure; ``"leading"``, of a dense batch; or PyG's ``batch`` index.
        weights: of the loss elements, a tensor or a dict by output.
        mask: true where an element counts, likewise.
        coefficients: of each output's loss in the sum over outputs; one each by default.

    Returns:
        The decomposition of the weighted sum, with each output's own in ``parts``.

    Raises:
        EquivProbeError: missing targets, non-finite predictions, a single replicate, or a loss other than squared error on an
            orbit whose values were not kept.
    """
    for name in orbit.identity:
        orbit.require_finite(name)
    given = Objective.of(orbit, targets, loss, structures, weights, mask)
    parts = {name: measure(orbit, objective) for name, objective in given.items()}
    decomposed = {name: part.summarise(orbit.unit(name)) for name, part in parts.items()}
    if len(parts) == 1:
        name, only = next(iter(decomposed.items()))
        return replace(only, parts={name: only})
    factors = {name: (coefficients or {}).get(name, 1.0) for name in parts}
    return replace(Measurement.sum(parts, factors).summarise(""), parts=decomposed)


@dataclass(frozen=True)
class Objective:
    """One loss of one output, or of all together: predictions by output to one value per structure."""

    outputs: tuple[str, ...]
    loss: PointwiseLoss | Callable[..., Any]
    targets: Mapping[str, Tensor]
    reduction: Reduction
    labelled: bool

    @classmethod
    def of(
        cls, orbit: Orbit, targets: Any, loss: AnyLoss | Mapping[str, AnyLoss], structures: Any, weights: Any, mask: Any
    ) -> dict[str, Objective]:
        """One objective per output that has a target (all, without targets); a single one for a callable of dicts."""
        names = list(orbit.identity)
        labels = {name: _pick(targets, name, names) for name in names}
        found = {name: _like(label, orbit.identity[name]) for name, label in labels.items() if label is not None}
        if callable(loss) and len(names) > 1:
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
            reduction = Reduction(structures, _pick(weights, name, names), _pick(mask, name, names))
            target = found.get(name, orbit.identity[name])
            objectives[name] = cls((name,), own, {name: target}, reduction, labelled=targets is not None)
        if not objectives:
            raise EquivProbeError("no usable target", f"targets for outputs among {names}", "a dict by output")
        return objectives

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
            return self.reduction(self.loss.elements(predictions[name], self.targets[name]), lead)
        shape = next(iter(predictions.values())).shape[:lead]
        flat = {name: values.reshape(-1, *values.shape[lead:]) for name, values in predictions.items()}
        rows = [self._call({name: values[k] for name, values in flat.items()}) for k in range(shape.numel())]
        values = torch.stack(rows)
        return values.reshape(*shape, -1), values.new_ones(values.shape[-1])

    def _call(self, prediction: Mapping[str, Tensor]) -> Tensor:
        """The user's own loss on one prediction, ``(U,)``."""
        assert callable(self.loss)  # noqa: S101 - pointwise losses do not come here
        if len(self.outputs) == 1:
            (name,) = self.outputs
            value = self.loss(prediction[name], self.targets[name])
        else:
            value = self.loss(dict(prediction), dict(self.targets))
        return torch.as_tensor(value).detach().double().reshape(-1)


def measure(orbit: Orbit, objective: Objective) -> Measurement:
    """Evaluate an objective on an orbit, on its mean and on its leave-one-out means, and jackknife."""
    share = orbit.sizes / orbit.sizes.sum()
    means = {name: orbit.means[name] for name in objective.outputs}
    shares = {name: share.to(m).reshape(-1, *(1,) * (m.ndim - 1)) for name, m in means.items()}
    mean = {name: (shares[name] * m).sum(0) for name, m in means.items()}
    of_mean, weight = objective(mean, 0)
    losses = _group_losses(orbit, objective)
    if orbit.plan.is_random:
        left_out = {name: (mean[name] - shares[name] * m) / (1 - shares[name]) for name, m in means.items()}
        estimate = jackknife(losses, of_mean, objective(left_out, 1)[0], orbit.sizes)
    else:  # the average over the subgroup is exact: no replicates, and no noise from them
        estimate = Jackknife(losses.mean(0), of_mean, losses[:0], losses[:0], orbit.sizes)
    floors = [_floor(orbit, copies, objective) for copies in (orbit.round_trips, orbit.repeats)]
    return Measurement(estimate, weight, *floors, objective.label, _is_squared(objective.loss), objective.labelled,
                       _notes(orbit, objective))


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
    # E(h − y)² from moments about the unturned prediction: no cancellation against large energies.
    (name,) = objective.outputs
    identity, target = orbit.identity[name], objective.targets[name]
    shift = identity - target
    elements = orbit.squares[name] + 2 * (orbit.means[name] - identity) * shift + shift.square()
    return objective.reduction(elements, 1)[0]


def _floor(orbit: Orbit, copies: Mapping[str, Tensor], objective: Objective) -> float:
    """The same estimator over the unturned prediction and evaluations that should equal it; NaN if there are none."""
    if not copies:
        return math.nan
    rows = {name: torch.cat([orbit.identity[name][None], copies[name]]) for name in objective.outputs}
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
    change = frame_dependence(
        objective.loss, objective.reduction, orbit.identity[name], objective.targets[name],
        (representation, orbit.schema.target(name)), orbit.rotations.reshape(-1, 3, 3)[:4],
    )
    if change < 1e-5:
        return ()
    remedy = {
        "mae": "use the norm-wise 'mae-norm'", "huber": "use the norm-wise 'huber-norm'",
    }.get(objective.label, "give Voigt shears weight 2, or use the full tensor")
    return (
        f"the loss {objective.label!r} on {name!r} depends on the frame (it changed by {100 * change:.2g} % when prediction and "
        f"target turned together), so L_total here is that of the data's own frame; {remedy} for a frame-independent one",
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

    @classmethod
    def sum(cls, parts: Mapping[str, Measurement], factors: Mapping[str, float]) -> Measurement:
        """The weighted sum of several outputs' losses, structure by structure where they have the same structures."""
        first = next(iter(parts.values()))
        same = all(len(part.weight) == len(first.weight) for part in parts.values())
        pooled = {name: part if same else part.pooled() for name, part in parts.items()}
        first = next(iter(pooled.values()))

        def add(field_name: str) -> Tensor:
            values = [factors[name] * getattr(part.estimate, field_name) for name, part in pooled.items()]
            return torch.stack(values).sum(0)

        estimate = Jackknife(*(add(key) for key in ("total", "mean", "pseudo_total", "pseudo_mean")), first.estimate.sizes)
        return cls(
            estimate,
            torch.ones_like(first.weight),
            sum(factors[name] * part.floor for name, part in pooled.items()),
            sum(factors[name] * part.nondeterminism for name, part in pooled.items()),
            " + ".join(f"{factors[name]:g}·{part.loss}({name})" for name, part in parts.items()),
            squared=False,
            labelled=all(part.labelled for part in parts.values()),
        )

    def pooled(self) -> Measurement:
        """All structures as one."""
        w = self.weight / self.weight.sum()
        est = self.estimate
        sums = ((values * w).sum(-1, keepdim=True) for values in (est.total, est.mean, est.pseudo_total, est.pseudo_mean))
        return replace(self, estimate=Jackknife(*sums, est.sizes), weight=w.sum(-1, keepdim=True))

    def summarise(self, unit: str) -> Decomposition:
        """The numbers with their error bars."""
        est, nan = self.estimate, math.nan
        total = est.total if self.labelled else torch.full_like(est.total, nan)
        sums = Sums.of(est.equiv, total, self.weight)
        shown = {key: self._with_interval(key, getattr(sums, key), int(sums.count)) for key in _KEYS}
        return Decomposition(
            **{key: value.value for key, value in shown.items()},
            **{f"{key}_stderr": value.stderr for key, value in shown.items()},
            equiv_interval=(shown["equiv"].low, shown["equiv"].high),
            share_interval=(shown["share"].low, shown["share"].high),
            floor=self.floor,
            nondeterminism=self.nondeterminism,
            loss=self.loss,
            unit=f"({unit})²" if self.squared and unit else unit,
            structures=int(sums.count),
            notes=self.notes,
            per_structure={
                "total": total,
                "mean": total - est.equiv,
                "equiv": est.equiv,
                "equiv_stderr": est.stderr(est.pseudo_equiv),
                "weight": self.weight,
            },
        )

    def _with_interval(self, key: str, over_structures: Estimate, count: int) -> Estimate:
        """Error bar of one of the four numbers: over structures, over replicates, or both.

        The structures of one orbit share its rotations, so their rotation noise is correlated and does not average out:
        the variance over replicates, of the sum over structures, is added to the variance over structures.
        """
        est, replicates = self.estimate, len(self.estimate.pseudo_mean)
        if replicates < 2 or math.isnan(over_structures.value):
            return over_structures
        w = self.weight / self.weight.sum()
        total, mean = (est.pseudo_total * w).sum(-1), (est.pseudo_mean * w).sum(-1)
        pseudo = {"total": total, "mean": mean, "equiv": total - mean}
        if key == "share":  # linearised: (e_r − s t_r) / T varies as the ratio does
            pseudo["share"] = (total - mean - over_structures.value * total) / float((est.total * w).sum())
        from_rotations = float(est.stderr(pseudo[key]))
        scale = _SCALES.get(key, "linear")
        if count < 2:
            return Estimate.with_interval(over_structures.value, from_rotations, replicates - 1 if replicates >= 4 else 0, scale)
        a, b = over_structures.stderr**2, from_rotations**2
        # Welch & Satterthwaite's degrees of freedom of a sum of variances.
        dof = (a + b) ** 2 / (a**2 / (count - 1) + b**2 / (replicates - 1)) if a + b > 0 else count - 1
        return Estimate.with_interval(over_structures.value, math.sqrt(a + b), dof, scale)


_KEYS = ("total", "mean", "equiv", "share")
_SCALES: dict[str, Scale] = {"equiv": "log", "share": "logit"}


def _is_squared(loss: object) -> bool:
    return isinstance(loss, PointwiseLoss) and loss.squared


def _pick(values: Any, name: str, names: list[str]) -> Any:
    """The entry for one output of a dict by output, or the one value given for the only output (weights: for all)."""
    return values.get(name) if isinstance(values, Mapping) else values


def _like(target: Any, prediction: Tensor) -> Tensor:
    values = torch.as_tensor(target, device=prediction.device)
    return values.to(prediction.dtype) if values.is_floating_point() else values
