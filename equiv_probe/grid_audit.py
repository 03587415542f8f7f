"""The symmetry error of a model of voxel grids, as two numbers: what the cube's rotations see, and what all do.

>>> import torch, equiv_probe as ep
>>> _ = torch.manual_seed(0)
>>> model = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False).double()
>>> schema = ep.Schema({"input": ep.grid()}, {"output": ep.grid()})
>>> found = ep.audit_grid(model, torch.rand(2, 1, 8, 8, 8).double(), schema, progress=False)
>>> found.cube.floor < 1e-28, found.rotations.floor > 1e-6
(True, True)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.decomposition import Decomposition, summarise
from equiv_probe.errors import EquivProbeError
from equiv_probe.grid_plans import fitting_plan
from equiv_probe.grids import Grid
from equiv_probe.isolation import needs_gradient
from equiv_probe.measurement import Measurement, Objective, measure
from equiv_probe.rotations import RotationPlan
from equiv_probe.schema import named, unnamed
from equiv_probe.turned_model import TurnedModel
from equiv_probe.turning import Structures, resolve_batch
from equiv_probe.twirl import progress_bar, twirl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.interpolation import Kind
    from equiv_probe.losses import AnyLoss
    from equiv_probe.schema import Schema

FLOOR = 3
"""Round trips for the floor."""


@dataclass(frozen=True)
class GridAudit:
    """Two estimates of the same loss's symmetry error.

    Attributes:
        cube: over the rotations of the cube (of a box that is no cube, its half turns), which interpolate nothing: the
            average over them is exact, and its floor is rounding alone. Over the whole box.
        rotations: over all of SO(3), the grids interpolated; its floor is the interpolation's. Over the ball that the
            box holds.
        cube_plan: the rotations of the first.
        plan: the rotations of the second.
        interpolation: of the second.
        model: its name.
        structures: how many.
        seconds: it took.
    """

    cube: Decomposition
    rotations: Decomposition
    cube_plan: RotationPlan
    plan: RotationPlan
    interpolation: str
    model: str
    structures: int
    seconds: float

    @property
    def is_above_interpolation(self) -> bool:
        """Whether the second number is more than interpolation alone would make."""
        return self.rotations.equiv > self.rotations.floor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for JSON."""
        return {
            "schema_version": 1,
            "model": self.model,
            "structures": self.structures,
            "cube": {"plan": str(self.cube_plan), **self.cube.to_dict()},
            "rotations": {"plan": str(self.plan), "interpolation": self.interpolation, **self.rotations.to_dict()},
            "is_above_interpolation": self.is_above_interpolation,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        meaning = (
            "includes finer angles, and is more than interpolation alone would make of it, its floor"
            if self.is_above_interpolation
            else "is no more than interpolation alone would make of it, its floor: beyond the first number nothing can "
            "be said at this spacing"
        )
        lines = [
            f"{self.model}, {self.structures} structures",
            f"1. {self.cube_plan}; over the whole box",
            *(f"   {line}" for line in str(self.cube).splitlines()),
            f"2. {self.plan}; {self.interpolation} interpolation, over the ball in the box",
            *(f"   {line.replace('round-off', 'interpolation')}" for line in str(self.rotations).splitlines()),
            "The first is what a subgroup sees, without interpolation and without sampling error: broken symmetry and "
            f"nothing else, but only part of it. The second {meaning}.",
        ]
        return "\n".join(lines)


def audit_grid(
    model: Callable[[Any], Any],
    inputs: Any,
    schema: Schema | None = None,
    targets: Any = None,
    loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
    *,
    plan: RotationPlan | None = None,
    interpolation: Kind | None = None,
    center: str | Tensor = "origin",
    chunk: int = 8,
    progress: bool = True,
) -> GridAudit:
    """Measure a model of voxel grids over the cube's rotations, exactly, and over all, by interpolation.

    Args:
        model: inputs to outputs, tensors, tuples or dicts; a module is evaluated in eval mode.
        inputs: one structure, or a dense batch of any size.
        schema: representations; None infers them. Whether its grids interpolate does not matter here.
        targets: as for :func:`equiv_probe.decompose`; None for squared error without labels.
        loss: likewise.
        plan: of the second number; None is four tetrahedral replicates, 48 rotations.
        interpolation: of the second number; None is the schema's own, or else ``"cubic"``.
        center: of rotation of points beside the grids or in their place; grids turn about the centre of their box.
        chunk: structures in one pass.
        progress: show a progress bar.

    Returns:
        Both numbers, which print with what they mean.

    Raises:
        EquivProbeError: no grid in the schema, a flat batch, or what decompose raises.
    """
    began = time.perf_counter()
    plan = plan or RotationPlan()
    if not plan.is_turned:
        raise EquivProbeError(str(plan), "a plan of all rotations: those of the cube are the first number", "plan=None")
    if schema is None:
        schema = TurnedModel(_evaluated(model, lambda: None), inputs, None, center).schema
    parts = _Parts.of(model, inputs, targets, schema, chunk)
    kinds = [rep.interpolation for rep in parts.grids() if rep.interpolation]
    kind = interpolation or (kinds[0] if kinds else "cubic")
    exact, smooth = parts.declared(None), parts.declared(kind)
    whole = named(inputs, list(exact.inputs))
    first = TurnedModel(parts.predict(lambda: None), parts.inputs[0], exact, center)
    cube_plan = fitting_plan(plan, exact, whole, first.identity)
    evaluations = len(parts.inputs) * (cube_plan.size + plan.size + 2 * (FLOOR + 2))
    with progress_bar(evaluations, "turning grids", shown=progress) as advance:
        predict = parts.predict(lambda: advance(1))
        cube = parts.decompose(predict, exact, cube_plan, center, loss)
        rotations = parts.decompose(predict, smooth, plan, center, loss)
    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "model")
    seconds = time.perf_counter() - began
    return GridAudit(cube, rotations, cube_plan, plan, kind, name, parts.structures, seconds)


