"""Coordinates that come in under another name are found by their values; features that only look like them are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

F = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F)


POS = draw(12, 3) + torch.tensor([3.0, -1.0, 2.0], dtype=F)
EDGES = torch.combinations(torch.arange(12)).T
ARROWS = POS[EDGES[1]] - POS[EDGES[0]]
LENGTHS = ARROWS.norm(dim=1, keepdim=True)
BATCH = torch.arange(12) // 4
CENTRED = POS - torch.stack([POS[b == BATCH].mean(0) for b in range(3)])[BATCH]
ATOMS, BONDS = draw(12, 4, seed=1), draw(66, 4, seed=2)


def representation_of(value: Tensor, name: str = "x", **beside: Tensor) -> object:
    inputs = {"z": torch.arange(12), name: value, "pos": POS, "edge_index": EDGES, **beside}
    return ep.Schema.infer(inputs, {"energy": torch.zeros(())}).inputs[name]


@pytest.mark.parametrize("dtype", [torch.float32, F], ids=str)
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (torch.cat([POS, ATOMS[:, :1]], 1), ep.concat(ep.point, 1)),  # x = cat([pos, z])
        (torch.cat([ATOMS, POS], 1), ep.concat(4, ep.point)),
        (torch.cat([ATOMS[:, :3], POS, ATOMS[:, 3:]], 1), ep.concat(3, ep.point, 1)),
        (torch.cat([POS, POS], 1), ep.concat((2, ep.point))),
        (POS, ep.point),
        (torch.cat([CENTRED, ATOMS], 1), ep.concat(ep.vector, 4)),
        (torch.cat([ATOMS, 0.1 * CENTRED], 1), ep.concat(4, ep.vector)),
        (POS + 5.0, ep.point),
    ],
    ids=["pos|z", "z|pos", "between", "twice", "alone", "centred", "scaled", "moved"],
)
def test_places_among_the_features_of_atoms(value: Tensor, wanted: object, dtype: torch.dtype) -> None:
    assert representation_of(value.to(dtype), batch=BATCH) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, F], ids=str)
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (torch.cat([BONDS, ARROWS], 1), ep.concat(4, ep.vector)),  # T.Cartesian(norm=False)
        (torch.cat([BONDS, -ARROWS], 1), ep.concat(4, ep.vector)),
        (torch.cat([ARROWS / LENGTHS, LENGTHS], 1), ep.concat(ep.vector, 1)),
        (torch.cat([LENGTHS, ARROWS], 1), ep.concat(1, ep.vector)),
        (0.3 * ARROWS, ep.vector),
        (ARROWS * torch.exp(-LENGTHS), ep.vector),
        (torch.cat([ARROWS, BONDS[:, :2], ARROWS / LENGTHS], 1), ep.concat(ep.vector, 2, ep.vector)),
    ],
    ids=["Cartesian", "the other way", "unit", "(d, x, y, z)", "scaled", "enveloped", "two"],
)
def test_arrows_among_the_features_of_edges(value: Tensor, wanted: object, dtype: torch.dtype) -> None:
    assert representation_of(value.to(dtype), "edge_attr") == wanted


def test_spherical_harmonics_of_edges() -> None:
    o3 = pytest.importorskip("e3nn.o3")
    for normalization in ("component", "norm", "integral"):
        harmonics = o3.spherical_harmonics([0, 1, 2, 3], ARROWS, normalize=True, normalization=normalization)
        wanted = ep.concat(1, ep.irreps("1x1o+1x2e+1x3o"))
        assert representation_of(harmonics, "edge_attr") == wanted
        g = haar(1, torch.Generator().manual_seed(0))[0]
        again = o3.spherical_harmonics([0, 1, 2, 3], ARROWS @ g.T, normalize=True, normalization=normalization)
        torch.testing.assert_close(wanted.rotate(harmonics, g), again, rtol=0, atol=1e-10)
        alone = ep.Schema.infer({"edge_sh": harmonics, "edge_index": EDGES}, {"energy": torch.zeros(())})
        torch.testing.assert_close(alone.inputs["edge_sh"].rotate(harmonics, g), again, rtol=0, atol=1e-10)


def test_edges_without_positions_tell_by_themselves() -> None:
    beside = {"z": torch.arange(12), "edge_index": EDGES}
    for value, wanted in ((torch.cat([LENGTHS, ARROWS], 1), ep.concat(1, ep.vector)), (ARROWS, ep.vector)):
        found = ep.Schema.infer({**beside, "edge_attr": value}, {"energy": torch.zeros(())})
        assert found.inputs["edge_attr"] == wanted


def test_arrows_to_other_images_of_the_cell_are_found() -> None:
    cell = 6.0 * torch.eye(3, dtype=F) + 0.3 * draw(3, 3, seed=5)
    images = torch.randint(-1, 2, (66, 3), generator=torch.Generator().manual_seed(1)).to(F)
    images[::3] = 0
    value = torch.cat([BONDS, ARROWS + images @ cell], 1)
    assert representation_of(value, "edge_attr", cell=cell) == ep.concat(4, ep.vector)


def test_dense_pairs_are_compared_with_differences_in_pairs() -> None:
    pos = draw(5, 6, 3)
    pairs = pos[:, :, None] - pos[:, None]
    value = torch.cat([pairs.norm(dim=-1, keepdim=True), pairs], -1)
    found = ep.Schema.infer({"pos": pos, "pair": value}, {"energy": torch.zeros(5)})
    assert found.inputs["pair"] == ep.concat(1, ep.vector)


AZIMUTH = torch.atan2(ARROWS[:, 1:2], ARROWS[:, :1])
MIXED = ARROWS @ draw(3, 3, seed=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edge_attr", torch.cat([BONDS, ARROWS / (2 * ARROWS.abs().max()) + 0.5], 1)),  # T.Cartesian(norm=True)
        ("edge_attr", torch.cat([LENGTHS, AZIMUTH, torch.acos(ARROWS[:, 2:] / LENGTHS)], 1)),  # T.Spherical
        ("edge_attr", torch.cat([BONDS, AZIMUTH % (2 * torch.pi) / (2 * torch.pi)], 1)),  # T.Polar
        ("edge_attr", torch.cat([BONDS, MIXED], 1)),
        ("edge_attr", torch.cat([BONDS, ARROWS[:, [1, 2, 0]]], 1)),
        ("x", torch.cat([(POS - POS.mean(0)) / POS.std(0), ATOMS], 1)),  # standardised, axis by axis
        ("x", torch.cat([ATOMS, POS[:, 2:]], 1)),  # the height alone
        ("x", torch.cat([0.5 * POS, ATOMS], 1)),  # a multiple of places has another centre
    ],
    ids=["Cartesian with norm", "Spherical", "Polar", "mixed", "permuted", "standardised", "height", "multiple"],
)
def test_what_no_rotation_of_columns_brings_about_is_refused(name: str, value: Tensor) -> None:
    with pytest.raises(ep.EquivProbeError, match=f'ep.Schema.inputs=."{name}": ep.fixed') as caught:
        representation_of(value, name)
    assert "pos" in str(caught.value)
    assert "columns" in str(caught.value) or "column " in str(caught.value)


@pytest.mark.parametrize("width", [1, 2, 4, 5, 7, 8, 16, 32, 100])
@pytest.mark.parametrize("seed", range(5))
def test_features_of_chance_are_no_coordinates(width: int, seed: int) -> None:
    """Negative control."""
    for name, rows in (("x", 12), ("edge_attr", 66)):
        assert representation_of(draw(rows, width, seed=seed), name) == ep.fixed
        smooth = torch.exp(-((LENGTHS - torch.linspace(0, 5, width, dtype=F)) ** 2))  # radial functions are invariant
        assert representation_of(smooth, "edge_attr") == ep.fixed


@pytest.mark.parametrize("classes", [3, 4, 6, 9])
def test_one_hot_classes_are_no_coordinates_wherever_they_stand(classes: int) -> None:
    onehot = nn.functional.one_hot(torch.arange(12) % classes, classes).to(F)
    for inputs in ({"node_attrs": onehot, "positions": POS}, {"a": onehot, "b": POS}, {"b": POS, "a": onehot}):
        found = ep.Schema.infer(inputs, {"energy": torch.zeros(())}).inputs
        assert [found[name] for name in inputs] == [ep.fixed if v is onehot else ep.point for v in inputs.values()]


@pytest.mark.parametrize(
    "name", ["edge_attr", "edge_vec", "vec", "rel_pos", "edge_diff", "directions", "vectors", "D_ij", "r_ij", "normals"]
)
def test_edges_alone_are_arrows_and_no_places(name: str) -> None:
    found = ep.Schema.infer({"z": torch.arange(12), name: ARROWS}, {"energy": torch.zeros(())})
    assert found.inputs[name] == ep.vector


@pytest.mark.parametrize("name", ["vel", "v", "external_field", "accel", "normals", "edge_disp", "force_prev"])
def test_usual_names_of_arrows_beside_positions(name: str) -> None:
    assert representation_of(draw(12, 3, seed=8), name) == ep.vector


@pytest.mark.parametrize("name", ["cell", "lattice", "lat", "rcell"])
@pytest.mark.parametrize("shape", [(3, 3), (5, 3, 3)])
def test_cells_are_rows_of_vectors_and_no_tensors(name: str, shape: tuple[int, ...]) -> None:
    assert representation_of(draw(*shape, seed=8), name) == ep.vector


@pytest.mark.parametrize("name", ["frac_coords", "scaled_positions", "fractional", "frac_pos", "scaled"])
def test_fractional_coordinates_do_not_rotate(name: str) -> None:
    inputs = {name: torch.rand(12, 3), "lattice": 5 * torch.eye(3)}
    assert ep.Schema.infer(inputs, {name: torch.rand(12, 3)}).inputs[name] == ep.fixed
    assert ep.Schema.infer(inputs, {name: torch.rand(12, 3)}).outputs[name] == ep.scalar


@pytest.mark.parametrize("name", ["x", "pos", "coords", "input"])
def test_a_cell_without_cartesian_positions_makes_any_place_suspect(name: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"fractional.*ep\.fixed"):
        ep.Schema.infer({name: torch.rand(12, 3), "cell": 9 * torch.eye(3)}, {"energy": torch.zeros(())})
    if name in {"pos", "coords"}:  # in the whole cell they are Cartesian
        inputs = {name: 9 * torch.rand(12, 3), "cell": 9 * torch.eye(3)}
        assert ep.Schema.infer(inputs, {"energy": torch.zeros(())}).inputs[name] == ep.point


class Crystal(nn.Module):
    """Exactly equivariant: fractional coordinates and a lattice in, forces out."""

    def forward(self, frac_coords: Tensor, lattice: Tensor) -> dict[str, Tensor]:
        pos = frac_coords @ lattice
        d = pos[:, :, None] - pos[:, None]
        return {"forces": (d * torch.exp(-d.square().sum(-1, keepdim=True))).sum(2)}


def test_a_crystal_model_is_found_equivariant() -> None:
    frac, lattice = torch.rand(8, 6, 3, dtype=F), 3 * torch.eye(3, dtype=F) + 0.5 * draw(8, 3, 3)
    with ep.Probe(Crystal(), full=1, budget=None, every=1) as probe:
        forces = probe.model.eval()(frac, lattice)["forces"]
    assert probe.compute()["equiv/val/forces/L_equiv"] < 1e-24
    wrong = ep.Schema({"frac_coords": ep.point, "lattice": ep.vector}, {"forces": ep.vector})
    with ep.Probe(Crystal(), wrong, full=1, budget=None, every=1) as probe:
        probe.model.eval()(frac, lattice)
    share = probe.compute()["equiv/val/forces/L_equiv"] / float(forces.square().mean())
    assert share > 0.1, "the negative control: as points, fractional coordinates make it look broken"


class Edges(nn.Module):
    """Sees the geometry through ``edge_attr`` alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, pos: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.net(edge_attr).sum(0)


