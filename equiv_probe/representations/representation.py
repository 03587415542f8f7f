"""The representations of tensors with a fixed number of components, gathered from the files that define them."""

from equiv_probe.representations.cartesian import (
    CartesianTensor,
    Point,
    axial,
    point,
    pseudoscalar,
    scalar,
    tensor,
    vector,
)
from equiv_probe.representations.concat import Concat, concat
from equiv_probe.representations.fixed import Fixed, fixed
from equiv_probe.representations.interface import ANY, Representation
from equiv_probe.representations.irreps import Irreps, irreps
from equiv_probe.representations.voigt import Voigt, voigt

__all__ = [
    "ANY",
    "CartesianTensor",
    "Concat",
    "Fixed",
    "Irreps",
    "Point",
    "Representation",
    "Voigt",
    "axial",
    "concat",
    "fixed",
    "irreps",
    "point",
    "pseudoscalar",
    "scalar",
    "tensor",
    "vector",
    "voigt",
]
