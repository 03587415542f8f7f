"""From the runs of a sampler to what is reported of them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace

from equiv_probe.estimation.deviation_by_angle import by_angle
from equiv_probe.estimation.verdict import Verdict, verdict
from equiv_probe.generative.deviation import interval, root, root_mean
from equiv_probe.generative.drawn_rotations import WAYS
from equiv_probe.generative.end_points import EndPoints
from equiv_probe.generative.noise import NORMAL

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.law import Law
    from equiv_probe.generative.paths import Paths
    from equiv_probe.generative.runs import SamplerRuns

_OWN_FRAME = (
    "{!r} does not rotate with the noise at all: the same numbers in every orientation. Samples are put in a frame of "
    "the sampler's own at the end (principal axes, an alignment to a reference), or do not follow the noise: audit "
    "what they are before that"
)


def end_points(runs: SamplerRuns, paths: Paths, name: str) -> EndPoints:
    """Everything about one output, of the samples that are finite."""
    one, good = paths.found[name], paths.finite
    others = (paths.repeats[name], paths.floors[name], paths.other[name])
    repeat, back, scale = (one.from_start(values)[:, good] for values in others)
    each, deviation = one.each[:, good], one.by_replicate[:, good].mean(0)
    along, size = one.along[:, good], root_mean(one.size[good])
    # Rounded once, numbers of that size are off by this much.
    resolution = torch.finfo(runs.noise.dtype).eps * size / math.sqrt(12)
    rms, scatter = root_mean(deviation), root_mean(scale[-1])
    floor, again = max(root_mean(back[-1]), resolution), root_mean(repeat[-1])
    # What is left of the floor without the non-determinism that is in it, too.
    rounding = max(root(floor**2 - again**2), resolution)
    unit = runs.options.unit_of(name, runs.schema.outputs[name])
    says = verdict(rms, rounding, again, unit, rms / scatter if scatter else math.nan)
    if size == scatter == 0 and runs.schema.outputs[name].event_shape:
        says = Verdict("unknown", "not measured: zero, whatever the noise")
    kept = places(good)
    samples, deviations = deviation.sqrt(), each.flatten().sqrt()
    columns = (samples, each.max(0).values.sqrt(), back[-1].sqrt(), repeat[-1].sqrt())
    return EndPoints(
        name=name,
        unit=unit,
        samples=len(kept),
        rms=rms,
        rms_interval=interval(one.by_replicate[:, good], shared=runs.shared),
        spread=root(float(one.spread()[good].mean())),
        scale=scatter,
        floor=floor,
        nondeterminism=again,
        verdict=says.kind,
        sentence=says.sentence,
        over_samples={**_quantiles(samples), "worst": float(kept[int(samples.argmax())])},
        over_rotations=_quantiles(deviations),
        by_sample=[
            {"sample": u, **dict(zip(("rms", "max", "floor", "nondeterminism"), row, strict=True))}
            for u, row in zip(kept, torch.stack(columns, 1).tolist(), strict=True)
        ],
        along_path=[
            {"point": t, "rms": root_mean(a), "floor": root_mean(b), "other noise": root_mean(c)}
            for t, (a, b, c) in enumerate(zip(along, back, scale, strict=True) if runs.options.path else ())
        ],
        by_angle=by_angle(each, paths.rotations[:, good], one.weights),
    )


def _quantiles(values: Tensor) -> dict[str, float]:
    """Median, 95 % quantile and maximum."""
    q50, q95 = torch.quantile(values, torch.tensor([0.5, 0.95], dtype=values.dtype)).tolist()
    return {"q50": q50, "q95": q95, "max": float(values.max())}


def places(chosen: Tensor) -> list[int]:
    """Where a mask is true."""
    found: list[int] = chosen.nonzero()[:, 0].tolist()
    return found


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
    elif not broken and law.differs and paths.not_as_likely:
        kind = "broken"
        sentence = f"broken: {law}, though paths are {sentence}, by rotations that are not as likely in another frame"
    else:
        kind, sentence = "broken" if broken else kind, f"{sentence}; {law}"
    return replace(one, verdict=kind, sentence=sentence, law=asdict(law))


def notes_of(runs: SamplerRuns, paths: Paths) -> list[str]:
    """What a reader must know: draws that depend on the frame, and what became of random frames."""
    notes, plain = [], runs.noises[0]
    if any(one.sequence != plain.sequence for one in runs.noises):
        notes.append(
            "the sampler does not draw the same shapes in the same order in every run (adaptive steps, rejection): "
            "from there on it meets other noise, which counts as deviation"
        )
    atoms = plain.frame.shape[:-1]
    if runs.seeds_itself and plain.draws:
        notes.append(
            "the sampler seeds torch itself: its own draws, which are then the same in every call, were taken as "
            "random. Samples are not equivariant in distribution while they are the same; seed outside of the sampler"
        )
    whole = runs.rep.is_whole
    what, fix = ("voxels", "draw all voxels") if whole else ("atoms", "rotates=lambda draw: True with per_sample=False")

    def looks_directed(shape: tuple[int, ...]) -> bool:
        return (len(shape) >= 4 and max(shape[-3:]) > 1) if whole else shape[-1:] == (3,)

    notes += [_OWN_FRAME.format(name) for name in paths.in_own_frame]
    notes += [
        f"{one}: it did not rotate, since it is laid out neither like the samples nor like their {what}; if it has a "
        f"direction, {fix}"
        for one, rotated in plain.draws
        if one.call in NORMAL and looks_directed(one.shape) and not rotated and not runs.options.rotates
    ]
    wide = [one.shape for one, _ in plain.draws if one.call in NORMAL and one.shape[:-1] == atoms and one.shape[-1] > 3]
    if wide and not runs.rep.is_whole and not any(rotated for _, rotated in plain.draws):
        notes.append(
            f"normal draws of shape {wide[0]} did not rotate: if there are directions among each atom's numbers, draw "
            "these apart"
        )
    if plain.frames:
        how = (
            "they rotated along with the noise, so this is about the distribution of samples; "
            'frames="fixed" shows how much a single path owes to the frames'
            if runs.options.frames == "along"
            else 'they were the same in every run: this is what a single path owes to them; frames="along" rotates '
            "them with the noise, as the distribution of samples sees them"
        )
        notes.append(f"a twirled network drew random frames {plain.frames} times: {how}")
    return notes + _on_drawn_rotations(runs, paths)


def _on_drawn_rotations(runs: SamplerRuns, paths: Paths) -> list[str]:
    """Which draws became rotations, what became of them, and the line that declares it."""
    frames, made = runs.options.frames, runs.noises[0].rotations
    if not made:
        return []
    lines = list(dict.fromkeys(one.where for one in made if one.where))
    count = sum(one.matrices[..., 0, 0].numel() for one in made)
    at = f" at {', '.join(lines[:3])}" if lines else ""
    notes = [f"random draws became {count} rotations in a run{at}; they are {WAYS[runs.way]}"]
    axis_of = runs.noises[0].frame.axis_of_matrices
    if shapes := [shape for one in made if axis_of(shape := tuple(one.matrices.shape)) is None]:
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
