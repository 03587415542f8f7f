"""A network with hooks, evaluated at rotated inputs: what every activation is, how it rotates, and its error."""

from __future__ import annotations

import contextlib
import math
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from equiv_probe.diagnosis.layers.carried import Carried, simple_candidates
from equiv_probe.diagnosis.layers.inference import (
    unexplained,
)
from equiv_probe.diagnosis.layers.measuring import Discrete, Moments, Samples, Together
from equiv_probe.diagnosis.layers.representing import Representing, rounding, rounding_of
from equiv_probe.diagnosis.layers.sites import Discovery
from equiv_probe.errors import EquivProbeError, in_one_line
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.orbit.rounding import perturbed
from equiv_probe.progress import progress as progress_bar
from equiv_probe.representations.representation import point
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.schema.grid_plans import exact_grids, fitting_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from equiv_probe.diagnosis.layers.calls import Visitor, WatchedCalls
    from equiv_probe.diagnosis.layers.sites import CallRecord, Site
    from equiv_probe.orbit.rotated_model import RotatedModel

    Outputs = dict[str, Tensor]

LEAST = 6
"""Rotations at which the model must be evaluated."""
DISORDER = 1e-4
"""Part of the squared error that is left where only the order of rows depends on the orientation."""
SORTED = 1e-3
"""Part of the size of rows without order that may be left: as angles from an arccos, some amplify rounding as much."""
TRIPS = 3
"""Evaluations for the floor."""


