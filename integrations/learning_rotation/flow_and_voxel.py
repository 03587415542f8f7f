"""What the long runs of the flow and the voxel study share: both losses with their gradients, and correlations.

Both losses are taken on fixed data, with fixed noise and under fixed rotations: deterministic functions of the weights.
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import pearsonr, spearmanr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    import equiv_probe as ep

LOSSES = ("mean", "equiv")
Row = dict[str, Any]


def losses_and_gradients(loss: ep.analysis.OrbitLoss, n_blocks: int) -> dict[str, float]:
    """Both losses, the share, how long the two gradients are, and the cosine of the angle between them.

    ``gradient_mean`` and ``gradient_equiv`` are the norms of the gradients on these very data, as in the paper.
    ``unbiased_mean`` and ``unbiased_equiv`` are those of the population: the square is the mean product of gradients
    from different blocks of structures, so that the noise of the data does not lengthen it; NaN where that is negative.

    Args:
        loss: with ``per_structure=True``.
        n_blocks: of structures; the losses are means over these.
    """
    parameters = list(loss.parameters.values())

    def slopes(of: Tensor) -> Tensor:
        found = torch.autograd.grad(of, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([one.reshape(-1) for one in found]).double()

    rows = [
        block.accumulate(lambda one: [one.mean.detach(), one.equiv.detach(), slopes(one.mean), slopes(one.equiv)])
        for block in loss.blocks(n_blocks, "structures")
    ]
    mean, equiv, *gradients = (torch.stack(values) for values in zip(*rows, strict=True))
    found = {"L_mean": float(mean.mean()), "L_equiv": float(equiv.mean())}
    found["share"] = found["L_equiv"] / (found["L_mean"] + found["L_equiv"])
    whole = [gradient.mean(0) for gradient in gradients]
    for name, one in zip(LOSSES, whole, strict=True):
        found[f"gradient_{name}"] = float(one.norm())
    found["cosine"] = float(torch.cosine_similarity(*whole, dim=0))
    for name, gradient in zip(LOSSES, gradients, strict=True):
        square = float(gradient.sum(0).square().sum() - gradient.square().sum()) / (n_blocks * (n_blocks - 1))
        found[f"unbiased_{name}"] = math.sqrt(square) if square > 0 else math.nan
    return found


def gradient_row(found: ep.analysis.Gradients) -> dict[str, float]:
    """Lengths of both gradients, their ratio and the cosine between them, with standard errors."""
    row: dict[str, float] = {}
    for key in ("norm_mean", "norm_equiv", "ratio", "cosine"):
        one = getattr(found, key)
        row |= {f"gradient_{key}": one.value, f"gradient_{key}_stderr": one.stderr}
    return row


def curvature_row(found: ep.analysis.Curvature, keys: Sequence[str], conditions: Sequence[str]) -> dict[str, float]:
    """Numbers of both spectra with standard errors, such as ``"largest"``, and condition numbers."""
    row: dict[str, float] = {}
    for name in LOSSES:
        one = getattr(found, name)
        for key in keys:
            row |= {f"{name}_{key}": getattr(one, key).value, f"{name}_{key}_stderr": getattr(one, key).stderr}
        row |= {f"{name}_condition_{kind}": one.condition(kind).value for kind in conditions}
    return row


def pair(row: Mapping[str, float], key: str) -> str:
    """A number with its standard error; a dash where it could not be told from zero."""
    return "–" if math.isnan(row[key]) else f"{row[key]:.3g} ± {row[f'{key}_stderr']:.1g}"


def correlation(rows: Sequence[Mapping[str, float]]) -> tuple[float, float, int]:
    """Pearson's and Spearman's correlation of the logarithms of share and gradient ratio, and how many points."""
    pairs = [(row["share"], row["gradient_equiv"] / row["gradient_mean"]) for row in rows if row["share"] > 0]
    share, ratio = zip(*((math.log(a), math.log(b)) for a, b in pairs), strict=True)
    return float(pearsonr(share, ratio)[0]), float(spearmanr(share, ratio)[0]), len(pairs)


def read(path: Path) -> list[Row]:
    """A table of numbers; the column ``run`` stays text. No rows where there is no file."""
    if not path.exists():
        return []
    with path.open() as file:
        return [{k: v if k == "run" else float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
