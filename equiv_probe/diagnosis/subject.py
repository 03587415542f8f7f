"""The model under diagnosis: evaluated at rotated copies once, and at whatever copies an experiment asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.comparison import Compared, compared, root, variance
from equiv_probe.diagnosis.evaluation import evaluated
from equiv_probe.estimation.controls import TRANSLATION
from equiv_probe.estimation.orbit import Orbit
from equiv_probe.estimation.verdict import AMPLIFIED, ROUND_OFF_FACTOR, Verdict, verdict
from equiv_probe.live.batch_call import coarsest
from equiv_probe.orbit.controls import controls_of
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.report.formatting import number
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from equiv_probe.estimation.controls import Control
    from equiv_probe.schema.schema import Schema

    Outputs = dict[str, Tensor]

ROTATIONS = 24
"""At which the model is evaluated once for all experiments."""
FEW = 6
"""Of these, at which a changed model is evaluated for comparison."""
TRIPS = 3
"""Evaluations for the round-off floor."""


class Subject:
    """A model with one input, which may hold several structures.

    Args:
        predict: inputs by name to outputs.
        inputs: tensors by name.
        schema: representations; None infers them.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        stacked: whether ``predict`` takes several copies in one call, with a leading axis on what rotates.
        precision: that the model works in; None is that of its inputs.
        module: that ``predict`` calls, where there is one.
        calling: what ``predict`` would be for another module of its kind; goes with ``module``.
        units: of outputs, where known.
        scales: natural sizes of outputs in these units; one where not known.
        seed: of the rotations.
        first: at how many of them to evaluate it now; :meth:`evaluate_all` does the others.

    Raises:
        EquivProbeError: it could be evaluated at fewer than six rotations, or two of the first.
    """

    def __init__(
        self,
        predict: Callable[[Any], Any],
        inputs: Mapping[str, Any],
        schema: Schema | None = None,
        *,
        center: str | Tensor = "centroid",
        stacked: bool = False,
        precision: torch.dtype | None = None,
        module: nn.Module | None = None,
        calling: Callable[[nn.Module], Callable[[Any], Any]] | None = None,
        units: Mapping[str, str] | None = None,
        scales: Mapping[str, float] | None = None,
        seed: int = 0,
        first: int = ROTATIONS,
    ) -> None:
        self.predict, self.center, self.stacked, self.module = predict, center, stacked, module
        self._calling = calling
        self.units, self.scales = dict(units or {}), dict(scales or {})
        self.seed = seed
        self._models: list[RotatedModel] = []
        self.precision = precision or coarsest(inputs.values()) or torch.float64
        self.model = self._made(predict, dict(inputs), schema, center)
        self.schema, self.inputs = self.model.schema, self.model.inputs
        self.has_exact_grids = bool(exact_grids(self.schema))
        self.plan = self._plan()
        wanted = self.plan.rotations().flatten(0, 1)
        self._waiting = wanted[first:]
        found = evaluated(self.model, wanted[:first], min(2 if len(self._waiting) else FEW, len(wanted)))
        self.rotations, self.values = found.rotations, found.values
        self.refused, self.nonfinite = found.refused, found.nonfinite
        exact = self.has_exact_grids
        trips = self.rotations[:TRIPS] if exact else haar(TRIPS, torch.Generator().manual_seed(seed + 1))
        self.round_trips, self.repeats = self.model.floors(TRIPS, trips, TRIPS)

    def evaluate_all(self) -> None:
        """Evaluate it at the rotations that were left for later.

        Raises:
            EquivProbeError: it could be evaluated at fewer than six in all.
        """
        if not len(self._waiting):
            return
        found = evaluated(self.model, self._waiting, min(FEW, len(self._waiting)) - len(self.rotations))
        self._waiting = self._waiting[:0]
        self.rotations = torch.cat([self.rotations, found.rotations])
        self.values = {n: torch.cat([v, found.values[n]]) for n, v in self.values.items() if n in found.values}
        self.refused += found.refused
        for name, count in found.nonfinite.items():
            self.nonfinite[name] = self.nonfinite.get(name, 0) + count
        for known in ("orbit", "controls", "broken"):
            self.__dict__.pop(known, None)

    def _plan(self) -> RotationPlan:
        """Independent rotations; of grids without interpolation all that fit, in a random order."""
        usual = RotationPlan("haar", ROTATIONS, seed=self.seed)
        fitting = fitting_plan(usual, self.schema, self.inputs, self.model.identity)
        return replace(fitting, replicates=fitting.size, subset=fitting.size) if self.has_exact_grids else usual

    # -- what was measured ---------------------------------------------------------------------------------------------

    @property
    def evaluations(self) -> int:
        """Of the model, so far."""
        return sum(model.evaluations for model in self._models)

    @property
    def outputs(self) -> list[str]:
        """The outputs with numbers that can be compared."""
        return list(self.values)

    @property
    def identity(self) -> Outputs:
        """Outputs at the input as it is, ``(*S)``."""
        return self.model.identity

    def raw(self, name: str) -> Tensor:
        """An output at rotated inputs as the model gives it, not rotated back, ``(K, *S)``."""
        rep = self.schema.outputs[name]
        return rep.rotate(self.values[name], self.rotations, self.orbit.centers.get(name))

    @cached_property
    def orbit(self) -> Orbit:
        """What was evaluated, as an orbit of independent rotations."""
        plan = replace(self.plan, replicates=len(self.rotations), subset=self.plan.subset and len(self.rotations))
        values = {name: value[:, None] for name, value in self.values.items()}
        schema = replace(self.schema, outputs={name: self.schema.outputs[name] for name in values})
        return Orbit.from_values(
            values,
            {name: self.identity[name] for name in values},
            schema,
            plan,
            self.rotations[:, None],
            centers=self.model.centers.by_name(self.model.identity),
        )

    @cached_property
    def controls(self) -> list[Control]:
        """Of translation and of what the outputs depend on; a few evaluations when first asked for."""
        return controls_of(self.model, self.rotations, self.round_trips, self.repeats)

    def depends_on_place(self, name: str) -> bool:
        """Whether an output changes where the structure is moved as a whole."""
        return any(c.name == TRANSLATION and c.failed and c.sentence.startswith(f"{name}:") for c in self.controls)

    def unit(self, name: str) -> str:
        """Of an output, empty where not known."""
        return self.units.get(name, "")

    def error(self, name: str) -> float:
        """Root of the variance over rotations."""
        return math.sqrt(variance(self.values[name]))

    def size(self, name: str) -> float:
        """Root mean square of an output; of one number that means nothing by itself, how it varies counts too."""
        return max(root(self.identity[name]), root(self.values[name]))

    def floor(self, name: str) -> float:
        """Root mean square of what rounding of the inputs makes of an output."""
        return root(self.round_trips[name] - self.identity[name])

    def noise(self, name: str) -> float:
        """Standard deviation from call to call."""
        return root(self.repeats[name] - self.identity[name]) / math.sqrt(2)

    def rounding(self, name: str) -> float:
        """The most that rounding and chance do to an output, as far as they were seen."""
        size = max(self.size(name), self.scales.get(name, 0.0))
        return max(self.floor(name), self.noise(name), torch.finfo(self.precision).eps * size)

    def natural(self, name: str) -> float:
        """A natural size of an output, such as 1 eV/Å³: numbers like that are added on the way to a smaller one."""
        return self.scales.get(name, 1.0)

    def amount(self, name: str, value: float) -> str:
        """A number in an output's unit, in words."""
        return f"{number(value, 2)} {self.unit(name)}".rstrip()

    def verdict(self, name: str) -> Verdict:
        """Whether an output's error is more than rounding, in words."""
        size = self.size(name)
        relative = self.error(name) / size if size > 0 else math.nan
        return verdict(self.error(name), self.floor(name), self.noise(name), self.unit(name), relative)

    @cached_property
    def broken(self) -> list[str]:
        """Outputs with an error that rounding does not explain, the largest beside their size first."""
        return sorted(filter(self._is_broken, self.outputs), key=lambda n: -self.error(n) / (self.size(n) or 1.0))

    def _is_broken(self, name: str) -> bool:
        eps, size = torch.finfo(self.precision).eps, self.size(name)
        # A floor far above the precision hides an error: a jump, amplified rounding, or chance.
        accounted = min(max(self.floor(name), self.noise(name)), AMPLIFIED * eps * max(size, self.natural(name)))
        return self.error(name) > ROUND_OFF_FACTOR * max(accounted, eps * size)

    # -- what experiments ask for --------------------------------------------------------------------------------------

    def few(self, name: str) -> Tensor:
        """An output at the first rotations, rotated back: what :meth:`again` is compared with."""
        return self.values[name][:FEW]

    def again(
        self,
        *,
        predict: Callable[[Any], Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        schema: Schema | None = None,
        center: str | Tensor | None = None,
        rotations: Tensor | None = None,
    ) -> Outputs:
        """Outputs of a changed model at the first rotations, or at others, rotated back, ``(C, *S)``."""
        chosen = self.rotations[:FEW] if rotations is None else rotations
        if predict is None and inputs is None and schema is None and center is None:
            return self.model.rotated_back(chosen)
        model = self._made(
            predict or self.predict,
            dict(self.inputs if inputs is None else inputs),
            schema or self.schema,
            self.center if center is None else center,
        )
        return model.rotated_back(chosen)

    def at(self, inputs: Mapping[str, Any], predict: Callable[[Any], Any] | None = None) -> Outputs:
        """Outputs at other inputs, not rotated; one evaluation."""
        return self._made(predict or self.predict, dict(inputs), self.schema, "origin").identity

    def by(self, module: nn.Module) -> Callable[[Any], Any]:
        """What ``predict`` would be with another module in the place of its own."""
        assert self._calling is not None
        return self._calling(module)

    def changes(self, found: Outputs, factor: float) -> Iterator[tuple[str, float, float]]:
        """Outputs that are not what they are at the input as it is: name, by how much, and what rounding explains.

        Args:
            found: outputs at an input that should make no difference.
            factor: multiple of rounding that a change exceeds.
        """
        for name in self.outputs:
            change, rounding = root(found[name] - self.identity[name]), self.rounding(name)
            if change > factor * rounding:
                yield name, change, rounding

    def compare(self, name: str, after: Tensor, before: Tensor | None = None, *, candidates: int = 1) -> Compared:
        """How much of an output's error goes.

        Args:
            name: of the output.
            after: its values under the change, rotated back, ``(K, *S)``.
            before: at as many rotations; None takes those that were evaluated.
            candidates: how many changes were tried, of which this is the best.
        """
        before = self.values[name][: len(after)] if before is None else before
        floor = min(self.floor(name), self.error(name) / ROUND_OFF_FACTOR) ** 2
        return compared(before, after, floor, candidates=candidates)

    def best(self, name: str, tried: Mapping[str, Tensor]) -> tuple[str, Compared]:
        """Of several changes that under which most of an output's error goes, by label, and how much that is."""
        found = {label: self.compare(name, after, candidates=len(tried)) for label, after in tried.items()}
        return max(found.items(), key=lambda one: one[1].part)

    def _made(
        self, predict: Callable[[Any], Any], inputs: dict[str, Any], schema: Schema | None, center: str | Tensor
    ) -> RotatedModel:
        model = RotatedModel(predict, inputs, schema, center, precision=self.precision, stacked=self.stacked)
        self._models.append(model)
        return model