class TracedModel:
    """A network whose activations are measured at a coset of the cube's rotations.

    Args:
        rotated: the model, its input and its schema.
        watched: hooks on its modules.
        precision: that it works in.
        seed: of the rotations, and of what the model draws: the same at all of them.
    """

    def __init__(self, rotated: RotatedModel, watched: WatchedCalls, precision: torch.dtype, seed: int = 0) -> None:
        self.rotated, self.watched, self.precision, self.seed = rotated, watched, precision, seed
        usual = RotationPlan("octahedral", 1, seed=seed)
        self.plan = fitting_plan(usual, rotated.schema, rotated.inputs, rotated.identity)
        self.rotations = self.plan.rotations().flatten(0, 1)
        self.refused: list[str] = []
        """Why it could not be evaluated at some rotations."""
        self.has_grids = bool(exact_grids(rotated.schema))
        found = Discovery()
        self.identity = self.run(found, self.rotated.rotated(None))
        found.close()
        self.calls, self.sites = found.calls, found.sites
        self.floors: dict[str, float] = {}
        self.values: Outputs = {}

    def run(self, visitor: Visitor, copies: dict[str, Tensor]) -> Outputs:
        """Raw outputs ``(*S)`` at copies of the inputs ``(1, …)``, while a visitor looks; random draws are the same."""
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)  # noqa: NPY002 - models draw from it
        with self.watched.visited_by(visitor):
            return {name: value[0] for name, value in self.rotated.at(copies, 1).items()}

    def rotated_back(self, visitor: Visitor, rotation: Tensor) -> Outputs:
        """Outputs ``(*S)`` at a rotation ``(3, 3)``, rotated back."""
        found = self.run(visitor, self.rotated.rotated(rotation[None]))
        outputs = {}
        for name, value in found.items():
            rep = self.rotated.schema.outputs[name]
            outputs[name] = rep.rotate_back(value[None], rotation[None], self.rotated.centers.about(value, rep))[0]
        return outputs

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measure(self, *, progress: bool = False) -> None:
        """Find every activation's representation, its error, its size and its floor.

        Args:
            progress: show how far it is.

        Raises:
            EquivProbeError: the model could be evaluated at fewer than six rotations, or the rotations that there are.
        """
        self._measure_floors()
        floating = [site for site in self.sites if site.is_floating and not site.is_empty]
        candidates = {id(site): self._candidates(site) for site in floating}
        moments, discrete = Moments(candidates, self.sites), Discrete(self.sites)
        with progress_bar(len(self.rotations), "trace", "rotations", shown=progress) as advance:
            samples = self._evaluate(moments, discrete, advance)
        shown = Representing(samples, self.rotations, self.precision, grids=self.has_grids)
        again: dict[int, list[Carried]] = {}
        self._note_sizes(moments, floating)
        for site in floating:
            if not site.lost and moments.counts.get(id(site), 0) > 1:
                again[id(site)] = shown.settle(site, moments)
            elif not site.lost:
                site.lost = "it was met at no other rotation"
        self._settle_again(floating, {key: found for key, found in again.items() if found}, shown)
        for site in floating:
            if self.is_broken(site) and unexplained(site.error / site.size):
                shown.fit(site)

    def is_broken(self, site: Site) -> bool:
        """Whether rounding does not explain an activation's error."""
        limit = ROUND_OFF_FACTOR * rounding(site, self.precision) if site.is_floating else math.inf
        return site.changes > 0 or site.error > max(limit, SORTED * site.size if site.carried.unordered else 0.0)

    def _measure_floors(self) -> None:
        own = Samples(self.sites, len(self.rotations))
        here = self.run(own, self.rotated.rotated(None))
        squares: dict[int, list[float]] = {}
        outputs: dict[str, list[float]] = {}
        generator = torch.Generator().manual_seed(self.seed + 1)
        for _ in range(TRIPS):
            there = Samples(self.sites, len(self.rotations))
            # Rotated there and back some inputs are the same to the last bit; these differ in all last digits.
            copies = {name: self._rounded(value, generator) for name, value in self.rotated.rotated(None).items()}
            try:
                found = self.run(there, copies)
            except (Exception, SystemExit):  # it is said of the rotations
                continue
            for key in own.taken.keys() & there.taken.keys():
                squares.setdefault(key, []).append(float((there.taken[key] - own.taken[key]).square().mean()))
            for name, value in found.items():
                outputs.setdefault(name, []).append(float((value - here[name]).double().square().mean()))
        for site in self.sites:
            site.floor = math.sqrt(max(squares.get(id(site), [0.0])))
        self.floors = {name: math.sqrt(max(outputs.get(name, [0.0]))) for name in here}

    def _rounded(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """An input with other last digits, of the model's precision."""
        if not value.is_floating_point():
            return value
        return perturbed(value.to(self.precision), generator).to(value.dtype)

    def _note_sizes(self, moments: Moments, sites: Iterable[Site]) -> None:
        for site in sites:
            site.size = moments.size(site)
        for call in self.calls:
            for out in call.outputs.values():
                same = [one.size for one in call.inputs.values() if one.shape == out.shape and one.size > out.operands]
                out.operands = max(same, default=out.operands)

    def rounding_of_output(self, name: str, size: float) -> float:
        """What rounding does to an output of the model, likewise."""
        eps = torch.finfo(self.precision).eps
        shape = self.values[name].shape[1:]
        same = [self.rotated.inputs[one] for one in self.rotated.rotated(None)]
        operands = [float(value.double().square().mean().sqrt()) for value in same if value.shape == shape]
        return rounding_of(self.floors[name], eps, size, max(operands, default=0.0))

    def _candidates(self, site: Site) -> list[Carried]:
        center = None
        if site.shape[-1:] == (3,) and len(site.shape) >= 2:
            try:
                center = self.rotated.centers.about(torch.empty(site.shape, dtype=torch.float64), point)
            except EquivProbeError:
                center = None
        claimed = [site.claimed] if site.claimed is not None else []
        return [*claimed, *simple_candidates(site.shape, center, grids=self.has_grids)]

    def _evaluate(
        self, moments: Moments, discrete: Discrete, advance: Callable[[int], None]
    ) -> list[dict[int, Tensor]]:
        """All rotations, and samples of the activations at each; those that fail are left out."""
        kept, values, taken = [], [], []
        for rotation in self.rotations:
            samples = Samples(self.sites, len(self.rotations))
            discrete.met = set()
            advance(1)
            try:
                values.append(self.rotated_back(Together(moments.at(rotation), discrete, samples), rotation))
            except (Exception, SystemExit) as error:  # models raise anything
                self.refused.append(in_one_line(error))
                continue
            kept.append(rotation)
            taken.append(samples.taken)
            for site in samples.missed():
                site.lost = site.lost or "it was not met at all rotations"
        if len(kept) < min(LEAST, len(self.rotations)):
            raise EquivProbeError(
                f"a model that fails at rotated inputs ({self.refused[0]})",
                f"one that can be evaluated at {min(LEAST, len(self.rotations))} of {len(self.rotations)} rotations",
            )
        self.rotations = torch.stack(kept)
        self.values = {name: torch.stack([one[name] for one in values]) for name in values[0]}
        return taken

    # -- representations -----------------------------------------------------------------------------------------------

    def _settle_again(self, sites: Iterable[Site], candidates: dict[int, list[Carried]], shown: Representing) -> None:
        """Take means under new representations, and see whether only the order of rows depends on the orientation."""
        if not candidates:
            return
        moments = Moments(candidates, self.sites)
        for rotation in self.rotations:
            with contextlib.suppress(Exception):  # of a model that fails by chance: the others are enough
                self.run(moments.at(rotation), self.rotated.rotated(rotation[None]))
        for site in sites:
            if id(site) not in candidates or not (left := moments.excess(site)):
                continue
            best = min(range(len(left)), key=lambda place: left[place])
            disordered = candidates[id(site)][best].is_scalar or self._may_be_disordered(site, shown)
            if self.is_broken(site) and left[best] < DISORDER * left[0] and disordered:
                site.carried, site.mean = candidates[id(site)][best], None
                site.error, site.how = math.sqrt(max(0.0, left[best])), "inferred"
            else:
                site.mean, site.error = moments.means[id(site)][0], math.sqrt(max(0.0, left[0]))

    def _may_be_disordered(self, site: Site, shown: Representing) -> bool:
        """Whether rows of equal norm may be in another order: norms in place change, or a list of indices does."""
        if any(one.changes or one.reordered for one in self.sites):
            return True
        samples = shown.stacked(site)
        norms = samples.norm(dim=-1) if samples is not None else torch.zeros(2, 1)
        return float(norms.var(0).mean()) > DISORDER * float(norms.square().mean())


def children(calls: Iterable[CallRecord]) -> dict[int | None, list[int]]:
    """The calls inside of each, by their places in the order; None for those inside of none."""
    found: dict[int | None, list[int]] = {}
    for place, call in enumerate(calls):
        found.setdefault(call.parent, []).append(place)
    return found
