"""Wigner matrices in a basis of our own: a representation with the right characters, which is all there is to one."""

from __future__ import annotations

import pytest
import torch

from equiv_probe.estimation.spectrum import character
from equiv_probe.rotations.haar import angles, haar
from equiv_probe.rotations.wigner import wigner


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4, 5, 6, 8])
def test_they_are_orthogonal_multiply_and_have_the_characters(degree: int) -> None:
    """To 1e-11: the basis is made of functions whose Gram matrix has a condition number of some thousands."""
    one, other = haar(8, torch.Generator().manual_seed(1)), haar(8, torch.Generator().manual_seed(2))
    first, second = wigner(degree, one), wigner(degree, other)
    close = {"atol": 1e-11, "rtol": 0.0}
    torch.testing.assert_close(first @ second, wigner(degree, one @ other), **close)
    torch.testing.assert_close(first @ first.mT, torch.eye(2 * degree + 1).double().expand_as(first), **close)
    torch.testing.assert_close(first.diagonal(dim1=-2, dim2=-1).sum(-1), character(angles(one), degree), **close)


def test_batches_of_any_shape() -> None:
    drawn = haar(6, torch.Generator().manual_seed(0)).reshape(2, 3, 3, 3)
    torch.testing.assert_close(wigner(3, drawn)[1, 2], wigner(3, drawn[1, 2]))
