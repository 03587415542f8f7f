"""Every representation against explicit formulas, as a homomorphism, in batches, dtypes and gradients."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from torch import Tensor

import equiv_probe as ep
from equiv_probe.representations.representation import Representation  # noqa: TC001
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.plan import RotationPlan

ORDERS = ["xx yy zz yz xz xy", "xx yy zz xy yz xz", "xy zz zx yy yz xx"]
REPRESENTATIONS = [
    ep.scalar,
    ep.pseudoscalar,
    ep.vector,
    ep.axial,
    ep.point,
    ep.tensor(2),
    ep.tensor(3),
    ep.tensor(2, pseudo=True),
    *(ep.voigt(order) for order in ORDERS),
    ep.voigt(ORDERS[1], shears=2.0),
    ep.irreps("2x0e+1x1o+1x2e+1x3o"),
    ep.irreps("1x0o+1x1e"),
]
everything = pytest.mark.parametrize("representation", REPRESENTATIONS, ids=str)

# float64: a few products of numbers of order one. e3nn's Euler angles lose up to three digits near the pole.
EXACT = 1e-12


def rotations(count: int, seed: int = 0) -> Tensor:
    """Half of them improper."""
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count)[:count, None, None]
    return sign * haar(count, torch.Generator().manual_seed(seed))


def values_of(representation: Representation, *lead: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, *representation.event_shape, generator=generator, dtype=torch.float64)


@everything
def test_round_trip(representation: Representation) -> None:
    values, drawn = values_of(representation, 6, 4), rotations(6)
    back = representation.rotate_back(representation.rotate(values, drawn), drawn)
    assert float((back - values).abs().max()) < EXACT


@everything
def test_homomorphism_over_o3(representation: Representation) -> None:
    values, g, h = values_of(representation, 6, 4), rotations(6, 2), rotations(6, 3).flip(0)
    product = representation.rotate(values, g @ h)
    one_by_one = representation.rotate(representation.rotate(values, h), g)
    assert float((product - one_by_one).abs().max()) < EXACT
    # The other order is another rotation: without this, a representation by the identity would pass.
    if representation.event_shape not in {(), (3, 3, 3)} and "0e" not in str(representation):
        assert float((representation.rotate(values, h @ g) - one_by_one).abs().max()) > 0.01


@everything
def test_a_batch_equals_singles_and_a_single_acts_on_any_leading_shape(representation: Representation) -> None:
    values, drawn = values_of(representation, 5, 2, 4), rotations(5)
    batch = representation.rotate(values, drawn)
    singles = torch.stack([representation.rotate(v, g) for v, g in zip(values, drawn, strict=True)])
    assert float((batch - singles).abs().max()) < EXACT
    shared = representation.rotate(values[:1], drawn)
    assert shared.shape == (5, *values.shape[1:])
    assert float((shared[3] - representation.rotate(values[0], drawn[3])).abs().max()) < EXACT


def test_vector_axial_scalar_pseudoscalar_by_formula() -> None:
    g, parity = rotations(4), torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    v, s = values_of(ep.vector, 4, 5), values_of(ep.scalar, 4, 5)
    assert torch.allclose(ep.vector.rotate(v, g), torch.einsum("kij,knj->kni", g, v), atol=EXACT)
    assert torch.allclose(ep.axial.rotate(v, g), parity[:, None, None] * torch.einsum("kij,knj->kni", g, v), atol=EXACT)
    assert torch.equal(ep.scalar.rotate(s, g), s)
    assert torch.allclose(ep.pseudoscalar.rotate(s, g), parity[:, None] * s, atol=EXACT)


def test_axial_is_how_a_cross_product_rotates_and_pseudoscalar_how_a_triple_product_does() -> None:
    a, b, c = (values_of(ep.vector, 6, seed=seed) for seed in (1, 2, 3))
    g = rotations(6)
    ga, gb, gc = (ep.vector.rotate(x, g) for x in (a, b, c))
    cross = torch.linalg.cross
    assert torch.allclose(cross(ga, gb), ep.axial.rotate(cross(a, b), g), atol=EXACT)
    assert torch.allclose(
        (cross(ga, gb) * gc).sum(-1), ep.pseudoscalar.rotate((cross(a, b) * c).sum(-1), g), atol=EXACT
    )


def test_tensor_rank_three_against_einsum() -> None:
    t, g = values_of(ep.tensor(3), 4, 2), rotations(4)
    expected = torch.einsum("kia,kjb,kcd,knabd->knijc", g, g, g, t)
    assert torch.allclose(ep.tensor(3).rotate(t, g), expected, atol=EXACT)
    parity = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).reshape(4, 1, 1, 1, 1)
    assert torch.allclose(ep.tensor(3, pseudo=True).rotate(t, g), parity * expected, atol=EXACT)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shears", [1.0, 2.0, 2**0.5, -1.0])
def test_voigt_against_the_full_tensor(order: str, shears: float) -> None:
    full = values_of(ep.tensor(2), 6)
    full, g = full + full.mT, rotations(6)
    pick = [["xyz".index(letter) for letter in pair] for pair in order.split()]

    def six(tensor: Tensor) -> Tensor:
        return torch.stack([tensor[:, i, j] * (shears if i != j else 1) for i, j in pick], -1)

    voigt = ep.voigt(order, shears)
    assert torch.allclose(voigt.rotate(six(full), g), six(g @ full @ g.mT), atol=EXACT)
    assert torch.allclose(voigt.rotate_back(six(full), g), six(g.mT @ full @ g), atol=EXACT)


def test_irreps_against_e3nn_and_vectors() -> None:
    before = torch.get_default_dtype()
    g = rotations(6)
    torch.set_default_dtype(torch.float64)
    try:
        names = "2x0e+1x1o+1x2e+1x3o+1x0o"
        expected = o3.Irreps(names).D_from_matrix(g)
        # The matrices also carry the spherical harmonics of any vector: independent of D_from_matrix.
        v = values_of(ep.vector, 6)
        harmonics = o3.spherical_harmonics([1, 2, 3], v, normalize=False)
        rotated = o3.spherical_harmonics([1, 2, 3], torch.einsum("kij,kj->ki", g, v), normalize=False)
    finally:
        torch.set_default_dtype(before)
    values = values_of(ep.irreps(names), 6)
    assert torch.allclose(ep.irreps(names).rotate(values, g), torch.einsum("kij,kj->ki", expected, values), atol=EXACT)
    assert torch.allclose(ep.irreps("1o+2e+3o").rotate(harmonics, g), rotated, atol=1e-11)
    assert torch.allclose(ep.irreps("1o").rotate(v, g), ep.vector.rotate(v, g), atol=EXACT)
    assert torch.get_default_dtype() == before


def test_irreps_do_not_depend_on_the_default_dtype() -> None:
    values, g = values_of(ep.irreps("2e"), 3), rotations(3)
    plain = ep.irreps("2e").rotate(values, g)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.allclose(ep.irreps("2e").rotate(values, g), plain, atol=EXACT)
    finally:
        torch.set_default_dtype(before)


# One rounding of the result (2^-53, 2^-24, 2^-11, 2^-8) times a few for the products; half precision is rotated in
# float32 and rounded once.
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.float16, 2.0**-9), (torch.bfloat16, 2.0**-6)],
)
@everything
def test_dtypes(representation: Representation, dtype: torch.dtype, tolerance: float) -> None:
    values, g = values_of(representation, 3, 4).to(dtype), rotations(3)
    rotated = representation.rotate(values, g)
    assert rotated.dtype == dtype
    exact = representation.rotate(values.double(), g)
    assert float((rotated.double() - exact).abs().max()) <= tolerance * float(exact.abs().max())


@everything
def test_gradients_in_values_and_rotation(representation: Representation) -> None:
    values = values_of(representation, 2, 2).requires_grad_()
    drawn = rotations(2).requires_grad_()
    if "irreps" not in str(representation):  # e3nn's Euler angles are a function on rotations, not on all matrices
        assert torch.autograd.gradcheck(representation.rotate, (values, drawn))
        assert torch.autograd.gradcheck(representation.rotate_back, (values, drawn))
        return
    skew = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)

    def along(values: Tensor, skew: Tensor) -> Tensor:
        from equiv_probe.rotations.haar import generators

        tilt = torch.linalg.matrix_exp(torch.einsum("ka,aij->kij", skew, generators()))
        return representation.rotate(values, tilt @ drawn.detach())

    assert torch.autograd.gradcheck(along, (values, skew))


def test_points_rotate_about_a_center() -> None:
    x, center, g = values_of(ep.point, 3, 5), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), rotations(3)
    expected = torch.einsum("kij,knj->kni", g, x - center) + center
    assert torch.allclose(ep.point.rotate(x, g, center), expected, atol=EXACT)
    assert torch.allclose(ep.point.rotate_back(expected, g, center), x, atol=EXACT)
    assert torch.allclose(ep.point.rotate(center.expand(3, 1, 3), g, center), center.expand(3, 1, 3), atol=EXACT)
    assert torch.allclose(ep.point.rotate(x, g), ep.vector.rotate(x, g), atol=EXACT), (
        "about the origin without a centre"
    )
    assert torch.equal(ep.vector.rotate(x, g, center), ep.vector.rotate(x, g)), "a vector has no place"


def test_fixed_passes_anything_on() -> None:
    numbers = torch.arange(5)
    assert ep.fixed.rotate(numbers, rotations(1)[0]) is numbers
    assert ep.fixed.rotate_back(numbers, rotations(3)) is numbers


def test_empty_values_stay_empty() -> None:
    for representation in REPRESENTATIONS:
        empty = values_of(representation, 2, 0)
        assert representation.rotate(empty, rotations(2)).shape == empty.shape


def test_a_single_number_rotates_as_well() -> None:
    rotate, mirror = haar(1, torch.Generator().manual_seed(0))[0], -torch.eye(3).double()
    for rep, sign in ((ep.scalar, 1.0), (ep.pseudoscalar, -1.0)):
        assert torch.equal(rep.rotate(torch.tensor(1.5), rotate), torch.tensor(1.5))
        assert torch.equal(rep.rotate(torch.tensor(1.5), mirror), torch.tensor(sign * 1.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ep.vector.rotate(torch.zeros(5, 2), torch.eye(3)),
            r"\(5, 2\) declared as vector; expected trailing axes \(3,\)",
        ),
        (lambda: ep.tensor(2).rotate(torch.zeros(3), torch.eye(3)), r"expected trailing axes \(3, 3\)"),
        (
            lambda: ep.vector.rotate(torch.zeros(5, 3, dtype=torch.long), torch.eye(3)),
            r"floating values. Fix: ep.fixed",
        ),
        (lambda: ep.vector.rotate(torch.zeros(3), torch.eye(3).expand(4, 3, 3)), r"add them: values\[None\]"),
        (lambda: ep.voigt("xx yy zz yz xz"), "six different components"),
        (lambda: ep.voigt("xx yy zz yz zy xy"), "six different components"),
        (lambda: ep.voigt("xx yy zz yz xz xw"), "six different components"),
        (lambda: ep.voigt(shears=0.0), "2 for engineering strains"),
        (lambda: ep.tensor(-1), "rank of 0 or more"),
    ],
)
def test_errors_teach(call, message: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=message):
        call()


@pytest.mark.gpu
@everything
def test_values_stay_on_their_device(representation: Representation) -> None:
    values, g = values_of(representation, 3, 4), RotationPlan("haar", replicates=3).rotations()[:, 0]
    rotated = representation.rotate(values.cuda(), g)
    assert rotated.device.type == "cuda"
    assert torch.allclose(rotated.cpu(), representation.rotate(values, g), atol=EXACT)
