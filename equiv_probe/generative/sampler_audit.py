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

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.drawn_rotations import WAYS
from equiv_probe.generative.initial_noise import InitialNoise
from equiv_probe.generative.law_runs import laws_of
from equiv_probe.generative.options import Options, by_name
from equiv_probe.generative.paths import run_paths
from equiv_probe.generative.runs import SamplerRuns
from equiv_probe.generative.sampler_report import BLIND, SamplerAudit
from equiv_probe.generative.summary import drawn, end_points, in_law, notes_of, places
from equiv_probe.live.isolation import isolated
from equiv_probe.live.reachable import modules_of
from equiv_probe.representations.grids import Grid
from equiv_probe.representations.representation import Point, Representation, point
from equiv_probe.representations.spelling import representation
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.generative.noise import Rotates
    from equiv_probe.generative.options import Frames
    from equiv_probe.generative.paths import Paths


@renamed(turns="rotates")
def audit_sampler(
    sampler: Callable[..., Any],
    noise_shape: tuple[int, ...] | Tensor | Callable[[], Tensor],
    *,
    noise: Representation | str = point,
    layout: str | None = None,
    outputs: Representation | str | Mapping[str, Representation | str] | None = None,
    batch: Tensor | None = None,
    mask: Tensor | None = None,
    plan: PlanLike | None = None,
    path: bool = False,
    center: str | Tensor = "origin",
    zero_mean: bool = False,
    per_sample: bool = True,
    rotates: Rotates | None = None,
    frames: Frames = "along",
    law: bool | int | None = None,
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

    The same holds for rotations that a sampler draws itself, as AlphaFold 3 and Boltz do at every step: they are seen
    as draws that become orthogonal 3×3 matrices, however they are made, and go with g as ``g R g⁻¹`` (the state is
    rotated by R and never back), ``g R`` (orientations) or ``R g⁻¹`` (undone), whichever the end points rotate with;
    the notes say which, and the line to declare it. Where none fits, or the rotations are not uniform, samples are
    compared in distribution: ``law``.

    Args:
        sampler: ``noise -> end points``, or ``(noise, randn) -> end points`` with ``randn(shape)`` for later noise,
            ``randn(shape, rotates=False)`` for what has no direction, and ``randn.orientations(B, N)`` for frames.
        noise_shape: of the initial noise, ``(B, N, 3)``, or ``(N, 3)``, or with ``batch`` ``(N_total, 3)``: it is drawn
            from a standard normal distribution. Or the noise itself, or what draws it.
        noise: how the noise rotates: points, or :func:`equiv_probe.grid` for voxels ``(B, C, D, H, W)``, rotated by
            rotations of the cube (of the box, where that has unequal sides), which move voxels onto voxels.
        layout: of noise, draws and end points that are not ``(..., N, 3)``: ``"B (N 3)"``, one flat axis, with x, y, z
            of one atom after those of the other; ``"B (3 N)"``, all x first; ``"B 3 N"``, atoms on the last axis.
        outputs: how the end points rotate: a representation, or one by name or in order of an output of several
            tensors, of which those not named are not measured. A single tensor rotates as the noise by default.
        batch: the sample of each atom, ``(N_total,)``.
        mask: true where a dense batch holds an atom, ``(B, N)``.
        plan: the rotations, drawn for each sample on its own; None is four Haar rotations, for grids four
            rotations of the cube.
        path: the sampler returns (or yields) all points of the path, ``(T, B, N, 3)``; the last is the end point.
        center: of rotation: ``"origin"``, ``"centroid"`` (of the initial noise), or a tensor.
        zero_mean: take the centre of mass out of the noise that is drawn.
        per_sample: False rotates all samples alike, for samplers that draw noise for them one by one.
        rotates: says of a draw (call, shape, where) whether it is one of directions; None goes by the shape.
        frames: ``"along"`` or ``"fixed"``, see above; or, of rotations that the sampler draws itself, the way they go:
            ``"conjugate"`` ``g R g⁻¹``, ``"left"`` ``g R``, ``"right"`` ``R g⁻¹``.
        law: test in distribution as well: samples of independent noise against those of independent rotated noise, by
            their energy distance, see :mod:`equiv_probe.generative.law`. True takes 256 samples of each kind (and 32
            runs of each at most), a number as many; None only where paths do not rotate and rotations are drawn.
        foreign: noise from NumPy's or Python's global random state is refused; ``"same"`` lets it be the same in every
            frame, which is right for times and orders.
        unit: of points and vectors, or by output.
        grad: run with gradients enabled, for samplers with guidance.
        dtype: of the noise that is drawn; None is torch's default.
        device: None is that of the modules that the sampler names, if there are any.
        seed: of all noise.
        progress: show a bar in a terminal, lines in a log, once it takes longer than two seconds.

    Returns:
        Deviations of the end points with floors and a verdict; ``print`` shows them.

    Raises:
        EquivProbeError: noise that cannot be rotated, or that nobody sees, or end points that are not finite.
    """
    began = time.perf_counter()
    given = rotation_plan(plan)
    options = Options(by_name(outputs), path, per_sample, rotates, frames, law, foreign, unit, grad, seed)
    modules = modules_of(sampler)
    if device is None and not isinstance(noise_shape, torch.Tensor):
        device = next((p.device for module in modules for p in module.parameters()), None)
    rep = _required(representation(noise))
    start = InitialNoise(noise_shape, batch, mask, center, zero_mean, dtype, device, rep, layout)
    with isolated(*modules):
        runs = SamplerRuns(sampler, start, options)
        try:
            paths = run_paths(runs, given or _usual_plan(runs), progress=progress)
            measured = [end_points(runs, paths, name) for name in paths.found]
            laws = laws_of(runs, paths, measured)
        finally:
            runs.put_back()
    return SamplerAudit(
        sampler=getattr(sampler, "__qualname__", type(sampler).__name__),
        protocol=_protocol(runs, paths, began),
        measured=[in_law(one, laws.get(one.name), runs.way, paths) for one in measured],
        draws=drawn(runs),
        failures=[{"name": f"sample {u}", "error": "end points that are not finite"} for u in places(~paths.finite)],
        notes=notes_of(runs, paths),
        blind_spots=list(BLIND[1:] if laws else BLIND),
    )


def _required(noise: Representation) -> Representation:
    """The noise's representation; raises EquivProbeError for what noise does not survive."""
    if isinstance(noise, Point) or (isinstance(noise, Grid) and noise.is_exact):
        return noise
    raise EquivProbeError(
        f"noise={noise}",
        "ep.point, or ep.grid() without interpolation, which noise does not survive: what is interpolated is "
        "smoother, and no longer as likely",
        "noise=ep.grid()",
    )


def _usual_plan(runs: SamplerRuns) -> RotationPlan:
    """Four rotations that suit the noise."""
    if not isinstance(runs.rep, Grid):
        return RotationPlan("haar", replicates=4)
    is_cube = len(set(runs.noise.shape[-3:])) == 1 and runs.rep.has_equal_spacing
    return RotationPlan("cube", subset=4) if is_cube else RotationPlan("box")


def _protocol(runs: SamplerRuns, paths: Paths, began: float) -> dict[str, Any]:
    noise = runs.noise
    return {
        "rotations": f"{paths.plan}, {'shared by all samples' if runs.shared else 'of its own for each sample'}",
        "noise": f"{tuple(noise.shape)}, seed {runs.options.seed}",
        "precision": str(noise.dtype).removeprefix("torch."),
        "device": str(noise.device),
        "runs": len(runs.noises),
        "seconds": round(time.perf_counter() - began, 3),
        "equiv-probe": metadata.version("equiv-probe"),
        "torch": torch.__version__,
        **({"drawn rotations": WAYS[runs.way]} if paths.count else {}),
    }