def brute_force(net: nn.Module, make: object, count: int = 4000) -> float:
    """Variance over Haar rotations of the structure, with the features made anew."""
    values = [net(POS @ g.T, EDGES, make(ARROWS @ g.T)) for g in haar(count, torch.Generator().manual_seed(1))]  # type: ignore[operator]
    return float(torch.stack(values).var(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.cat([BONDS, d], 1),
        lambda d: torch.cat([d / d.norm(dim=1, keepdim=True), d.norm(dim=1, keepdim=True)], 1),
        lambda d: d,
    ],
    ids=["Cartesian", "unit vectors", "arrows"],
)
def test_a_network_fed_with_arrows_reads_what_brute_force_reads(make: object) -> None:
    """To the errors of both: 5 % of 4000 rotations, and of 2 × 60 rotations of an icosahedral plan."""
    value = make(ARROWS)  # type: ignore[operator]
    net = Edges(value.shape[1])
    with ep.Probe(net, plan=ep.RotationPlan("icosahedral", 8), full=1, budget=None, every=1) as probe, torch.no_grad():
        net.eval()(POS, EDGES, value)
    found, truth = probe.compute()["equiv/val/0/L_equiv"], brute_force(net, make)
    assert abs(found / truth - 1) < 0.15, (found, truth)
    left = ep.Schema({"pos": ep.point, "edge_attr": ep.fixed}, {"0": ep.scalar})
    with ep.Probe(net, left, full=1, budget=None, every=1) as probe, torch.no_grad():
        net.eval()(POS, EDGES, value)
    hidden = probe.compute()["equiv/val/0/L_equiv"]
    assert hidden < 1e-24 * max(1.0, truth), "the negative control: declared fixed, they hide the error"


