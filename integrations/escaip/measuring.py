"""Both losses of held-out forces and their gradients: in closed form for EScAIP, over 24 rotations for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import escaip
import torch
from models import batch, forces_of
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Sequence

HELD = 32
OVER_ROTATIONS = 16
"""Structures of the held-out ones that a model without closed form is measured on."""
OF_GRADIENTS = 8
"""Structures of the held-out ones that gradients are of."""


def measured(model: nn.Module, held: Sequence[Any], *, gradients: bool) -> dict[str, float]:
    """Both losses, share, loss in the data's frame, variance of the head's rows, and the gradients' lengths.

    Args:
        model: one of `models.network`; ``escaip`` itself is measured in closed form.
        held: structures with forces.
        gradients: whether to differentiate as well.

    Returns:
        Losses in (eV/Å)² per component; gradients by all weights; not a number where there is no such thing.
    """
    closed = escaip.is_closed(model)
    model.eval()
    chosen = held if closed else held[:OVER_ROTATIONS]
    data, wanted = batch(model, held), escaip.labels(held).to(next(model.parameters()).device)
    with torch.no_grad():
        frame = float((forces_of(model, data).double() - wanted).square().mean())
        if closed:
            l_mean, l_equiv = (float(one) for one in escaip.both_losses(model, data, wanted))
        else:
            l_mean, l_equiv = over_rotations(model, chosen)
    found = {
        "L_mean": l_mean,
        "L_equiv": l_equiv,
        "L_total": l_mean + l_equiv,
        "share": l_equiv / (l_mean + l_equiv),
        "L_data": frame,
        "variance_of_rows": escaip.variance_of_rows(model) if closed else float("nan"),
    }
    of_mean, of_equiv = _gradients(model, held[:OF_GRADIENTS], closed=closed) if gradients else (None, None)
    model.zero_grad(set_to_none=True)
    model.train()
    return found | _lengths(of_mean, of_equiv)


def over_rotations(model: nn.Module, chosen: Sequence[Any]) -> tuple[float, float]:
    """`L_mean` and `L_equiv` over the 24 rotations of the cube, which average degrees up to 3 exactly."""
    with torch.no_grad():
        back = torch.stack([_rotated_back(model, chosen, g) for g in _rotations()])
    wanted = escaip.labels(chosen).to(back.device)
    mean = back.mean(0)
    return float((mean - wanted).square().mean()), float((back - mean).square().mean())


def _rotations() -> Tensor:
    plan = ep.RotationPlan("octahedral", replicates=1, seed=0)
    return plan.rotations(torch.Generator().manual_seed(0)).reshape(-1, 3, 3)


def _rotated_back(model: nn.Module, chosen: Sequence[Any], g: Tensor) -> Tensor:
    return forces_of(model, batch(model, chosen, g.expand(len(chosen), 3, 3))).double() @ g.to(
        next(model.parameters()).device
    )


def _gradients(model: nn.Module, chosen: Sequence[Any], *, closed: bool) -> tuple[Tensor, Tensor]:
    """∇`L_mean` and ∇`L_equiv`, flat; without closed form exact derivatives of both averages over the rotations.

    Rotated-back outputs sum to their mean, so the mean needs no derivative in `L_equiv`, and one rotation at a time
    is enough: ``∂L_mean = 2 ⟨(b̄ − y) ∂b_r⟩`` and ``∂L_equiv = 2 ⟨(b_r − b̄) ∂b_r⟩``.
    """
    weights = [one for one in model.parameters() if one.requires_grad]
    wanted = escaip.labels(chosen).to(weights[0].device)
    if closed:
        both = escaip.both_losses(model, batch(model, chosen), wanted)
        return _flat(both[0], weights, keep=True), _flat(both[1], weights)
    rotations = _rotations()
    with torch.no_grad():
        mean = torch.stack([_rotated_back(model, chosen, g) for g in rotations]).mean(0)
    of_mean, of_equiv = 0, 0
    for g in rotations:
        back = _rotated_back(model, chosen, g)
        scale = 2 / back.numel() / len(rotations)
        of_mean = of_mean + _flat((back * (mean - wanted)).sum() * scale, weights, keep=True)
        of_equiv = of_equiv + _flat((back * (back.detach() - mean)).sum() * scale, weights)
    return of_mean, of_equiv


def _flat(loss: Tensor, weights: list[nn.Parameter], *, keep: bool = False) -> Tensor:
    found = torch.autograd.grad(loss, weights, retain_graph=keep, allow_unused=True)
    return torch.cat(
        [one.new_zeros(one.numel()) if g is None else g.flatten() for one, g in zip(weights, found, strict=True)]
    ).double()


def _lengths(of_mean: Tensor | None, of_equiv: Tensor | None) -> dict[str, float]:
    if of_mean is None or of_equiv is None:
        return dict.fromkeys(("gradient_mean", "gradient_equiv", "cosine"), float("nan"))
    return {
        "gradient_mean": float(of_mean.norm()),
        "gradient_equiv": float(of_equiv.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(of_mean, of_equiv, dim=0)),
    }
