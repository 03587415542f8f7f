"""Is a generative sampler equivariant along its path? All noise rotates, and the end points should rotate with it.

>>> import torch, equiv_probe as ep
>>> def sampler(noise, steps=20):  # overdamped Langevin dynamics in a well that is steeper along z
...     x = noise
...     for _ in range(steps):
...         x = x - 0.1 * x * torch.tensor([1.0, 1.0, 2.0]) + 0.1 * torch.randn_like(x)
...     return x
>>> audit = ep.audit_sampler(sampler, (64, 5, 3), progress=False)
>>> print(f"{audit.rms:.2f} Å: {audit.verdict}")
0.17 Å: broken
"""

from __future__ import annotations

import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.progress import track

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.deviation import Deviations, root_mean
from equiv_probe.generative.initial_noise import InitialNoise
from equiv_probe.generative.runs import END_POINTS, SamplerRuns
from equiv_probe.generative.sampler_report import SamplerAudit
from equiv_probe.generative.summary import drawn, end_points, left_out, notes_of, unit_of
from equiv_probe.live.isolation import isolated
from equiv_probe.live.reachable import modules_of
from equiv_probe.representations.representation import Representation
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.generative.noise import Rotates

UNSEEN = 0.5
"""Two runs with the same noise that differ by this part of what other noise makes do not follow the noise."""