@pytest.mark.parametrize("how", ["Probe", "twirl", "augment", "Twirled", "RandomRotation"])
def test_a_schema_that_says_nothing_of_hidden_coordinates_is_refused(how: str) -> None:
    net, value = Edges(7), torch.cat([BONDS, ARROWS], 1)
    schema = ep.Schema({"pos": ep.point}, {"0": ep.scalar})
    inputs = {"pos": POS, "edge_index": EDGES, "edge_attr": value}

    def run(given: ep.Schema) -> None:
        if how == "twirl":
            ep.twirl(lambda v: net(**v), inputs, given, "klein")
        elif how == "RandomRotation":
            ep.RandomRotation(ep.Schema(given.inputs, {}))(inputs)
        elif how == "Twirled":
            ep.Twirled(net, given, "klein")(*inputs.values())
        elif how == "augment":
            with ep.augment(net.train(), given):
                net(*inputs.values())
        else:
            with ep.Probe(net, given, full=1, budget=None, every=1):
                net.eval()(*inputs.values())

    with pytest.raises(ep.EquivProbeError, match=r'"edge_attr": ep.concat\(4, ep.vector\)'):
        run(schema)
    for declared in (ep.concat(4, ep.vector), ep.fixed):
        run(ep.Schema({"pos": ep.point, "edge_attr": declared}, {"0": ep.scalar}))


