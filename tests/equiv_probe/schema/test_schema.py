"""Inference by name and by shape gives its reasons, what is declared wins, what is ambiguous is an error."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

import equiv_probe as ep
from equiv_probe.schema import schema as schema_module
from equiv_probe.schema.schema import Schema, named, unnamed


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("name", "shape", "representation"),
    [
        ("pos", (5, 3), ep.point),
        ("coords", (2, 5, 3), ep.point),
        ("_positions", (5, 3), ep.point),
        ("R", (5, 3), ep.point),
        ("cell", (3, 3), ep.vector),
        ("velocities", (5, 3), ep.vector),
        ("spins", (5, 3), ep.axial),
        ("z", (5,), ep.fixed),
        ("edge_shift", (9, 3), ep.vector),
        ("unit_shifts", (9, 3), ep.fixed),  # counts of images
        ("ligand.velocities", (5, 3), ep.vector),
    ],
)
def test_inputs_by_name(name: str, shape: tuple[int, ...], representation: object) -> None:
    inputs = {"pos": zeros(5, 3), name: zeros(*shape)}
    assert Schema.infer(inputs, {"energy": zeros()}).inputs[name] == representation


@pytest.mark.parametrize(
    ("name", "shape", "representation"),
    [
        ("energy", (), ep.scalar),
        ("Energy", (4, 1), ep.scalar),
        ("forces", (5, 3), ep.vector),
        ("forces", (3, 3), ep.vector),  # three atoms: the name decides what the shape cannot
        ("dipole", (3,), ep.vector),
        ("torque", (3,), ep.axial),
        ("stress", (3, 3), ep.tensor(2)),
        ("stress", (6,), ep.voigt()),
        ("polarizability", (2, 3, 3), ep.tensor(2)),
        ("charges", (3,), ep.scalar),  # three charges are not a vector
        ("out", (7,), ep.scalar),
        ("out", (5, 3), ep.vector),
        ("out", (4, 128), ep.scalar),
    ],
)
def test_outputs_by_name_and_shape(name: str, shape: tuple[int, ...], representation: object) -> None:
    inferred = Schema.infer({"pos": zeros(5, 3)}, {name: zeros(*shape)})
    assert inferred.outputs == {name: representation}


def test_shapes_decide_where_names_say_nothing() -> None:
    inputs = {"a": zeros(5, 3), "b": zeros(5, 16), "c": torch.zeros(5, dtype=torch.long)}
    inferred = Schema.infer(inputs, {"y": zeros(5, 3)})
    assert inferred.inputs == {"a": ep.point, "b": ep.fixed, "c": ep.fixed}
    reasons = {a.name: a.reason for a in inferred.assumptions}
    assert "first floating input with a last axis of 3, shape (5, 3)" in reasons["a"]
    assert "(5, 16) has no axis of Cartesian components" in reasons["b"]
    assert "torch.int64 values do not rotate" in reasons["c"]
    assert "if it is a place rather than an arrow, it is ep.point" in reasons["y"]


def test_tuples_are_inferred_by_place() -> None:
    inferred = Schema.infer((zeros(5, 3), torch.zeros(5, dtype=torch.long)), (zeros(), zeros(5, 3)))
    assert inferred.inputs == {"0": ep.point, "1": ep.fixed}
    assert inferred.outputs == {"0": ep.scalar, "1": ep.vector}


def test_what_is_declared_stands_and_is_no_assumption() -> None:
    declared = Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.axial}, targets={"forces": ep.vector}, batch="b")
    inputs = {"pos": zeros(5, 3), "b": torch.zeros(5, dtype=torch.long)}
    inferred = Schema.infer(inputs, {"forces": zeros(5, 3), "energy": zeros()}, declared)
    assert inferred.inputs["pos"] == ep.vector
    assert inferred.outputs == {"forces": ep.axial, "energy": ep.scalar}
    assert inferred.target("forces") == ep.vector
    assert inferred.target("energy") == ep.scalar
    assert inferred.batch == "b"
    assert {a.name for a in inferred.assumptions} == {"b", "energy"}


@pytest.mark.parametrize(
    ("outputs", "line"),
    [
        ({"y": zeros(3)}, 'Fix: ep.Schema(outputs={"y": ep.vector}, ...)'),
        ({"y": zeros(3, 3)}, 'Fix: ep.Schema(outputs={"y": ep.tensor(2)}, ...)'),
        ({"y": zeros(6)}, 'Fix: ep.Schema(outputs={"y": ep.voigt()}, ...)'),
        ({"y": zeros(2, 9)}, 'Fix: ep.Schema(outputs={"y": ep.irreps(...)}, ...)'),
    ],
)
def test_ambiguity_is_an_error_that_shows_the_line(outputs: dict[str, torch.Tensor], line: str) -> None:
    with pytest.raises(ep.EquivProbeError) as caught:
        Schema.infer({"pos": zeros(5, 3)}, outputs)
    assert str(caught.value).endswith(line)
    assert " or " in str(caught.value), "both candidates are named"


def test_a_second_array_of_threes_among_inputs_is_ambiguous() -> None:
    with pytest.raises(ep.EquivProbeError, match=r'ep.Schema\(inputs=\{"b": ep.vector\}'):
        Schema.infer({"a": zeros(5, 3), "b": zeros(5, 3)}, {"y": zeros()})


def test_a_state_without_positions_beside_it_holds_them() -> None:
    """As of ``net(cat([loc, vel], 1))``: of stresses alone no network is given its structures."""
    with pytest.raises(ep.EquivProbeError) as caught:
        Schema.infer({"nodes": zeros(5, 6), "weights": zeros(20, 1)}, {"y": zeros(5, 3)})
    assert 'Fix: ep.Schema(inputs={"nodes": ep.concat(ep.point, ep.vector)}' in str(caught.value)


def test_inputs_none_of_which_rotates_are_an_error() -> None:
    with pytest.raises(ep.EquivProbeError, match="none of which rotates"):
        Schema.infer({"z": torch.zeros(5, dtype=torch.long)}, {"energy": zeros()})


def test_announcement_comes_once_with_reasons_and_the_line_to_write(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_module, "_ANNOUNCED", [])
    for _ in range(3):
        ep.twirl(lambda x: {"y": x["pos"] - x["pos"].mean(0)}, {"pos": torch.randn(5, 3)}, plan="klein")
    assert capsys.readouterr().out == "", "standard output is the user's"
    (said,) = (one.message for one in caplog.records if one.name == "equiv_probe")
    assert said.startswith("equiv_probe assumes\n")
    assert "inputs['pos'] is point: its name" in said
    assert "outputs['y'] is vector: a last axis of 3" in said
    line = next(line for line in said.splitlines() if "to declare it:" in line).split(": ", 1)[1]
    again = eval(line, {"Schema": Schema, "ep": ep})
    assert again.inputs == {"pos": ep.point}
    assert again.outputs == {"y": ep.vector}


def test_declared_schemas_are_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    declared = Schema(inputs={"pos": ep.point}, outputs={"y": ep.vector})
    ep.twirl(lambda x: {"y": x["pos"]}, {"pos": torch.randn(5, 3)}, declared, ep.RotationPlan("klein", 2))
    assert caplog.records == []


@pytest.mark.parametrize(
    "schema",
    [
        Schema({"x": ep.point, "c": ep.vector}, {"s": ep.voigt("xx xy xz yy yz zz"), "t": ep.tensor(3, pseudo=True)}),
        Schema({"x": ep.axial}, {"y": ep.irreps("1x0e+1x2e")}, {"y": ep.scalar}, "batch", "mask"),
        Schema({"x": ep.fixed}, {"y": ep.pseudoscalar}),
    ],
)
def test_a_schema_prints_as_the_line_that_makes_it(schema: Schema) -> None:
    assert eval(str(schema), {"Schema": Schema, "ep": ep}) == schema


def test_named_and_unnamed_are_inverse() -> None:
    Pair = namedtuple("Pair", "x y")
    for values in (torch.ones(2), (torch.ones(2), 3), [1, 2], {"a": 1}, Pair(1, np.ones(2))):
        back = unnamed(named(values), values)
        assert type(back) is type(values)
        assert back is values or str(back) == str(values)
    assert list(named((1, 2), ["pos", "z"])) == ["pos", "z"]
    assert list(named((1, 2), ["pos"])) == ["0", "1"], "names that do not fit the number are not used"


@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_box_lengths_and_cell_vectors_are_distinguished_by_the_user(shape: tuple[int, ...]) -> None:
    inputs = {"pos": torch.randn(4, 7, 3), "box": torch.ones(shape)}
    with pytest.raises(ep.EquivProbeError, match="lengths of a box"):
        ep.Schema.infer(inputs, {"energy": torch.zeros(4)})
