"""Small models, each with one planted defect, and each with its neighbour that has none.

A defect is a function from a seed and a flag to a model with its input and schema: with the flag the defect is there,
without it the model is right. What a diagnosis must say is beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import equiv_probe as ep

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = tuple[Callable[..., Any], dict[str, Tensor], ep.Schema]

ATOMS = 6
RIGHT_ORDER = "xx yy zz yz xz xy"


@dataclass(frozen=True)
class Defect:
    """A planted defect.

    Attributes:
        make: the model, its input and its schema, from a seed and whether the defect is there.
        said: verdicts that name it.
    """

    make: Callable[[int, bool], Case]
    said: tuple[str, ...]


DEFECTS: dict[str, Defect] = {}


def defect(*said: str) -> Any:
    def keep(make: Callable[[int, bool], Case]) -> Callable[[int, bool], Case]:
        DEFECTS[make.__name__] = Defect(make, said)
        return make

    return keep


class Field(nn.Module):
    """A pair energy with its forces and virial: exactly equivariant, whatever the weights.

    ``E = Σ_{i<j} φ(r_ij²)`` with ``φ(s) = Σ_k c_k exp(−s/σ_k)``.
    """

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.coefficients = nn.Parameter(torch.randn(3, generator=generator).to(dtype))
        self.widths = nn.Parameter(torch.tensor([1.0, 2.5, 6.0], dtype=dtype))

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Differences ``(…, N, N, 3)``, pair energies and their slopes with r²."""
        apart = x[..., :, None, :] - x[..., None, :, :]
        return (apart, *self.radial(apart.square().sum(-1)))

    def radial(self, square: Tensor) -> tuple[Tensor, Tensor]:
        bumps = self.coefficients * torch.exp(-square[..., None] / self.widths)
        return bumps.sum(-1), (-bumps / self.widths).sum(-1)

    def energy_and_forces(self, x: Tensor) -> tuple[Tensor, Tensor]:
        apart, energy, slope = self.pairs(x)
        return energy.sum((-2, -1)) / 2, -2 * (slope[..., None] * apart).sum(-2)

    def virial(self, x: Tensor) -> Tensor:
        apart, _, slope = self.pairs(x)
        return torch.einsum("...ij,...ija,...ijb->...ab", slope, apart, apart)

    def arrow(self, x: Tensor, power: int) -> Tensor:
        """A vector of the structure, ``Σ_i |x_i|^p x_i``, whatever the order of the atoms."""
        own = x - x.mean(0)
        return (own.norm(dim=-1, keepdim=True).pow(power) * own).sum(0)

    def frame(self, x: Tensor) -> Tensor:
        """Three orthonormal axes as columns, ``(3, 3)``, that rotate with the structure."""
        a = nn.functional.normalize(self.arrow(x, 1), dim=0)
        b = self.arrow(x, 2)
        b = nn.functional.normalize(b - (b @ a) * a, dim=0)
        return torch.stack([a, b, torch.linalg.cross(a, b)], -1)