class Places(nn.Module):
    """As an EGNN: equivariant, and gives new places, or displacements."""

    def __init__(self, absolute: bool) -> None:
        super().__init__()
        self.absolute = absolute

    def forward(self, x: Tensor) -> Tensor:
        d = x[:, :, None] - x[:, None]
        out = x + (d * torch.exp(-d.square().sum(-1, keepdim=True))).sum(2)
        return out if self.absolute else out - x


@pytest.mark.parametrize("absolute", [True, False], ids=["places", "displacements"])
def test_a_place_and_an_arrow_are_distinguished_by_moving_the_structure(absolute: bool) -> None:
    x, net = draw(4, 7, 3) + torch.tensor([3.0, -1.0, 2.0], dtype=F), Places(absolute).eval()
    with ep.Probe(net, full=1, budget=None, every=1) as probe:
        net(x)
    assert probe.schema is not None
    assert probe.schema.outputs["0"] == (ep.point if absolute else ep.vector)
    assert probe.compute()["equiv/val/0/L_equiv"] < 1e-24
    orbit = ep.twirl(net, x)
    assert orbit.schema.outputs["0"] == (ep.point if absolute else ep.vector)
    assert ep.decompose(orbit).equiv < 1e-24
    wrong = ep.twirl(net, x, ep.Schema({"0": ep.point}, {"0": ep.vector if absolute else ep.point}))
    assert ep.decompose(wrong).equiv > 0.1, "the negative control"


class Stochastic(Places):
    """Draws noise, keeps count, and cannot run without its own random state."""

    def __init__(self) -> None:
        super().__init__(True)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + torch.randn_like(x)


def test_the_translated_pass_leaves_no_trace_and_sees_through_noise() -> None:
    x, net, twin = draw(4, 7, 3), Stochastic(), Stochastic()
    torch.manual_seed(0)
    with ep.Probe(net, every=1) as probe:
        outputs = [net(x) for _ in range(3)]
    torch.manual_seed(0)
    assert all(torch.equal(a, twin(x)) for a in outputs)
    assert net.calls == twin.calls == 3
    assert probe.schema is not None
    assert probe.schema.outputs["0"] == ep.point
