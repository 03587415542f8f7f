"""Assertions find what is broken under each group, accuse nothing else, and say where and by how much."""

from __future__ import annotations

import copy
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.rotations.haar import haar
from equiv_probe.testing import LinearField, assert_augments, assert_averages, assert_equivariant
from equiv_probe.testing.beneath_rounding import beneath_rounding

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
GROUPS = ("SO(3)", "O(3)", "reflection", "cube", "translation", "permutation")
Inputs = dict[str, Tensor]


def molecule(dtype: torch.dtype = torch.float32, *, at: float = 0.0, seed: int = 0) -> Inputs:
    return {"pos": torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).to(dtype) + at}


def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences and soft distances of all pairs."""
    apart = x[:, None] - x[None]
    return apart, (apart.square().sum(-1) + 1).sqrt()


def equivariant(inputs: Inputs) -> Inputs:
    apart, distance = pairs(inputs["pos"])
    return {"energy": (-distance).exp().sum(), "forces": ((-distance).exp()[..., None] * apart).sum(1)}


def with_energy(change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    """An equivariant model with something added to its energy."""
    return lambda inputs: {**equivariant(inputs), "energy": equivariant(inputs)["energy"] + change(inputs["pos"])}


def centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def triple(x: Tensor) -> Tensor:
    """A product that reflections change the sign of, the same in any order of the atoms."""
    moments = [(centred(x) * pairs(x)[1].sum(1, keepdim=True) ** k).sum(0) for k in (1, 2, 3)]
    return 1e-3 * torch.linalg.det(torch.stack(moments))


DEFECTS: dict[str, tuple[Callable[[Inputs], Inputs], set[str]]] = {
    "none": (equivariant, set()),
    "one axis": (with_energy(lambda x: centred(x)[:, 2].square().sum()), {"SO(3)", "O(3)", "reflection", "cube"}),
    "fourth powers": (with_energy(lambda x: centred(x).pow(4).sum()), {"SO(3)", "O(3)", "reflection"}),
    "handedness": (with_energy(triple), {"O(3)", "reflection"}),
    "where it is": (with_energy(lambda x: 0.1 * x.mean(0).square().sum()), {"translation"}),
    "the first atom": (with_energy(lambda x: centred(x)[0].square().sum()), {"permutation"}),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found_under_the_groups_that_it_breaks_and_no_others(defect: str, group: Any) -> None:
    model, broken = DEFECTS[defect]
    if group in broken:
        with pytest.raises(AssertionError, match=rf"'energy' is not equivariant under {re.escape(group)}"):
            assert_equivariant(model, molecule(), SCHEMA, group=group)
    else:
        assert_equivariant(model, molecule(), SCHEMA, group=group)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0.0, 30.0])
@pytest.mark.parametrize("group", ["SO(3)", "O(3)", "translation", "permutation"])
def test_rounding_is_never_accused(dtype: torch.dtype, at: float, group: Any) -> None:
    for seed in range(6):
        assert_equivariant(equivariant, molecule(dtype, at=at, seed=seed), SCHEMA, group=group, seed=seed)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_small_breakage_is_found_where_the_precision_shows_it(dtype: torch.dtype, size: float) -> None:
    model = with_energy(lambda x: size * centred(x)[:, 0].square().sum())
    with pytest.raises(AssertionError, match="where rounding explains"):
        assert_equivariant(model, molecule(dtype), SCHEMA)


HALF: dict[str, tuple[torch.dtype, Callable[[Inputs], Inputs]]] = {
    "bf16": (torch.bfloat16, equivariant),
    "f16": (torch.float16, equivariant),
    "in bf16, of single numbers": (torch.float32, lambda x: equivariant({"pos": x["pos"].bfloat16()})),
    "in bf16, and single again": (
        torch.float32,
        lambda x: {n: v.float() for n, v in equivariant({"pos": x["pos"].bfloat16()}).items()},
    ),
}


@pytest.mark.parametrize(("dtype", "model"), HALF.values(), ids=HALF.keys())
@pytest.mark.parametrize("off", [0.0, 0.05])
def test_a_stretch_is_told_from_rounding_in_half_precision(dtype: torch.dtype, model: Any, off: float) -> None:
    """5 % along x is 2.4 % of the forces, a third of ten spacings of bfloat16; without it nothing is accused."""
    for seed in range(12):
        inputs = {"pos": torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)}

        def stretched(x: Inputs) -> Inputs:
            return model({"pos": x["pos"] * torch.tensor([1 + off, 1, 1], dtype=x["pos"].dtype)})

        if off:
            with pytest.raises(AssertionError, match=r"'forces' is not equivariant"):
                assert_equivariant(stretched, inputs, SCHEMA, seed=seed, diagnose=False)
        else:
            assert_equivariant(stretched, inputs, SCHEMA, seed=seed)


def test_what_is_beneath_rounding_in_closed_form() -> None:
    """``y = A x`` with rounding to a grid: ``E_g ‖a_g‖²`` of the field in closed form, and rounding ``step²/12``."""
    matrix, step = torch.eye(3).double() + 0.08 * TestAverages.matrix, 0.05
    inputs = molecule(torch.float64)
    for chosen, real in ((matrix, True), (torch.eye(3).double(), False)):
        field = LinearField(chosen)
        given = RotatedModel(
            lambda x, f=field: {"forces": (f(x["pos"])["forces"] / step).round() * step},  # type: ignore[misc]
            inputs,
            TestAverages.schema,
        )
        found = beneath_rounding(given, haar(200, torch.Generator().manual_seed(0)))["forces"]
        expected = sum(field.power(inputs["pos"])["forces"].values()) ** 0.5
        assert found.error == pytest.approx(float(expected), rel=0.1, abs=0.1 * step)
        assert found.rounding == pytest.approx(step / 12**0.5, rel=0.05)
        assert found.is_real == real


def test_tolerances_replace_what_rounding_explains() -> None:
    """Worst numbers: a force along x that is a tenth too large is off by at most a tenth of the largest."""

    def model(inputs: Inputs) -> Inputs:
        return {"forces": centred(inputs["pos"]) * torch.tensor([1.1, 1.0, 1.0])}

    schema, inputs = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector}), molecule()
    assert_equivariant(model, inputs, schema, atol=0.11 * float(centred(inputs["pos"]).norm(dim=-1).max()))
    size = float(model(inputs)["forces"].square().mean().sqrt())
    with pytest.raises(AssertionError, match=r"the tolerance is 0\.01"):
        assert_equivariant(model, inputs, schema, atol=0.01)
    assert_equivariant(model, inputs, schema, rtol=0.11 * float(centred(inputs["pos"]).norm(dim=-1).max()) / size)


def test_the_message_says_where_and_by_how_much() -> None:
    """One atom of the second of two molecules has a force along z, whatever the rotation."""
    batch = torch.tensor([0, 0, 0, 1, 1, 1])

    def model(inputs: dict[str, Tensor]) -> Inputs:
        forces = inputs["pos"] - inputs["pos"].new_zeros(2, 3).index_add(0, batch, inputs["pos"])[batch] / 3
        return {"forces": forces + torch.tensor([0, 0, 2.0]) * (torch.arange(6) == 4)[:, None]}

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector}, batch="batch")
    with pytest.raises(AssertionError) as caught:
        assert_equivariant(model, {**molecule(), "batch": batch}, schema, diagnose=False)
    found = re.search(
        r"Worst at structure 1, atom 4 of the batch, rotated by (\d+)° about \((.*), (.*), (.*)\): "
        r"\((.*)\) instead of \((.*)\), off by (.*)\.",
        str(caught.value),
    )
    assert found
    # The force (0, 0, 2) rotated back by the rotation in words: off by 2 (gᵀ − 1) e_z, to the digits shown.
    angle, axis = math.radians(float(found[1])), torch.tensor([float(found[k]) for k in (2, 3, 4)])
    cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = torch.matrix_exp(angle * cross)
    expected = 2 * (rotation.T[:, 2] - torch.tensor([0, 0, 1.0]))
    values, own = (torch.tensor([float(x.replace("−", "-")) for x in found[k].split(", ")]) for k in (5, 6))
    torch.testing.assert_close(values - own, expected, atol=0.05, rtol=0)
    assert float(found[7]) == pytest.approx(float(expected.abs().max()), abs=0.05)


def test_a_model_that_sees_no_coordinates_does_not_pass() -> None:
    with pytest.raises(AssertionError, match="says nothing"):
        assert_equivariant(
            lambda x: {"energy": torch.ones(())}, molecule(), ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
        )


NO_ORIENTATION = {
    "an atom alone": {"pos": torch.ones(1, 3)},
    "atoms in one place": {"pos": torch.full((5, 3), 7.3)},
    "atoms in one place, far away": {"pos": torch.full((5, 3), 1e3 + 0.1, dtype=torch.float64)},
}


@pytest.mark.parametrize("group", ["SO(3)", "O(3)", "reflection", "cube"])
@pytest.mark.parametrize("inputs", NO_ORIENTATION.values(), ids=NO_ORIENTATION.keys())
def test_what_has_no_orientation_is_refused_and_no_pass(inputs: Inputs, group: Any) -> None:
    """A model that is broken, and sound ones of other structures beside it: the refusal is about the input."""
    broken = DEFECTS["one axis"][0]
    with pytest.raises(EquivProbeError, match=r"nothing that rotates.*Fix: .*two atoms or more"):
        assert_equivariant(broken, inputs, SCHEMA, group=group)
    with pytest.raises(EquivProbeError, match="nothing that rotates"):
        assert_equivariant(
            lambda x: {"out": x["grid"].sum()},
            {"grid": torch.ones(1, 4, 4, 4)},
            ep.Schema({"grid": ep.grid()}, {"out": ep.scalar}),
            group=group,
        )
    assert_equivariant(equivariant, {"pos": torch.eye(3)[:2]}, SCHEMA, group=group)


@pytest.mark.parametrize("whole", [torch.tensor(3), torch.tensor([True, False])])
def test_classes_that_never_change_do_not_pass_and_others_do(whole: Tensor) -> None:
    schema = ep.Schema({"pos": ep.point}, {"kind": ep.scalar})
    with pytest.raises(AssertionError, match="says nothing"):
        assert_equivariant(lambda x: {"kind": whole}, molecule(), schema)
    assert_equivariant(lambda x: {"kind": (pairs(x["pos"])[1] < 2).sum()}, molecule(), schema)
    both = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "kind": ep.scalar})
    assert_equivariant(lambda x: {"energy": equivariant(x)["energy"], "kind": whole}, molecule(), both)


def test_whole_numbers_on_grids_are_no_accusation() -> None:
    grid = torch.randint(0, 4, (1, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    schema = ep.Schema({"grid": ep.grid()}, {"filled": ep.scalar})
    assert_equivariant(lambda x: {"filled": (x["grid"] > 0).sum() / 125}, {"grid": grid}, schema)
    with pytest.raises(AssertionError, match="says nothing"):
        assert_equivariant(lambda x: {"filled": torch.ones(())}, {"grid": grid}, schema)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_every_order_of_atoms_is_told_from_the_one_that_was(count: int) -> None:
    """A single order drawn at random may be none; and one that only exchanges (of parity) must be seen too."""
    inputs = {"pos": molecule()["pos"][:count]}
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})

    def first(x: Inputs) -> Inputs:
        return {"energy": pairs(x["pos"])[0][0, 1, 0]}

    def parity(x: Inputs) -> Inputs:
        """The sign of the order of the atoms by how far they are from all others: a cycle of three does not see it."""
        far = (pairs(x["pos"])[1] ** 2).sum(1)
        signs = (far[:, None] - far[None]).sign()[torch.triu(torch.ones(count, count), 1) == 1]
        return {"energy": signs.prod()}

    for seed in range(4):
        assert_equivariant(equivariant, inputs, schema, group="permutation", seed=seed)
        for broken in (first, *([parity] if count > 2 else [])):  # two atoms are as far from each other
            with pytest.raises(AssertionError, match="under permutation"):
                assert_equivariant(broken, inputs, schema, group="permutation", seed=seed)
    with pytest.raises(EquivProbeError, match="all alike and in one place"):
        assert_equivariant(equivariant, {"pos": torch.ones(count, 3)}, schema, group="permutation")


def test_a_model_that_sees_no_coordinates_does_not_pass_where_it_is_moved() -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    with pytest.raises(AssertionError, match="says nothing"):
        assert_equivariant(lambda x: {"energy": torch.ones(())}, molecule(), schema, group="translation")


@pytest.mark.parametrize("lost", [math.nan, math.inf])
@pytest.mark.parametrize("group", GROUPS)
def test_what_is_not_finite_does_not_pass(lost: float, group: Any) -> None:
    """One number of two, at all rotations alike, with and without a tolerance; what lies in padding is nothing."""

    def model(x: Inputs) -> Inputs:
        return {"energy": torch.stack([equivariant(x)["energy"], x["pos"].sum() * lost])}

    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    for tolerance in ({}, {"rtol": 1.0, "atol": 1.0}):
        with pytest.raises(AssertionError, match="'energy' is not finite: 1 of 2 numbers"):
            assert_equivariant(model, molecule(), schema, group=group, **tolerance)  # type: ignore[arg-type]
    mask = torch.arange(6) < 5
    padded = {"pos": (molecule()["pos"] * mask[:, None])[None], "mask": mask[None]}
    dense = ep.Schema({"pos": ep.point}, {"forces": ep.vector}, mask="mask")

    def on_atoms(x: Inputs) -> Inputs:
        forces = equivariant({"pos": x["pos"][0, :5]})["forces"]
        return {"forces": torch.cat([forces, torch.full((1, 3), lost)])[None]}

    if group != "permutation":
        assert_equivariant(on_atoms, padded, dense, group=group)


@pytest.mark.parametrize("wrong", [{"rtol": math.nan}, {"atol": -1.0}, {"rtol": math.inf}, {"rotations": 0}])
def test_options_under_which_everything_passes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EquivProbeError, match=f"found {next(iter(wrong))}="):
        assert_equivariant(DEFECTS["one axis"][0], molecule(), SCHEMA, **wrong)


class Network(nn.Module):
    """An invariant network with dropout, whose ``forward`` takes species and places."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z: Tensor, pos: Tensor) -> dict[str, Tensor]:
        self.seen += 1
        return {"energy": self.drop(self.mix(pairs(pos)[1])).sum() * z.sum()}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("as_given", [dict, lambda given: tuple(given.values())], ids=["dict", "tuple"])
