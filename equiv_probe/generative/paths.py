"""All runs of an audit of a sampler's paths: unrotated, again, there and back, with other noise, and rotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.generative.as_likely import NOT_AS_LIKELY, chance_of_law
from equiv_probe.generative.deviation import Deviations, root_mean
from equiv_probe.generative.drawn_rotations import WAYS
from equiv_probe.progress import progress as progress_bar
from equiv_probe.rotations.drawing import draw

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.runs import SamplerRuns
    from equiv_probe.rotations.plan import RotationPlan

UNSEEN = 0.5
"""Two runs with the same noise that differ by this part of what other noise makes do not follow the noise."""
OWN_FRAME = 0.1
"""Part of its deviation by which an output that does not rotate at all may change."""
_ENOUGH, _MORE_RUNS, _MOST = 400, 8, 500
"""Drawn rotations that tell whether they are uniform; runs to gather them by; more than are looked at."""


@dataclass
class Paths:
    """The runs of one audit.

    Attributes:
        plan: of the rotations.
        rotations: of the noise, ``(K, U, 3, 3)``.
        found: deviations of the rotated runs, by output.
        repeats: end points of the same run again.
        floors: of noise that was rotated there and back.
        other: of other noise.
        count: how many rotations one run draws.
        chance: p-value of their being as likely when they are taken along; None if they were not looked at.
        looked_at: how many rotations that is.
        in_own_frame: outputs that are the same in every frame, though they should rotate.
    """

    plan: RotationPlan
    rotations: Tensor
    found: dict[str, Deviations]
    repeats: dict[str, Tensor]
    floors: dict[str, Tensor]
    other: dict[str, Tensor]
    count: int = 0
    chance: float | None = None
    looked_at: int = 0
    in_own_frame: tuple[str, ...] = ()

    @property
    def not_as_likely(self) -> bool:
        """Whether drawn rotations have another law when they are taken along, which then proves nothing."""
        return self.chance is not None and self.chance < NOT_AS_LIKELY

    @property
    def finite(self) -> Tensor:
        """Which samples are finite in every run, ``(U,)``.

        Raises:
            EquivProbeError: none is.
        """
        good = torch.stack([(one.each.sum(0) + one.size).isfinite() for one in self.found.values()]).all(0)
        if not bool(good.any()):
            found = "end points that are not finite, in every sample"
            raise EquivProbeError(found, "finite numbers", "check the sampler, or its precision")
        return good


def run_paths(runs: SamplerRuns, plan: RotationPlan, *, progress: bool) -> Paths:
    """Run a sampler in all frames, and set its ``way``: how the rotations that it draws go with the frame.

    Raises:
        EquivProbeError: the sampler does not follow its noise, or what was declared does not fit.
    """
    start, structures, seed = runs.start, runs.structures, runs.options.seed
    rotations = draw(plan, plan.generator(), None if runs.shared else structures.count).flatten(0, 1)
    rotations = rotations[:, None].expand(-1, structures.count, 3, 3) if runs.shared else rotations
    g0 = rotations[0 if plan.is_random else -1]  # of the cube the first rotates nothing
    about = runs.run(seed)
    reps = runs.schema.outputs
    found = {name: Deviations(value, reps[name], structures, plan, name) for name, value in about.items()}
    repeats, floors = runs.run(seed), runs.run(seed, g0, back=True)
    other = runs.run(seed + 1, noise=start.other(seed + 1, runs.noise, lambda noise: runs.rotated(noise, g0)))
    runs.seeds_itself |= bool(runs.noises[0].started & runs.noises[-1].started)  # one that was kept has gone on
    paths = Paths(plan, rotations, found, repeats, floors, other)
    _require_followed(paths)
    _require_drawn(runs)
    if runs.noises[0].rotations and runs.options.frames != "fixed":
        _take_along(runs, paths, g0)
        if runs.way != "same":
            paths.floors = runs.run(seed, g0, back=True)  # these round as well
    with progress_bar(len(rotations), "rotating the noise", shown=progress) as advance:
        for k, g in enumerate(rotations):
            values = runs.run(seed, g)
            for name, value in values.items():
                found[name].add(value)
            if k == len(rotations) - 1:
                paths.in_own_frame = _in_own_frame(runs, paths, values, g)
            advance(1)
    return paths


def _in_own_frame(runs: SamplerRuns, paths: Paths, values: dict[str, Tensor], rotation: Tensor) -> tuple[str, ...]:
    """Outputs of which the sampler gave nearly the same numbers in a rotated run as in the unrotated one.

    Nearly is little beside their deviation, and beside what other noise makes: places that hardly leave the middle of
    a box are the same in all runs.
    """
    given = runs.as_given(values, rotation)

    def apart(name: str, other: Tensor) -> float:
        return root_mean(paths.found[name].from_start(other)[-1].nan_to_num())

    return tuple(
        name
        for name, rep in runs.schema.outputs.items()
        if rep.event_shape
        and apart(name, given[name]) < OWN_FRAME * apart(name, values[name])
        and apart(name, given[name]) <= OWN_FRAME * apart(name, paths.other[name])
    )


def _take_along(runs: SamplerRuns, paths: Paths, rotation: Tensor) -> None:
    """Choose how drawn rotations go with the frame, as declared or the way under which end points rotate best."""
    seed, frames = runs.options.seed, runs.options.frames
    paths.count = sum(one.matrices[..., 0, 0].numel() for one in runs.noises[0].rotations)
    tried: dict[Way, float] = {}
    for way in WAYS if frames == "along" else ():
        runs.way = way
        values = runs.run(seed, rotation)
        if runs.noises[-1].unaligned:
            break
        tried[way] = max(_beside_floor(paths, name, value) for name, value in values.items())
        if tried[way] <= ROUND_OFF_FACTOR:
            break
    best: Way = min(tried, key=lambda way: tried[way], default="same")
    if tried and tried[best] > 0.9 * tried["same"]:
        best = "same"
    if frames in WAYS:
        best = cast("Way", frames)
    runs.way = "same"
    if best != "same":
        drawn = _matrices(runs)[:_MOST]
        paths.chance, paths.looked_at = chance_of_law(drawn, best), len(drawn)
        runs.way = "same" if paths.not_as_likely and frames == "along" else best


def _beside_floor(paths: Paths, name: str, value: Tensor) -> float:
    """Deviation of one rotation in units of the floor, and at least of the size of the numbers' last digits."""
    one = paths.found[name]
    values = [one.from_start(v)[-1] for v in (value, paths.floors[name])]
    good = torch.stack([v.isfinite() for v in values]).all(0) & one.size.isfinite()
    deviation, floor = (root_mean(v[good]) for v in values)
    return deviation / max(floor, 1e-16 * root_mean(one.size[good]), 1e-300)


