"""A batch of grids for an audit, in parts that fit in memory, and what all parts together decompose into."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.decomposition import Decomposition, summarise
from equiv_probe.estimation.deviation_by_angle import by_angle
from equiv_probe.estimation.losses import PointwiseLoss
from equiv_probe.estimation.measurement import Measurement, Objective, measure
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.second_opinion import second_opinion
from equiv_probe.live.isolation import needs_gradient
from equiv_probe.orbit.twirl import twirl
from equiv_probe.representations.grids import Grid
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.batch_layout import resolve_batch
from equiv_probe.schema.schema import named, unnamed
from equiv_probe.schema.structures import Structures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.estimation.controls import Control
    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.orbit.rotated_model import RotatedModel
    from equiv_probe.representations.interpolation import Kind
    from equiv_probe.schema.schema import Schema

FLOOR = 3
"""Round trips for the floor."""


@dataclass(frozen=True)
class Parts:
    """A batch in parts that fit in memory."""

    inputs: list[Any]
    targets: list[Any]
    schema: Schema
    structures: int
    layout: str | None
    precisions: set[torch.dtype] = field(default_factory=set)

    @classmethod
    def of(cls, inputs: Any, targets: Any, schema: Schema, chunk: int) -> Parts:
        """Cut a batch up; a single structure is one part."""
        if not grids_of(schema):
            raise EquivProbeError(str(schema), "a grid among the inputs or outputs", 'outputs={"density": ep.grid()}')
        given = named(inputs, list(schema.inputs))
        given |= {name: torch.as_tensor(v) for name, v in given.items() if name in schema.inputs}
        schema = resolve_batch(schema, given)
        found = Structures.of(given, schema, "origin")
        if found.layout == "index":
            raise EquivProbeError("a flat batch with an index", "one structure, or a dense batch", "one audit for each")
        if found.layout == "one":
            return cls([inputs], [targets], schema, 1, None)
        starts = range(0, found.count, chunk)

        def cut(values: Any) -> list[Any]:
            if values is None:
                return [None] * len(starts)
            entries = named(values)
            return [
                unnamed({name: _slice(v, start, start + chunk, found.count) for name, v in entries.items()}, values)
                for start in starts
            ]

        return cls(cut(inputs), cut(targets), schema, found.count, "leading")

    def require_fit(self, first: RotatedModel, loss: AnyLoss | Mapping[str, AnyLoss]) -> None:
        """Raise what the decomposition would raise about targets and loss, from one output for the first part."""
        one = {name: value[None, None] for name, value in first.identity.items()}
        eye = torch.eye(3, dtype=torch.float64)[None, None]
        orbit = Orbit.from_values(one, first.identity, first.schema, RotationPlan("haar", 1), eye)
        given = Objective.of(orbit, self.targets[0], loss, structures=self.layout, weights=None, mask=None)
        for objective in given.values():
            objective(first.identity, 0)

    def declared(self, kind: Kind | None) -> Schema:
        """The schema with such an interpolation."""

        def own(rep: Any) -> Any:
            return replace(rep, interpolation=kind, ball=kind is not None) if isinstance(rep, Grid) else rep

        sides = (self.schema.inputs, self.schema.outputs, self.schema.targets)
        inputs, outputs, targets = ({name: own(rep) for name, rep in side.items()} for side in sides)
        return replace(self.schema, inputs=inputs, outputs=outputs, targets=targets)

    def decompose(
        self,
        predict: Callable[[Any], Any],
        schema: Schema,
        plan: RotationPlan,
        center: str | Tensor,
        loss: AnyLoss | Mapping[str, AnyLoss],
    ) -> tuple[Decomposition, list[dict[str, float]]]:
        """All parts, rotated by the same rotations, as one; and how far they deviate by angle."""
        found: dict[str, list[Measurement]] = {}
        deviations: list[Tensor | None] = []
        doubts: dict[str, str] = {}
        controls: list[Control] = []
        for inputs, targets in zip(self.inputs, self.targets, strict=True):
            orbit = twirl(predict, inputs, schema, plan, center=center, floor=FLOOR, progress=False)
            controls += orbit.controls
            for name in orbit.identity:
                orbit.require_finite(name)
            given = Objective.of(orbit, targets, loss, structures=self.layout, weights=None, mask=None)
            for name, objective in given.items():
                one = measure(orbit, objective)
                if name in orbit.identity and one.estimate.equiv.mean() > 100 * one.floor:
                    doubts.setdefault(name, second_opinion(orbit, name))
                least = self.resolution(orbit, objective, one)
                found.setdefault(name, []).append(replace(one, floor=max(one.floor, least)))
            deviations.append(_deviation(orbit, given))
        joined = {name: Measurement.joined(parts) for name, parts in found.items()}
        passed = tuple(dict.fromkeys(controls))
        parts = {
            name: replace(_noted(summarise(one, ""), doubts.get(name, "")), controls=passed)
            for name, one in joined.items()
        }
        each = [one for one in deviations if one is not None]
        flat, weights = orbit.rotations.flatten(0, 1), orbit.weights.repeat(plan.R)
        bins = by_angle(torch.cat(each, -1), flat, weights, exact=not plan.is_rotated) if each else []
        if len(parts) == 1:
            return replace(next(iter(parts.values())), parts=parts), bins
        whole = summarise(Measurement.sum(joined, dict.fromkeys(joined, 1.0)), "")
        return replace(whole, parts=parts, controls=passed), bins

    def resolution(self, orbit: Orbit, objective: Objective, measured: Measurement) -> float:
        """What rounding the prediction once, or the loss, makes of ``L_equiv``: less than that is no floor."""
        size = sum(float(orbit.identity[name].square().mean()) for name in objective.outputs)
        step = max((torch.finfo(one).eps for one in self.precisions), default=0.0) * math.sqrt(size / 12)
        of_loss = torch.finfo(torch.float64).eps * float(measured.estimate.total.abs().mean())
        return max(step**2 if measured.squared else step, of_loss if measured.labelled else 0.0)


def grids_of(schema: Schema) -> list[Grid]:
    """The grids among inputs and outputs."""
    return [rep for rep in (*schema.inputs.values(), *schema.outputs.values()) if isinstance(rep, Grid)]


def _noted(found: Decomposition, note: str) -> Decomposition:
    return replace(found, notes=(*found.notes, note)) if note else found


def _deviation(orbit: Orbit, given: Mapping[str, Objective]) -> Tensor | None:
    """Mean squares of predictions rotated back about the unrotated ones, ``(K, U)``, of one output that was kept."""
    if len(given) != 1:
        return None
    (name, objective), *_ = given.items()
    if orbit.values is None or not (isinstance(objective.loss, PointwiseLoss) and objective.loss.squared):
        return None
    each, _ = objective.about(orbit.identity)({name: orbit.values[name]}, 2)
    return each.flatten(0, 1)


def _slice(value: Any, start: int, stop: int, count: int) -> Any:
    """Some structures of a batch; what is not of structures, as it is."""
    return value[start:stop] if hasattr(value, "shape") and value.shape[:1] == (count,) else value


def evaluated(
    model: Callable[[Any], Any], advance: Callable[[], None] = lambda: None, precisions: set[torch.dtype] | None = None
) -> Callable[[Any], Any]:
    """The model in eval mode, counted, without gradients unless it needs them; notes the precision of its outputs."""
    differentiates = False

    def evaluate(values: Any) -> Any:
        nonlocal differentiates
        try:
            with torch.set_grad_enabled(differentiates):
                return model(values)
        except RuntimeError as error:
            if differentiates or not needs_gradient(error):
                raise
            differentiates = True
            with torch.enable_grad():
                return model(values)

    def predict(values: Any) -> Any:
        advance()
        modules = model.modules() if isinstance(model, nn.Module) else ()
        training = [module for module in modules if module.training]
        for module in training:
            module.training = False
        try:
            found = evaluate(values)
        finally:
            for module in training:
                module.training = True
        tensors = (value for value in named(found).values() if isinstance(value, torch.Tensor))
        if precisions is not None:
            precisions.update(value.dtype for value in tensors if value.is_floating_point())
        return found

    predict.__wrapped__ = model  # type: ignore[attr-defined]
    return predict