@dataclass(frozen=True)
class _Parts:
    """A batch in parts that fit in memory."""

    model: Callable[[Any], Any]
    inputs: list[Any]
    targets: list[Any]
    schema: Schema
    structures: int
    layout: str | None

    @classmethod
    def of(cls, model: Callable[[Any], Any], inputs: Any, targets: Any, schema: Schema, chunk: int) -> _Parts:
        if not any(isinstance(rep, Grid) for rep in (*schema.inputs.values(), *schema.outputs.values())):
            raise EquivProbeError(str(schema), "a grid among the inputs or outputs", 'outputs={"density": ep.grid()}')
        tensors = {n: torch.as_tensor(v) for n, v in named(inputs, list(schema.inputs)).items() if n in schema.inputs}
        schema = resolve_batch(schema, {**named(inputs, list(schema.inputs)), **tensors})
        found = Structures.of({**named(inputs, list(schema.inputs)), **tensors}, schema, "origin")
        if found.layout == "index":
            raise EquivProbeError("a flat batch with an index", "one structure, or a dense batch", "audit them in turn")
        if found.layout == "one":
            return cls(model, [inputs], [targets], schema, 1, None)
        starts = range(0, found.count, chunk)

        def cut(values: Any) -> list[Any]:
            if values is None:
                return [None] * len(starts)
            entries = named(values)
            return [
                unnamed({name: _slice(v, start, start + chunk, found.count) for name, v in entries.items()}, values)
                for start in starts
            ]

        return cls(model, cut(inputs), cut(targets), schema, found.count, "leading")

    def grids(self) -> list[Grid]:
        """The grids of the schema."""
        both = (*self.schema.inputs.values(), *self.schema.outputs.values())
        return [rep for rep in both if isinstance(rep, Grid)]

    def declared(self, kind: Kind | None) -> Schema:
        """The schema with such an interpolation."""

        def own(rep: Any) -> Any:
            return replace(rep, interpolation=kind, ball=kind is not None) if isinstance(rep, Grid) else rep

        sides = (self.schema.inputs, self.schema.outputs, self.schema.targets)
        made = [{name: own(rep) for name, rep in side.items()} for side in sides]
        return replace(self.schema, inputs=made[0], outputs=made[1], targets=made[2])

    def predict(self, advance: Callable[[], None]) -> Callable[[Any], Any]:
        """The model, counted."""
        return _evaluated(self.model, advance)

    def decompose(
        self,
        predict: Callable[[Any], Any],
        schema: Schema,
        plan: RotationPlan,
        center: str | Tensor,
        loss: AnyLoss | Mapping[str, AnyLoss],
    ) -> Decomposition:
        """All parts, turned by the same rotations, as one."""
        found: dict[str, list[Measurement]] = {}
        for inputs, targets in zip(self.inputs, self.targets, strict=True):
            orbit = twirl(predict, inputs, schema, plan, center=center, floor=FLOOR)
            for name in orbit.identity:
                orbit.require_finite(name)
            given = Objective.of(orbit, targets, loss, structures=self.layout, weights=None, mask=None)
            for name, objective in given.items():
                found.setdefault(name, []).append(measure(orbit, objective))
        joined = {name: Measurement.joined(parts) for name, parts in found.items()}
        parts = {name: summarise(one, "") for name, one in joined.items()}
        if len(parts) == 1:
            return replace(next(iter(parts.values())), parts=parts)
        return replace(summarise(Measurement.sum(joined, dict.fromkeys(joined, 1.0)), ""), parts=parts)


def _slice(value: Any, start: int, stop: int, count: int) -> Any:
    """Some structures of a batch; what is not of structures, as it is."""
    return value[start:stop] if hasattr(value, "shape") and value.shape[:1] == (count,) else value


def _evaluated(model: Callable[[Any], Any], advance: Callable[[], None]) -> Callable[[Any], Any]:
    """The model in eval mode, without gradients unless it needs them."""
    differentiates = [False]

    def predict(values: Any) -> Any:
        advance()
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        training = [module for module in modules if module.training]
        for module in training:
            module.training = False
        try:
            with torch.set_grad_enabled(differentiates[0]):
                return model(values)
        except RuntimeError as error:
            if differentiates[0] or not needs_gradient(error):
                raise
            differentiates[0] = True
            with torch.enable_grad():
                return model(values)
        finally:
            for module in training:
                module.training = True

    return predict
