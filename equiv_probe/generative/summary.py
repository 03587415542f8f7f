"""From the runs of a sampler to what is reported of them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace

from equiv_probe.estimation.deviation_by_angle import by_angle
from equiv_probe.estimation.verdict import verdict
from equiv_probe.generative.deviation import interval, root, root_mean
from equiv_probe.generative.drawn_rotations import WAYS
from equiv_probe.generative.end_points import EndPoints
from equiv_probe.generative.noise import NORMAL
from equiv_probe.representations.representation import CartesianTensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.generative.deviation import Deviations
    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.law import Law
    from equiv_probe.generative.paths import Paths
    from equiv_probe.generative.runs import SamplerRuns
    from equiv_probe.representations.representation import Representation


def measured_of(
    runs: SamplerRuns, paths: Paths, good: Tensor, rotations: Tensor, unit: str | Mapping[str, str]
) -> list[EndPoints]:
    """What is reported of each output."""
    return [
        end_points(
            one,
            name,
            unit_of(unit, name, runs.schema.outputs[name]),
            (paths.repeats[name], paths.floors[name], paths.other[name]),
            good,
            rotations=rotations,
            shared=runs.shared,
            precision=runs.noise.dtype,
            path=runs.path,
        )
        for name, one in paths.found.items()
    ]


def end_points(
    one: Deviations,
    name: str,
    unit: str,
    others: tuple[Tensor, Tensor, Tensor],
    good: Tensor,
    *,
    rotations: Tensor,
    shared: bool,
    precision: torch.dtype,
    path: bool,
) -> EndPoints:
    """Everything about one output, of the samples that are good; the rotations are ``(K, U, 3, 3)``."""
    repeat, back, scale = (one.from_start(values)[:, good] for values in others)
    each, deviation = one.each[:, good], one.by_replicate[:, good].mean(0)
    along, size = one.along[:, good], root_mean(one.size[good])
    # Rounded once, numbers of that size are off by this much.
    resolution = torch.finfo(precision).eps * size / math.sqrt(12)
    rms, scatter = root_mean(deviation), root_mean(scale[-1])
    floor, again = max(root_mean(back[-1]), resolution), root_mean(repeat[-1])
    # What is left of the floor without the non-determinism that is in it, too.
    rounding = max(root(floor**2 - again**2), resolution)
    says = verdict(rms, rounding, again, unit, rms / scatter if scatter else math.nan)
    kept = left_out(~good)
    samples, deviations = deviation.sqrt(), each.flatten().sqrt()
    return EndPoints(
        name=name,
        unit=unit,
        samples=len(kept),
        rms=rms,
        rms_interval=interval(one.by_replicate[:, good], shared=shared),
        spread=root(float(one.spread()[good].mean())),
        scale=scatter,
        floor=floor,
        nondeterminism=again,
        verdict=says.kind,
        sentence=says.sentence,
        over_samples={**_quantiles(samples), "worst": float(kept[int(samples.argmax())])},
        over_rotations=_quantiles(deviations),
        by_sample=[
            {"sample": u, "rms": float(a), "max": float(b), "floor": float(c), "nondeterminism": float(d)}
            for u, a, b, c, d in zip(
                kept, samples, each.max(0).values.sqrt(), back[-1].sqrt(), repeat[-1].sqrt(), strict=True
            )
        ],
        along_path=[
            {"point": t, "rms": root_mean(a), "floor": root_mean(b), "other noise": root_mean(c)}
            for t, (a, b, c) in enumerate(zip(along, back, scale, strict=True))
        ]
        if path
        else [],
        by_angle=by_angle(each, rotations[:, good], one.weights),
    )


def _quantiles(values: Tensor) -> dict[str, float]:
    """Median, 95 % quantile and maximum."""
    q50, q95 = torch.quantile(values, torch.tensor([0.5, 0.95], dtype=values.dtype)).tolist()
    return {"q50": q50, "q95": q95, "max": float(values.max())}


def left_out(good: Tensor) -> list[int]:
    """Which samples are not good."""
    return [int(u) for u in (~good).nonzero()]


def unit_of(unit: str | Mapping[str, str], name: str, rep: Representation) -> str:
    """Lengths have the unit that was given, anything else its own."""
    if not isinstance(unit, str):
        return unit.get(name, "")
    return unit if isinstance(rep, CartesianTensor) and rep.rank == 1 else "(own unit)"


def drawn(runs: SamplerRuns) -> list[dict[str, Any]]:
    """What the unrotated run drew."""
    return [
        {"call": one.call, "shape": list(one.shape), "times": times, "turned": rotated, "where": one.where}
        for (one, rotated), times in runs.noises[0].draws.items()
    ]


def in_law(one: EndPoints, law: Law | None, way: Way, paths: Paths) -> EndPoints:
    """The verdict on paths together with what was found in distribution, and with what became of drawn rotations."""
    kind, sentence = one.verdict, one.sentence
    if way != "same":
        sentence = f"{sentence}, the rotations that the sampler draws {WAYS[way].split(',')[0]}"
    if law is None:
        return replace(one, sentence=sentence)
    broken = kind in {"broken", "above round-off"}
    if broken and not law.differs:
        kind, sentence = "path only", f"paths do not rotate, samples may: {law}; paths: {sentence}"
    elif broken:
        kind, sentence = "broken", f"{sentence}; {law}"
    elif law.differs and paths.not_as_likely:
        kind, sentence = (
            "broken",
            f"broken: {law}, though paths are {sentence}, by rotations that are not as likely in another frame",
        )
    else:
        sentence = f"{sentence}; {law}"
    return replace(one, verdict=kind, sentence=sentence, law=asdict(law))


def notes_of(runs: SamplerRuns, frames: str, paths: Paths) -> list[str]:
    """What a reader must know: draws that depend on the frame, and what became of random frames."""
    notes = []
    plain = runs.noises[0]
    if any(one.sequence != plain.sequence for one in runs.noises):
        notes.append(
            "the sampler does not draw the same shapes in the same order in every run (adaptive steps, rejection): "
            "from there on it meets other noise, which counts as deviation"
        )
    joint = [one.shape for one, _ in plain.draws if one.call in NORMAL and one.shape[:-1] == plain.frame.shape[:-1]]
    grids = runs.rep.is_whole
    if (
        plain.draws
        and not grids
        and not any(rotated for _, rotated in plain.draws)
        and any(shape[-1] > 3 for shape in joint)
    ):
        notes.append(
            f"normal draws of shape {next(shape for shape in joint if shape[-1] > 3)} did not rotate: if there are "
            "directions among each atom's numbers, draw these apart"
        )
    if plain.frames:
        how = (
            "they rotated along with the noise, so this is about the distribution of samples; "
            'frames="fixed" shows how much a single path owes to the frames'
            if frames == "along"
            else 'they were the same in every run: this is what a single path owes to them; frames="along" rotates '
            "them with the noise, as the distribution of samples sees them"
        )
        notes.append(f"a twirled network drew random frames {plain.frames} times: {how}")
    return notes + _on_drawn_rotations(runs, frames, paths)


def _on_drawn_rotations(runs: SamplerRuns, frames: str, paths: Paths) -> list[str]:
    """Which draws became rotations, what became of them, and the line that declares it."""
    plain = runs.noises[0]
    made = plain.rotations
    if not made:
        return []
    places = list(dict.fromkeys(one.where for one in made if one.where))
    count = sum(one.matrices[..., 0, 0].numel() for one in made)
    at = f" at {', '.join(places[:3])}" if places else ""
    notes = [f"random draws became {count} rotations in a run{at}; they are {WAYS[runs.way]}"]
    shapes = [shape for one in made if plain.frame.axis_of_matrices(shape := tuple(one.matrices.shape)) is None]
    if shapes:
        notes[0] += (
            f". Of shape {shapes[0]}, they do not say to which sample they belong: audit_sampler(..., "
            "per_sample=False) rotates all samples alike, and the drawn rotations along"
        )
    elif frames == "fixed":
        notes[0] += '; frames="along" takes them along, as the distribution of samples sees them'
    elif runs.way != "same" and frames == "along":
        notes[0] += (
            f', which is as likely (of {paths.looked_at} rotations: p = {paths.chance:.2g}). frames="{runs.way}" '
            'declares it; frames="fixed" shows what a single path owes to them'
        )
    elif runs.way == "same" and not paths.not_as_likely:
        notes[0] += (
            ". Under none of the ways to take them along did end points rotate better: declare rotations of several "
            "kinds one by one, def sampler(noise, randn), by randn.rotations(B) and randn.orientations(B, N)"
        )
    if paths.not_as_likely:
        notes.append(
            f"the rotations that the sampler draws are not as likely once they are taken along (p = {paths.chance:.1g},"
            " as with three Euler angles, or the QR of a Gaussian matrix without its signs mended). So paths prove "
            "nothing, and what was found in distribution decides"
        )
    return notes