class Wrapped(nn.Module):
    """A function of a field and the batch as a module."""

    def __init__(self, field: nn.Module, function: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.field, self.function = field, function

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.function(self.field, batch)


def molecule(seed: int, dtype: torch.dtype = torch.float64, away: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    x = 1.2 * torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
    return (x - x.mean(0) + away * torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)).to(dtype)


def given(seed: int, **more: Tensor) -> dict[str, Tensor]:
    return {"pos": molecule(seed, away=0.5), **more}


def schema(outputs: dict[str, Any], **inputs: Any) -> ep.Schema:
    return ep.Schema(inputs={"pos": ep.point, **inputs}, outputs=outputs)


def of_forces(seed: int, function: Callable[[Field, Tensor], Tensor], dtype: torch.dtype = torch.float64) -> Case:
    model = Wrapped(Field(seed, dtype), lambda field, batch: {"forces": function(field, batch["pos"])})
    return model, {"pos": molecule(seed, dtype, away=0.5)}, schema({"forces": ep.vector})


def of_energy(seed: int, function: Callable[[Field, Tensor], Tensor], dtype: torch.dtype = torch.float64) -> Case:
    model = Wrapped(Field(seed, dtype), lambda field, batch: {"energy": function(field, batch["pos"])})
    return model, {"pos": molecule(seed, dtype, away=0.5)}, schema({"energy": ep.scalar})


def forces(field: Field, x: Tensor) -> Tensor:
    return field.energy_and_forces(x)[1]


def energy(field: Field, x: Tensor) -> Tensor:
    return field.energy_and_forces(x)[0]


# -- conventions -------------------------------------------------------------------------------------------------------


@defect("order of axes")
def axes_y_z_x(seed: int, broken: bool) -> Case:
    return of_forces(seed, lambda field, x: forces(field, x)[:, [1, 2, 0]] if broken else forces(field, x))


@defect("order of axes")
def left_handed_axes(seed: int, broken: bool) -> Case:
    hand = torch.tensor([1.0, 1.0, -1.0 if broken else 1.0], dtype=torch.float64)
    return of_forces(seed, lambda field, x: forces(field, x) * hand)


@defect("components changed")
def turned_axes(seed: int, broken: bool) -> Case:
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -0.5, 0.2], [0.5, 0.0, -0.3], [-0.2, 0.3, 0.0]]).double() * broken
    )
    return of_forces(seed, lambda field, x: forces(field, x) @ turn)


@defect("components changed")
def components_scaled_apart(seed: int, broken: bool) -> Case:
    scale = torch.tensor([1.0, 1.3, 0.8]).double() if broken else torch.ones(3).double()
    return of_forces(seed, lambda field, x: forces(field, x) * scale)


