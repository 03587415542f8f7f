"""What a trained network's broken symmetry amounts to: by diffusion time, in its sampler, and averaged away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import flow
import torch
import train
from scipy.stats import wasserstein_distance

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

BATCH = 32
STEPS = 50  # of Euler's method


def _eachbatch(run: train.Run, rounds: int, loss: Callable[[tuple[Tensor, ...]], Tensor]) -> list[Tensor]:
    """A loss of all held-out structures, batch by batch, at noise and times that are the same for every network."""
    run.net.eval()
    torch.manual_seed(train.EVALUATION_SEED)
    found = []
    with torch.no_grad():
        for _ in range(rounds):
            for index in torch.arange(len(run.held)).split(BATCH):
                found.append(loss(run.held.take(index, run.device)))
    return found


def decomposed(run: train.Run, rounds: int = 2, plan: ep.RotationPlan | None = None) -> ep.Probe:
    """The held-out loss, decomposed, in all and in ten bins of diffusion time.

    Args:
        run: the trained network.
        rounds: of noise and times for every structure.
        plan: None is the probe's own, 48 rotations.

    Returns:
        A probe with the estimates: ``compute(window=False)``, ``over_time("val", "loss")``.
    """
    probe = ep.Probe(
        run.net, flow.schema(run.config.predict), plan, full=1, cost=None, center="origin", over="t", bins=10
    )
    _eachbatch(run, rounds, lambda batch: probe.step(lambda: run.loss(batch), stage="val"))
    return probe


def by_time(run: train.Run, rounds: int) -> list[dict[str, Any]]:
    """The bins of :func:`decomposed`, in rows."""
    return [
        {
            "low": one.low,
            "high": one.high,
            "structures": one.structures,
            "L_total": one.total,
            "L_total_stderr": one.total_stderr,
            "L_equiv": one.equiv,
            "L_equiv_stderr": one.equiv_stderr,
            "share": one.share,
            "share_low": one.share_interval[0],
            "share_high": one.share_interval[1],
        }
        for one in decomposed(run, rounds).over_time("val", "loss").bins
    ]


def variants(run: train.Run) -> dict[str, tuple[nn.Module, Any]]:
    """The network as it is, in a random frame at every call, averaged over 4 and 12 rotations; and frames of the audit.

    Random frames are noise as well, and rotate with it (see :func:`equiv_probe.audit_sampler`); kept as they are, they
    show what a path owes to the frames that it met.
    """
    schema = flow.schema(run.config.predict)

    def twirled(design: str, mode: Any = "fixed") -> nn.Module:
        return ep.Twirled(run.net, schema, ep.RotationPlan(design, replicates=1), mode, center="origin").eval()

    frame = twirled("haar", "random")
    return {
        "as it is": (run.net.eval(), "along"),
        "random frame": (frame, "along"),
        "random frame, the same for rotated noise": (frame, "fixed"),
        "twirled, 4": (twirled("klein"), "along"),
        "twirled, 12": (twirled("tetrahedral"), "along"),
    }


def held_out_loss(run: train.Run, net: nn.Module, rounds: int = 1) -> float:
    """The loss, in the data's own frame, of a network in the place of the run's."""
    losses = _eachbatch(run, rounds, lambda batch: flow.loss(net, *batch, run.config.predict))
    return float(torch.stack(losses).mean())


def sampled(run: train.Run, net: nn.Module, count: int = 16, frames: Any = "along") -> dict[str, float]:
    """Audit of the sampler: noise rotated, end points rotated back.

    Args:
        run: whose structures and units.
        net: the network in the sampler.
        count: samples.
        frames: see :func:`equiv_probe.audit_sampler`.

    Returns:
        ``deviation`` (Å, rms over atoms) with interval and ``floor``; ``scale``, how far apart end points of different
        noise lie; ``seconds`` of one run (on a CPU, of the process); ``distances``, how far (Å, in the Wasserstein
        metric) the distribution of distances between the atoms of a sample is from that of the data.
    """
    x1, z, mask = run.held.take(torch.arange(count), run.device)
    sample = flow.sampler(net, z, mask, run.held.scale, predict=run.config.predict, steps=STEPS)
    audit = ep.audit_sampler(
        sample, tuple(x1.shape), mask=mask, zero_mean=True, frames=frames, seed=run.config.seed, progress=False
    )
    one = audit.measured[0]
    noise = torch.randn(x1.shape, generator=torch.Generator().manual_seed(0)).to(x1)
    # On a CPU the process's own time, which other processes do not stretch.
    clock = time.process_time if run.device == "cpu" else time.perf_counter
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            began = clock()
            end = sample(noise).cpu()
            seconds.append(clock() - began)
    return {
        "deviation": one.rms,
        "low": one.rms_interval[0],
        "high": one.rms_interval[1],
        "floor": one.floor,
        "scale": one.scale,
        "seconds": min(seconds),
        "distances": float(wasserstein_distance(_distances(end, mask.cpu()), _distances(run.held.scale * x1, mask))),
    }


def by_sampler(run: train.Run, samples: int) -> list[dict[str, Any]]:
    """Audits of the sampler with the network as it is and, if that is broken, with what may take its place, in rows."""
    rows: list[dict[str, Any]] = []
    for name, (net, frames) in variants(run).items():
        rows.append({"network": name, "loss": held_out_loss(run, net), **sampled(run, net, samples, frames)})
        if rows[0]["deviation"] < 10 * rows[0]["floor"]:
            break
    return rows


def _distances(x: Tensor, mask: Tensor) -> Any:
    """Distances between the atoms of each structure, all in one array."""
    pairs = (mask[:, :, None] & mask[:, None]).triu(diagonal=1)
    return torch.cdist(x, x)[pairs].double().cpu().numpy()