def test_modules_get_their_arguments_and_keep_their_state(network: Network, as_given: Callable[..., Any]) -> None:
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar})
    batch = as_given({"z": torch.arange(6.0), **molecule()})
    network.eval()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert_equivariant(network, batch, schema)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    network.train()
    with pytest.raises(AssertionError, match=r"'energy' is not deterministic.*model\.eval"):
        assert_equivariant(network, batch, schema)
    assert network.training


def test_edges_are_counted_anew_where_atoms_are_reordered() -> None:
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])

    def model(inputs: Inputs) -> Inputs:
        i, j = inputs["edge_index"]
        apart = inputs["pos"][i] - inputs["pos"][j]
        return {"forces": torch.zeros(6, 3).index_add(0, i, apart).index_add(0, j, -apart)}

    def by_place(inputs: Inputs) -> Inputs:
        return {"forces": model(inputs)["forces"] * (1 + 0.1 * torch.arange(6.0))[:, None]}

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
    inputs = {**molecule(), "edge_index": edges}
    assert_equivariant(model, inputs, schema, group="permutation")
    with pytest.raises(AssertionError, match="under permutation"):
        assert_equivariant(by_place, inputs, schema, group="permutation")
    with pytest.raises(EquivProbeError, match="count atoms by their places"):
        assert_equivariant(
            lambda x: model({**x, "edge_index": x["who"]}), {**molecule(), "who": edges}, schema, group="permutation"
        )