def _matrices(runs: SamplerRuns) -> Tensor:
    """Drawn rotations of several independent runs, ``(K, 3, 3)``, each once."""
    noises = [runs.noises[0], runs.noises[3]]
    gathered: list[Tensor] = []
    for k in range(_MORE_RUNS + 1):
        gathered += [one.matrices.reshape(-1, 3, 3) for noise in noises for one in noise.rotations]
        found = torch.cat(gathered)
        first = {tuple(row): place for place, row in reversed(list(enumerate(found.flatten(1).tolist())))}
        found = found[sorted(first.values())]
        if len(found) >= _ENOUGH or k == _MORE_RUNS:
            break
        seed = runs.options.seed + 2 + k
        runs.run(seed, noise=runs.start.draw(seed))
        noises = [runs.noises[-1]]
    return found


def _require_drawn(runs: SamplerRuns) -> None:
    """Raise EquivProbeError if rotations were declared to be drawn, and none are, or of no sample in particular."""
    frames = runs.options.frames
    if frames in {"along", "fixed"}:
        return
    noise = runs.noises[0]
    if not noise.rotations:
        raise EquivProbeError(
            f"frames={frames!r} for a sampler whose draws were not seen to become 3×3 rotation matrices",
            "a sampler that draws rotations by torch",
            'def sampler(noise, randn), with randn.rotations(B) or randn.orientations(B, N); or frames="along"',
        )
    for one in noise.rotations:
        shape = tuple(one.matrices.shape)
        if noise.frame.axis_of_matrices(shape) is None:
            raise EquivProbeError(
                f"rotations of shape {shape} at {one.where}, which do not say to which sample they belong",
                "one rotation of its own for each sample, or one rotation of the noise for all of them",
                "audit_sampler(..., per_sample=False)",
            )


def _require_followed(paths: Paths) -> None:
    """Raise EquivProbeError if the same noise leads elsewhere."""
    for name, one in paths.found.items():
        again, scale = (one.from_start(values[name])[-1] for values in (paths.repeats, paths.other))
        both = again.isfinite() & scale.isfinite()
        a, b = root_mean(again[both]), root_mean(scale[both])
        if a > UNSEEN * b:
            raise EquivProbeError(
                f"two runs with the same noise whose {name} lie {a:.3g} apart, and {b:.3g} with other noise",
                "a sampler that follows its noise",
                "it draws where torch does not see it (a NumPy Generator of its own, compiled code, a seed from the "
                "clock): take the source as an argument, def sampler(noise, randn), and draw by randn(shape); or it "
                "blows up what is not deterministic: torch.use_deterministic_algorithms(True)",
            )
