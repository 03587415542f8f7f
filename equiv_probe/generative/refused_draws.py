"""Which draws leave something to chance, and what is said of those that cannot be rotated: the line to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.layout import DECLARE_FLAT, DECLARE_LAST
from equiv_probe.representations.grids import Grid

if TYPE_CHECKING:
    from equiv_probe.generative.noise_frame import Draw, Frame

_BY_ELEMENT = {"bernoulli", "poisson", "binomial", "multinomial", "native_dropout", "_standard_gamma", "dropout"}
"""Operators of which each number has a law of its own, by the tensor that they are given."""


def is_random(given: dict[str, Any]) -> bool:
    """Whether an operator's arguments leave anything to chance: dropout that is off does not."""
    if given.get("train") is False or given.get("training") is False or given.get("dropout_p") == 0:
        return False
    return not (isinstance(given.get("p"), (int, float)) and given["p"] in {0, 1})


def is_fresh(call: str, given: dict[str, Any]) -> bool:
    """Whether all numbers of a draw have one law: it takes none of them, nor its parameters, from a tensor."""
    if call in _BY_ELEMENT:
        return False
    own = () if not call.endswith(("_", "_like", "_functional")) else ("self",)
    return not any(isinstance(value, torch.Tensor) for name, value in given.items() if name not in own)


def belongs_to_no_sample(draw: Draw, shape: tuple[int, ...]) -> EquivProbeError:
    """For a draw that one of several samples may have made."""
    return EquivProbeError(
        f"{draw}, which does not say to which sample of {shape} it belongs",
        "noise for all samples at once, or one rotation for all of them",
        "audit_sampler(..., per_sample=False); or, if it is no direction, rotates=lambda draw: False",
    )


def not_isotropic(draw: Draw) -> EquivProbeError:
    """For numbers on atoms that a rotation changes and whose law it does not keep."""
    return EquivProbeError(
        f"{draw}: numbers laid out like the noise that are not normal, and so have other odds once they are rotated",
        "normal noise, the same in law in every frame",
        "torch.randn for noise on positions; model.eval() if it is dropout; rotates=lambda draw: False if these "
        "numbers are no directions",
    )


def laid_out_otherwise(draw: Draw, frame: Frame) -> EquivProbeError:
    """For a draw of as many numbers as the noise, of which nobody said where its directions are."""
    if isinstance(frame.rep, Grid):
        expected, declare, what = "a grid laid out like the noise", "", "lie on no grid"
    else:
        expected, what = "directions along the last axis, or a layout that is declared", "are no directions"
        declare = f"{DECLARE_FLAT if draw.shape[-1] % 3 == 0 else DECLARE_LAST}; or "
    return EquivProbeError(
        f"{draw}: as many numbers as the noise of shape {frame.shape}, laid out otherwise, so that they cannot be "
        "rotated",
        expected,
        f"{declare}torch.randn{frame.shape}, and put its axes in order afterwards; rotates=lambda draw: False if these "
        f"numbers {what}",
    )