@renamed(turns="rotates")
def audit_sampler(
    sampler: Callable[..., Any],
    noise_shape: tuple[int, ...] | Tensor | Callable[[], Tensor],
    *,
    outputs: Representation | Mapping[str, Representation] | None = None,
    batch: Tensor | None = None,
    mask: Tensor | None = None,
    plan: RotationPlan | None = None,
    path: bool = False,
    center: str | Tensor = "origin",
    zero_mean: bool = False,
    per_sample: bool = True,
    rotates: Rotates | None = None,
    frames: Literal["along", "fixed"] = "along",
    foreign: Literal["refuse", "same"] = "refuse",
    unit: str | Mapping[str, str] = "Å",
    grad: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SamplerAudit:
    """Rotate all noise of a sampler, run it, rotate its end points back, and compare with those of the unrotated noise.

    Every normal draw on the way is the same in every frame, and rotated with it if it is laid out like the initial
    noise (ends in 3, and has the samples or their atoms as an axis); times, features and other draws come out the
    same. The sampler runs K + 4 times: unrotated, the same again, with noise rotated there and back again (round-off),
    with other noise (the scale), and once for every rotation. Random states and modules are afterwards as they were.

    Random frames of ``ep.Twirled(..., mode="random")`` are noise too: drawn as R in the unrotated run, they are
    ``R g⁻¹`` in a rotated one, which is as likely. So a sampler that rotates its network at random at every step is
    found equivariant, as its distribution is; ``frames="fixed"`` draws the same frames in every run, and shows how much
    a single path owes to them.

    Args:
        sampler: ``noise -> end points``, or ``(noise, randn) -> end points`` with ``randn(shape)`` for later noise,
            ``randn(shape, rotates=False)`` for what has no direction, and ``randn.orientations(B, N)`` for frames.
        noise_shape: of the initial noise, ``(B, N, 3)``, or ``(N, 3)``, or with ``batch`` ``(N_total, 3)``: it is drawn
            from a standard normal distribution. Or the noise itself, or what draws it.
        outputs: how the end points rotate: a representation, or one by name or in order of an answer of several
            tensors, of which those not named are not measured. A single tensor is :data:`equiv_probe.point` by default.
        batch: the sample of each atom, ``(N_total,)``.
        mask: true where a dense batch holds an atom, ``(B, N)``.
        plan: the rotations, drawn for each sample on its own; None is four Haar rotations.
        path: the sampler answers with (or yields) all points of the path, ``(T, B, N, 3)``; the last is the end point.
        center: of rotation: ``"origin"``, ``"centroid"`` (of the initial noise), or a tensor.
        zero_mean: take the centre of mass out of the noise that is drawn.
        per_sample: False rotates all samples alike, for samplers that draw noise for them one by one.
        rotates: says of a draw (call, shape, where) whether it is one of directions; None goes by the shape.
        frames: ``"along"`` or ``"fixed"``, see above.
        foreign: noise from NumPy's or Python's global random state is refused; ``"same"`` lets it be the same in every
            frame, which is right for times and orders.
        unit: of points and vectors, or by output.
        grad: run with gradients enabled, for samplers with guidance.
        dtype: of the noise that is drawn; None is torch's default.
        device: None is that of the modules that the sampler names, if there are any.
        seed: of all noise.
        progress: show a progress bar.

    Returns:
        Deviations of the end points with floors and a verdict; ``print`` shows them.

    Raises:
        EquivProbeError: noise that cannot be rotated, or that nobody sees, or end points that are not finite.
    """
    if seed < 0:
        raise EquivProbeError(f"seed={seed}", "a seed of 0 or more")
    plan = plan or RotationPlan("haar", replicates=4)
    began = time.perf_counter()
    modules = modules_of(sampler)
    if device is None and not isinstance(noise_shape, torch.Tensor):
        device = next((p.device for module in modules for p in module.parameters()), None)
    start = InitialNoise(noise_shape, batch, mask, center, zero_mean=zero_mean, dtype=dtype, device=device)
    with isolated(*modules):
        first = start.draw(seed)
        structures = start.structures(first.cpu())
        declared = {END_POINTS: outputs} if isinstance(outputs, Representation) else dict(outputs or {})
        runs = SamplerRuns(
            sampler, first, structures, declared, path, rotates, frames, foreign, shared=not per_sample, grad=grad
        )
        try:
            rotations = draw(plan, plan.generator(), structures.count if per_sample else None).flatten(0, 1)
            if not per_sample:
                rotations = rotations[:, None].expand(-1, structures.count, 3, 3)
            about = runs.run(seed)
            found = {
                name: Deviations(value, runs.schema.outputs[name], structures, plan, name)
                for name, value in about.items()
            }
            repeats = runs.run(seed)
            floors = runs.run(seed, rotations[0], back=True)
            other = runs.run(seed + 1, noise=start.other(seed + 1, first, lambda one: runs.rotated(one, rotations[0])))
            _require_followed(found, repeats, other)
            console = Console(stderr=True)
            shown = progress and console.is_terminal  # otherwise Rich writes empty lines
            for g in track(rotations, "rotating the noise", console=console, transient=True) if shown else rotations:
                for name, value in runs.run(seed, g).items():
                    found[name].add(value)
        finally:
            runs.put_back()
    good = _finite(found)
    units = {name: unit_of(unit, name, rep) for name, rep in runs.schema.outputs.items()}
    measured = [
        end_points(
            one,
            name,
            units[name],
            (repeats[name], floors[name], other[name]),
            good,
            rotations=rotations,
            shared=not per_sample,
            precision=first.dtype,
            path=path,
        )
        for name, one in found.items()
    ]
    return SamplerAudit(
        sampler=getattr(sampler, "__qualname__", type(sampler).__name__),
        protocol={
            "rotations": f"{plan}, {'of its own for each sample' if per_sample else 'shared by all samples'}",
            "noise": f"{tuple(first.shape)}, seed {seed}",
            "precision": str(first.dtype).removeprefix("torch."),
            "device": str(first.device),
            "runs": len(runs.noises),
            "seconds": round(time.perf_counter() - began, 3),
            "equiv-probe": metadata.version("equiv-probe"),
            "torch": torch.__version__,
        },
        measured=measured,
        draws=drawn(runs),
        failures=[{"name": f"sample {u}", "error": "end points that are not finite"} for u in left_out(good)],
        notes=notes_of(runs, frames),
    )


def _require_followed(
    found: Mapping[str, Deviations], repeats: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> None:
    """Raise EquivProbeError if the same noise leads elsewhere."""
    for name, one in found.items():
        again, scale = (one.from_start(values[name])[-1] for values in (repeats, other))
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


def _finite(found: Mapping[str, Deviations]) -> Tensor:
    """Which samples are finite in every run, ``(U,)``."""
    good = torch.stack([(one.each.sum(0) + one.size).isfinite() for one in found.values()]).all(0)
    if not bool(good.any()):
        raise EquivProbeError(
            "end points that are not finite, in every sample", "finite numbers", "check the sampler, or its precision"
        )
    return good