@pytest.mark.parametrize(("group", "inputs"), [("translation", {"v": ep.vector}), ("SU(2)", {"v": ep.vector})])
def test_what_cannot_be_checked_is_an_error_and_no_pass(group: Any, inputs: dict[str, Any]) -> None:
    schema = ep.Schema(inputs=inputs, outputs={"energy": ep.scalar})
    with pytest.raises(EquivProbeError):
        assert_equivariant(lambda x: {"energy": x["v"].norm()}, {"v": torch.ones(4, 3)}, schema, group=group)


def test_grids_are_rotated_by_what_keeps_them() -> None:
    schema = ep.Schema(inputs={"grid": ep.grid()}, outputs={"out": ep.grid()})
    inputs = {"grid": torch.rand(1, 6, 6, 6, generator=torch.Generator().manual_seed(0))}
    assert_equivariant(lambda x: {"out": x["grid"] ** 2}, inputs, schema)
    with pytest.raises(AssertionError, match="'out' is not equivariant under cube"):
        assert_equivariant(lambda x: {"out": x["grid"].cumsum(-1)}, inputs, schema, group="cube")


class TestAverages:
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
    matrix = torch.tensor([[2.0, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.5]], dtype=torch.float64)
    inputs = molecule(torch.float64)

    def model(self, inputs: Inputs) -> Inputs:
        return LinearField(self.matrix)(inputs["pos"])

    def closed_form(self, inputs: Inputs) -> Inputs:
        return LinearField(self.matrix).twirl(inputs["pos"])

    def test_the_group_average_passes(self) -> None:
        assert_averages(self.closed_form, self.model, self.inputs, self.schema)

    def test_a_random_frame_passes_no_more_than_its_average_does(self) -> None:
        """One rotation drawn per call: unbiased, and so within its own scatter; its mean over calls is the average."""
        generator = torch.Generator().manual_seed(0)

        def frame(inputs: Inputs) -> Inputs:
            g = ep.RotationPlan("icosahedral", replicates=1).rotations(generator).flatten(0, 1)
            return {"forces": (self.model({"pos": self.inputs["pos"] @ g.mT})["forces"] @ g).mean(0)}

        assert_averages(frame, self.model, self.inputs, self.schema)

    def test_what_is_not_finite_is_no_average(self) -> None:
        with pytest.raises(AssertionError, match="'forces' is not the group average"):
            assert_averages(
                lambda x: {"forces": self.closed_form(x)["forces"] * math.nan}, self.model, self.inputs, self.schema
            )

    @pytest.mark.parametrize("scale", [1.0, 1.01])
    def test_what_is_not_the_average_fails(self, scale: float) -> None:
        """The model itself (averaging replaced by the identity), and an average that is one percent too large."""
        wrong = self.model if scale == 1.0 else lambda x: {"forces": scale * self.closed_form(x)["forces"]}
        with pytest.raises(AssertionError, match="'forces' is not the group average"):
            assert_averages(wrong, self.model, self.inputs, self.schema)


def test_augmentations() -> None:
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector}, targets={"forces": ep.vector})
    rotate, sample = ep.RandomRotation(schema), {**molecule(), "forces": torch.ones(6, 3)}
    assert_augments(rotate, sample, draws=100)
    with pytest.raises(AssertionError, match="labels: forces: is stale"):
        assert_augments(lambda given: {**given, "pos": rotate(given)["pos"]}, sample, draws=100)
