"""What casts doubt on the numbers of a curvature: rounding, and products that lack second derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from equiv_probe.landscape.second_derivatives import APART, FLOORS, disagreement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from equiv_probe.landscape.curvature_estimates import LossCurvature
    from equiv_probe.landscape.curvature_products import CurvatureProducts, Which


def doubts(products: CurvatureProducts, found: Mapping[Which, LossCurvature], seed: int) -> list[str]:
    """Notes on numbers that may not mean what they say: L_equiv within rounding, products that lack something."""
    space, notes = products.space, []
    vector = space.random(torch.Generator().manual_seed(seed))
    equiv = found.get("equiv")
    if equiv is not None and bool(torch.stack(list(products.pieces[0]())).isfinite().all()):
        eps = max(torch.finfo(p.dtype).eps for p in space.tensors)
        rounding = eps * float(products(vector, "total").norm() / vector.norm()) * space.size**0.5
        if 0 < equiv.norm_squared.value < (FLOORS * rounding) ** 2:
            notes.append("the curvature of L_equiv is within rounding of that of L_total: its numbers say nothing")
    if products.matrix == "hessian":
        which = next(iter(found))
        apart = disagreement(products(vector, which), lambda: products.gradient(which), space, vector)
        if apart is not None and apart > APART:
            notes.append(
                f"products of the Hessian differ from differences of gradients by {100 * apart:.0f} %: kinks such as "
                "ReLU's have no second derivative, or an operation of one's own gives none"
            )
    return notes