@defect("own frame")
def not_rotated_back(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        frame = field.frame(x)
        own = forces(field, x @ frame)
        return own if broken else own @ frame.mT

    return of_forces(seed, function)


def _aligned(x: Tensor, template: Tensor) -> Tensor:
    """The rotation that turns a template into a structure, by Kabsch."""
    u, _, v = torch.linalg.svd((x - x.mean(0)).mT @ template)
    hand = torch.ones(3, dtype=x.dtype)
    hand[2] = torch.linalg.det(u @ v).sign()
    return u @ torch.diag(hand) @ v


@defect("rotated by the inverse")
def rotated_back_by_the_transpose(seed: int, broken: bool) -> Case:
    template = molecule(seed)

    def function(field: Field, x: Tensor) -> Tensor:
        frame = _aligned(x, template)
        own = forces(field, (x - x.mean(0)) @ frame)
        return own @ frame if broken else own @ frame.mT

    return of_forces(seed, function)


@defect("rotated twice")
def rotated_back_twice(seed: int, broken: bool) -> Case:
    template = molecule(seed)

    def function(field: Field, x: Tensor) -> Tensor:
        frame = _aligned(x, template)
        return forces(field, x) @ frame.mT if broken else forces(field, (x - x.mean(0)) @ frame) @ frame.mT

    return of_forces(seed, function)


@defect("another centre")
def places_about_another_centre(seed: int, broken: bool) -> Case:
    fixed = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        own = batch["pos"] - batch["pos"].mean(0)
        return {"denoised": 0.5 * own + (fixed if broken else batch["pos"].mean(0))}

    return Wrapped(Field(seed), function), given(seed), schema({"denoised": ep.point})


@defect("another representation", "own frame")
def invariants_declared_vectors(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        own = batch["pos"] - batch["pos"].mean(0)
        return {"features": torch.stack([own.norm(dim=-1).pow(k) for k in (1, 2, 3)], -1)}

    kind = ep.vector if broken else ep.scalar
    return Wrapped(Field(seed), function), given(seed), schema({"features": kind})


@defect("constant laboratory vector")
def bias_on_vectors(seed: int, broken: bool) -> Case:
    bias = torch.tensor([0.1, 0.3, -0.2], dtype=torch.float64) * broken
    return of_forces(seed, lambda field, x: forces(field, x) + bias)


@defect("Voigt order")
def shears_in_another_order(seed: int, broken: bool) -> Case:
    return _of_stress(seed, "xx yy zz xy yz xz" if broken else RIGHT_ORDER, 1.0)


@defect("Voigt order")
def engineering_shears(seed: int, broken: bool) -> Case:
    return _of_stress(seed, RIGHT_ORDER, 2.0 if broken else 1.0)


def _of_stress(seed: int, order: str, factor: float) -> Case:
    i, j = ([("xyz").index(pair[k]) for pair in order.split()] for k in (0, 1))
    scale = torch.tensor([1.0 if a == b else factor for a, b in zip(i, j, strict=True)], dtype=torch.float64)
    model = Wrapped(Field(seed), lambda field, batch: {"stress": field.virial(batch["pos"])[i, j] * scale})
    return model, given(seed), schema({"stress": ep.voigt(RIGHT_ORDER)})


@defect("Cartesian or spherical")
def six_numbers_for_spherical_ones(seed: int, broken: bool) -> Case:
    i, j = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        virial = field.virial(batch["pos"])
        return {"polarizability": virial[i, j] if broken else torch.einsum("nij,ij->n", _spherical(), virial)}

    return Wrapped(Field(seed), function), given(seed), schema({"polarizability": ep.irreps("1x0e+1x2e")})


@cache
def _spherical() -> Tensor:
    """From a symmetric tensor to e3nn's ``0e + 2e``, ``(6, 3, 3)``."""
    from e3nn.o3 import wigner_3j

    parts = [wigner_3j(1, 1, degree, dtype=torch.float64).movedim(-1, 0) for degree in (0, 2)]
    return torch.cat(parts)


@defect("input transposed")
def cell_as_columns(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        cell = batch["cell"].mT if broken else batch["cell"]
        return {"forces": _periodic(field, batch["pos"], cell)[1]}

    return Wrapped(Field(seed), function), _crystal(seed), schema({"forces": ep.vector}, cell=ep.vector)


@defect("output transposed")
def frames_as_columns(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = torch.stack([field.arrow(batch["pos"], power) for power in (1, 2, 3)])
        return {"axes": rows.mT if broken else rows}

    return Wrapped(Field(seed), function), given(seed), schema({"axes": ep.vector})


@defect("an input taken otherwise")
def field_in_the_body_frame(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        arm = field.arrow(batch["pos"], 1)
        arm = field.frame(batch["pos"]).mT @ arm if broken else arm
        return {"energy": energy(field, batch["pos"]) + arm @ batch["external_field"]}

    external = torch.tensor([0.5, -0.2, 0.9], dtype=torch.float64)
    return (
        Wrapped(Field(seed), function),
        given(seed, external_field=external),
        schema({"energy": ep.scalar}, external_field=ep.vector),
    )


@defect("angles")
def spherical_coordinates(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        found = forces(field, x)
        if not broken:
            return found
        r = found.norm(dim=-1)
        angles = torch.stack([torch.arccos(found[:, 2] / r), torch.arctan2(found[:, 1], found[:, 0])], -1)
        return torch.cat([r[:, None], torch.rad2deg(angles) if seed % 2 else angles], -1)

    return of_forces(seed, function)


@defect("angles")
def torsions_that_wrap(seed: int, broken: bool) -> Case:
    """A chain in a plane, in trans: the last digit decides whether a torsion is 180° or −180°."""
    along = torch.arange(12.0).double()
    chain = torch.stack([1.3 * along, 0.8 * (along % 2), (1 - broken) * torch.sin(along)], -1)
    tilt = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]

    def function(_: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        bonds = batch["pos"][batch["numbers"].argsort()].diff(dim=0)
        normals, middle = torch.linalg.cross(bonds[:-1], bonds[1:]), bonds[1:-1]
        one, other = normals[:-1], normals[1:]
        sine = (torch.linalg.cross(one, other) * middle).sum(-1) / middle.norm(dim=-1)
        torsions = torch.arctan2(sine, (one * other).sum(-1))
        return {"torsions": torsions if seed % 2 else torch.rad2deg(torsions)}

    known = schema({"torsions": ep.pseudoscalar}, numbers=ep.scalar)  # of the mirror image they are the negative
    return Wrapped(Field(seed), function), {"pos": chain @ tilt, "numbers": along}, known


@defect("units of angle")
def frame_by_degrees(seed: int, broken: bool) -> Case:
    """Rotated into the frame of the mean arrow by its azimuth and polar angle, which are in degrees."""

    def function(field: Field, x: Tensor) -> Tensor:
        to = torch.rad2deg if broken else torch.Tensor.clone
        arrow = field.arrow(x, 1)
        phi, theta = to(torch.arctan2(arrow[1], arrow[0])), to(torch.arctan2(arrow[:2].norm(), arrow[2]))
        zero, one = torch.zeros_like(phi), torch.ones_like(phi)
        about_z = torch.stack([phi.cos(), -phi.sin(), zero, phi.sin(), phi.cos(), zero, zero, zero, one]).reshape(3, 3)
        tilt = [theta.cos(), zero, theta.sin(), zero, one, zero, -theta.sin(), zero, theta.cos()]
        own = (x - x.mean(0)) @ about_z @ torch.stack(tilt).reshape(3, 3)
        return (own[:, 2].pow(3) + own[:, :2].square().sum(-1)).sum() + energy(field, x)

    return of_energy(seed, function)


# -- group -------------------------------------------------------------------------------------------------------------


@defect("fixed origin", "translation")
def coordinates_not_centred(seed: int, broken: bool) -> Case:
    return of_energy(
        seed,
        lambda field, x: energy(field, x) + 0.1 * (x - (0 if broken else x.mean(0))).square().sum(-1).square().sum(),
    )


@defect("fixed origin")
def vectors_not_centred(seed: int, broken: bool) -> Case:
    return of_forces(seed, lambda field, x: forces(field, x) + 0.2 * (x - (0 if broken else x.mean(0))))


@defect("fixed origin")
def dipole_of_an_ion(seed: int, broken: bool) -> Case:
    charges = torch.linspace(-0.6, 0.9, ATOMS, dtype=torch.float64)
    charges = charges - (0 if broken else charges.mean())

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"dipole": batch["charges"] @ batch["pos"]}

    known = schema({"dipole": ep.vector}, charges=ep.scalar)
    return Wrapped(Field(seed), function), given(seed, charges=charges), known


@defect("translation")
def depends_on_where_it_is(seed: int, broken: bool) -> Case:
    return of_energy(seed, lambda field, x: energy(field, x) + 0.3 * broken * x.mean(0).norm())


@defect("lattice translation")
def no_minimum_image(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, cell = batch["pos"], batch["cell"]
        found = energy(field, x) if broken else _periodic(field, x, cell)[0]
        return {"energy": found + 0.1 * torch.linalg.det(cell).abs().log()}

    return Wrapped(Field(seed), function), _crystal(seed), schema({"energy": ep.scalar}, cell=ep.vector)


@defect("choice of cell")
def nearest_image_by_fractions(seed: int, broken: bool) -> Case:
    """The nearest image by rounding fractions is another one in another cell."""

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, cell = batch["pos"], batch["cell"]
        if not broken:
            return {"energy": _periodic(field, x, cell)[0]}
        fractions = torch.linalg.solve(cell.mT, x.mT).mT
        apart = fractions[:, None] - fractions
        return {"energy": field.radial(((apart - apart.round()) @ cell).square().sum(-1))[0].sum() / 2}

    return Wrapped(Field(seed), function), _crystal(seed), schema({"energy": ep.scalar}, cell=ep.vector)


@defect("order of atoms")
def position_in_the_list(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = torch.arange(ATOMS).double() if broken else batch["charge_of_atom"]
        reach = (batch["pos"] - batch["pos"].mean(0)).square().sum(-1)
        return {"energy": (weight * reach).sum()}

    weights = torch.arange(ATOMS).double()
    model = Wrapped(Field(seed), function)
    return model, given(seed, charge_of_atom=weights), schema({"energy": ep.scalar}, charge_of_atom=ep.scalar)


@defect("handedness")
def triple_product(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        a, b, c = (field.arrow(x, power) for power in (1, 2, 3))
        volume = torch.linalg.cross(a, b) @ c
        return energy(field, x) + 0.1 * (volume if broken else volume.abs())

    return of_energy(seed, function)


@defect("axial or polar")
def axial_declared_polar(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"moment": torch.linalg.cross(*(field.arrow(batch["pos"], power) for power in (1, 2)))}

    return Wrapped(Field(seed), function), given(seed), schema({"moment": ep.vector if broken else ep.axial})


@defect("time reversal")
def moments_to_the_first_power(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        m = batch["magmoms"]
        return {"energy": energy(field, batch["pos"]) + (m.sum() if broken else m.sum().square())}

    moments = torch.linspace(0.5, 1.0, ATOMS, dtype=torch.float64)
    return (
        Wrapped(Field(seed), function),
        given(seed, magmoms=moments),
        schema({"energy": ep.scalar}, magmoms=ep.scalar),
    )


@defect("a special axis")
def z_is_special(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        own = x - x.mean(0)
        return energy(field, x) + 0.2 * broken * (own[:, 2].square().sum() + own[:, 2].pow(4).sum())

    return of_energy(seed, function)


@defect("a grid")
def activation_on_components(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        found = forces(field, x)
        norm = found.norm(dim=-1, keepdim=True)
        smooth = found * torch.tanh(norm) / norm
        return torch.tanh(2 * found) if broken else smooth - smooth.mean(0)

    return of_forces(seed, function)


@defect("angular degree")
def axes_scaled_unequally(seed: int, broken: bool) -> Case:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    mixing = torch.eye(3, dtype=torch.float64) + 0.3 * broken * (mixing + mixing.mT)
    return of_energy(seed, lambda field, x: energy(field, x) + ((x - x.mean(0)) @ mixing * (x - x.mean(0))).sum())


# -- numerics ----------------------------------------------------------------------------------------------------------


@defect("chance")
def dropout_left_on(seed: int, broken: bool) -> Case:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.drop = Field(seed), nn.Dropout(0.2)

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            apart, _, slope = self.field.pairs(batch["pos"])
            return {"forces": -2 * (self.drop(slope)[..., None] * apart).sum(-2)}

    model = Noisy().train(broken)
    return model, given(seed), schema({"forces": ep.vector})


@defect("inputs cut")
def inputs_to_bfloat16(seed: int, broken: bool) -> Case:
    return of_forces(seed, lambda field, x: forces(field, x.bfloat16().float() if broken else x), dtype=torch.float32)


@defect("low precision")
def products_in_bfloat16(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        apart, _, slope = field.pairs(x)
        if broken and x.dtype == torch.float32:
            return -2 * (slope.bfloat16()[..., None] * apart.bfloat16()).sum(-2).float()
        return -2 * (slope[..., None] * apart).sum(-2)

    return of_forces(seed, function, dtype=torch.float32)


@defect("far from the origin", "low precision")
def distances_by_products(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["pos"] if broken else batch["pos"] - batch["pos"].mean(0)
        norms = x.square().sum(-1)
        square = (norms[:, None] + norms - 2 * x @ x.mT).clamp_min(0)
        return {"energies": field.radial(square)[0].sum(-1)}

    model = Wrapped(Field(seed, torch.float32), function)
    return model, {"pos": molecule(seed, torch.float32, away=300.0)}, schema({"energies": ep.scalar})


@defect("amplified rounding")
def angle_between_the_nearly_parallel(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        bond = field.arrow(x, 1).norm()
        return torch.sin((1e9 if broken else 1.0) * bond) + energy(field, x)

    return of_energy(seed, function)


@defect("batch")
def normalised_over_the_batch(seed: int, broken: bool) -> Case:
    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = field.energy_and_forces(batch["pos"])[0]
        return {"energy": (found - found.mean()) / (1 + found.std(correction=0)) if broken else found}

    dense = torch.stack([molecule(seed), molecule(seed + 50), molecule(seed + 90)])
    return Wrapped(Field(seed), function), {"pos": dense}, schema({"energy": ep.scalar})


@defect("batch")
def scaled_by_the_edges_of_all(seed: int, broken: bool) -> Case:
    """Messages along edges that come with the batch, scaled by the number of edges of all its structures."""
    sizes = (6, 4, 5)
    owners = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    x = torch.cat([molecule(seed + 50 * k)[:size] for k, size in enumerate(sizes)])
    apart = torch.cdist(x, x).fill_diagonal_(torch.inf)
    near = (owners[:, None] == owners) & (apart < apart.sort(1).values[:, 2:3].max() + 0.1)
    edges = near.nonzero().T

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        (i, j), pos, strength = batch["edge_index"], batch["pos"], batch["edge_strength"]
        slope = strength * field.radial((pos[i] - pos[j]).square().sum(-1))[1]
        found = torch.zeros_like(pos).index_add(0, i, -2 * slope[:, None] * (pos[i] - pos[j]))
        return {"forces": found / (len(i) / 10 if broken else 3.0)}

    strength = 1 + 0.1 * (owners[edges[0]] + 1.0).double()
    inputs = {"pos": x, "edge_index": edges, "edge_strength": strength, "batch": owners}
    known = ep.Schema({"pos": ep.point, "edge_strength": ep.scalar}, {"forces": ep.vector}, batch="batch")
    return Wrapped(Field(seed), function), inputs, known


@defect("compilation")
def compiled_wrongly(seed: int, broken: bool) -> Case:
    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        return lambda *args: [torch.tanh(o) if broken and o.shape[-1:] == (3,) else o for o in graph(*args)]

    torch._dynamo.reset()  # every backend is another one
    model, batch, known = of_forces(seed, forces)
    return torch.compile(model, backend=backend), batch, known


@defect("fused kernels")
def fused_wrongly(seed: int, broken: bool) -> Case:
    """A layer that takes a faster way where fused kernels are allowed, as torch's own do, and is wrong there."""

    def function(field: Field, x: Tensor) -> Tensor:
        found = forces(field, x)
        return torch.tanh(found) if broken and torch.backends.mha.get_fastpath_enabled() else found

    return of_forces(seed, function)


@defect("quantisation")
def vectors_in_float8(seed: int, broken: bool) -> Case:
    """The neighbour rounds scalars, which symmetry does not mind."""

    def function(field: Field, x: Tensor) -> Tensor:
        apart, _, slope = field.pairs(x)
        cut = (lambda v: v.to(torch.float8_e4m3fn).to(v.dtype)) if seed % 2 else _to_int8
        slope = slope if broken else slope * cut(field.coefficients).sum()
        return -2 * (slope[..., None] * (cut(apart) if broken else apart)).sum(-2)

    return of_forces(seed, function, dtype=torch.float32)


def _to_int8(value: Tensor) -> Tensor:
    scale = value.abs().max() / 127
    return (value / scale).round().clamp(-127, 127).to(torch.int8).to(value.dtype) * scale


@defect("quantisation")
def lifted_by_int8_weights(seed: int, broken: bool) -> Case:
    """Vectors are lifted to 32 channels and back by matrices that are inverse to each other, until one is rounded."""

    class Lifted(Field):
        def __init__(self) -> None:
            super().__init__(seed)
            lift = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            self.drop = nn.Parameter(torch.linalg.pinv(lift))
            self.lift = nn.Parameter(_to_int8(lift) if broken else lift)

    model = Wrapped(Lifted(), lambda field, batch: {"energy": energy(field, batch["pos"] @ field.lift @ field.drop)})
    return model, given(seed), schema({"energy": ep.scalar})


# -- graph -------------------------------------------------------------------------------------------------------------


class Neighbours(nn.Module):
    """The k nearest neighbours of every atom, ``(2, E)``: where distances are equal, the last digit decides."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.fill_diagonal_(torch.inf).topk(self.most, largest=False).indices
        return torch.stack([nearest.flatten(), torch.arange(len(x)).repeat_interleave(self.most)])


class OnGraph(nn.Module):
    """Forces from the neighbours alone."""

    def __init__(self, seed: int, most: int) -> None:
        super().__init__()
        self.field, self.neighbours = Field(seed), Neighbours(most)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["pos"]
        source, target = self.neighbours(x)
        apart = x[target] - x[source]
        slope = self.field.radial(apart.square().sum(-1, keepdim=True))[1]
        return {"forces": torch.zeros_like(x).index_add(0, target, -2 * slope * apart)}


@defect("edges", "ties")
def cap_on_equal_neighbours(seed: int, broken: bool) -> Case:
    # Octahedron: every vertex has four neighbours at one distance.
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    tilt = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    return OnGraph(seed, 3 if broken else 4), {"pos": corners @ tilt}, schema({"forces": ep.vector})


@defect("a discrete choice", "a jump")
def signs_of_principal_axes(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        own = x - x.mean(0)
        axes = torch.linalg.eigh(own.mT @ own)[1]
        within = own @ axes
        return (within.pow(3) if broken else within.square()).sum() + energy(field, x)

    return of_energy(seed, function)


@defect("ties")
def axes_of_a_symmetric_top(seed: int, broken: bool) -> Case:
    """Principal axes of a structure whose moments of inertia are equal are whatever rounding makes them."""

    def function(field: Field, x: Tensor) -> Tensor:
        own = x - x.mean(0)
        axes = torch.linalg.eigh(own.mT @ own)[1]
        within = own @ axes if broken else own.norm(dim=-1, keepdim=True)
        return within.pow(4).sum() + energy(field, x)

    model, batch, known = of_energy(seed, function)
    corners = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    tilt = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    return model, {**batch, "pos": corners @ tilt}, known


# -- grids -------------------------------------------------------------------------------------------------------------


def _symmetric(layer: nn.Module) -> nn.Module:
    """A convolution whose kernels are the same in all orientations of the cube."""
    weight = layer.double().weight.data
    rotations = ep.RotationPlan("cube").rotations().flatten(0, 1)
    layer.weight.data = ep.grid().rotate(weight[None].expand(24, *weight.shape), rotations).mean(0)
    return layer


def _on_voxels(seed: int, first: Callable[[], list[nn.Module]], last: Callable[[], nn.Module] | None = None) -> Case:
    """Layers on 8³ voxels, an activation and a convolution; every other seed sums the output up to a number."""
    torch.manual_seed(seed)
    last = last or (lambda: _symmetric(nn.Conv3d(4, 3, 3, padding=1)))
    layers = nn.Sequential(*first(), nn.Tanh(), last()).double()

    def function(field: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = field(batch["density"])
        return {"field": found} if seed % 2 else {"energy": found.square().sum((-4, -3, -2, -1))}

    outputs = {"field": ep.grid()} if seed % 2 else {"energy": ep.scalar}
    density = {"density": torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)}
    return Wrapped(layers, function), density, ep.Schema({"density": ep.grid()}, outputs)


@defect("kernels")
def kernels_with_a_direction(seed: int, broken: bool) -> Case:
    def first() -> list[nn.Module]:
        layer = nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1)) if seed % 3 == 0 else nn.Conv3d(2, 4, 3, padding=1)
        return [layer if broken else _symmetric(nn.Conv3d(2, 4, 3, padding=1))]

    return _on_voxels(seed, first)


@defect("windows")
def stride_that_does_not_fit(seed: int, broken: bool) -> Case:
    def first() -> list[nn.Module]:
        kernel, padding = (3, 1) if broken else (2, 0)
        if seed % 3 == 0:
            return [_symmetric(nn.Conv3d(2, 4, 3, padding=1)), nn.MaxPool3d(kernel, 2, padding)]
        return [_symmetric(nn.Conv3d(2, 4, kernel, stride=2, padding=padding))]

    return _on_voxels(seed, first)


@defect("windows")
def padding_on_one_side(seed: int, broken: bool) -> Case:
    def first() -> list[nn.Module]:
        if broken and seed % 3 == 0:
            return [_symmetric(nn.Conv3d(2, 4, 2, padding="same"))]
        return [nn.ConstantPad3d((0, 1) * 3 if broken else 1, 0.0), _symmetric(nn.Conv3d(2, 4, 2))]

    return _on_voxels(seed, first)


@defect("windows")
def transposed_on_one_side(seed: int, broken: bool) -> Case:
    def last() -> nn.Module:
        return _symmetric(
            nn.ConvTranspose3d(4, 3, 3, 2, 1, output_padding=1) if broken else nn.ConvTranspose3d(4, 3, 2, 2)
        )

    return _on_voxels(seed, lambda: [_symmetric(nn.Conv3d(2, 4, 2, stride=2))], last)


@defect("embedded places")
def embedding_of_voxels(seed: int, broken: bool) -> Case:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.randn(2, 8, 8, 8) if broken else torch.ones(2, 8, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.places

    return _on_voxels(seed, lambda: [Embedded(), _symmetric(nn.Conv3d(2, 4, 3, padding=1))])


@defect("a special axis")
def layers_of_a_stack(seed: int, broken: bool) -> Case:
    """Each layer of the box is weighted by its height."""

    class Stack(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 + broken * torch.linspace(-1, 1, 8, dtype=x.dtype).square())

    return _on_voxels(seed, lambda: [Stack(), _symmetric(nn.Conv3d(2, 4, 3, padding=1))])


# -- physics -----------------------------------------------------------------------------------------------------------


@defect("forces and energy")
def forces_of_another_energy(seed: int, broken: bool) -> Case:
    other = Field(seed + 500)

    def function(field: Field, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = field.energy_and_forces(batch["pos"])
        return {"energy": found[0], "forces": other.energy_and_forces(batch["pos"])[1] if broken else found[1]}

    return Wrapped(Field(seed), function), given(seed), schema({"energy": ep.scalar, "forces": ep.vector})


@defect("net force")
def forces_without_reaction(seed: int, broken: bool) -> Case:
    def function(field: Field, x: Tensor) -> Tensor:
        return forces(field, x) * (1 + 0.2 * broken * (x - x.mean(0)).square().sum(-1, keepdim=True))

    return of_forces(seed, function)


# -- crystals ----------------------------------------------------------------------------------------------------------


def _crystal(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2000 + seed)
    cell = 5 * torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    places = torch.rand(ATOMS, 3, generator=generator, dtype=torch.float64) @ cell
    return {"pos": places, "cell": cell}


def _periodic(field: Field, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Energy and forces over all images within three cells, which the widths make exact to nine digits."""
    counts = torch.cartesian_prod(*(torch.arange(-3.0, 4.0, dtype=x.dtype),) * 3)
    fractional = torch.linalg.solve(cell.mT, x.mT).mT
    x = (fractional - fractional.floor()) @ cell
    apart = x[:, None, None, :] - x[None, :, None, :] - counts @ cell  # (N, N, S, 3)
    square = apart.square().sum(-1)
    widths = field.widths / 4
    bumps = field.coefficients * torch.exp(-square[..., None] / widths)
    return bumps.sum() / 2, 2 * ((bumps / widths).sum(-1)[..., None] * apart).sum((1, 2))
