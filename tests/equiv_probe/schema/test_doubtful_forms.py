"""What contradicts its name is asked about: a wrong guess would be a zero, or an accusation, that nobody sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.rotations.haar import haar

F = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F)


POS = draw(4, 8, 3)
FRAMES = haar(32, torch.Generator().manual_seed(0)).reshape(4, 8, 3, 3)
UNIT = torch.nn.functional.normalize(draw(4, 8, 4, seed=1), dim=-1)


def inferred(outputs: dict[str, Tensor] | None = None, **inputs: Tensor) -> ep.Schema:
    return ep.Schema.infer({"pos": POS, **inputs}, outputs or {"energy": torch.zeros(4)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F], ids=str)
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("q", UNIT, "ep.quaternion"),
        ("quats", UNIT, "ep.quaternion"),
        ("x", UNIT, "ep.quaternion"),
        ("rigid7", torch.cat([UNIT, POS], -1), r'ep.frame\("quaternion"\)'),
        ("R", FRAMES, "ep.orientation"),
        ("v", FRAMES, "ep.orientation"),
        ("magmoms", draw(4, 8, 3, seed=2), "ep.axial"),
        ("velocities", draw(4, 3, 8, seed=2), "ep.fixed"),
        ("forces_prev", draw(4, 24, seed=2), "ep.fixed"),
        ("quadrupole", draw(4, 5, seed=2), r'ep.irreps\("1x2e"\)'),
    ],
)
def test_inputs_that_contradict_their_name_are_asked_about(
    name: str, value: Tensor, line: str, dtype: torch.dtype
) -> None:
    with pytest.raises(ep.EquivProbeError, match=f'inputs=.."?{name}": {line}'):
        inferred(**{name: value.to(dtype)})


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [("forces", draw(4, 3, 8), "ep.fixed"), ("rotation", UNIT, "ep.quaternion"), ("stress", draw(4, 5), "ep.irreps")],
)
def test_outputs_that_contradict_their_name_are_asked_about(name: str, value: Tensor, line: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=f'outputs=.."?{name}": {line}'):
        inferred({name: value})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("x", draw(4, 8, 4), ep.fixed),
        ("probs", torch.softmax(draw(4, 8, 4), -1), ep.scalar),
        ("classes", torch.softmax(20 * draw(4, 8, 4), -1).sqrt(), ep.fixed),  # of length one, but of one sign
        ("onehot", torch.eye(4, dtype=F)[torch.arange(32).reshape(4, 8) % 4], ep.fixed),
        ("cell", torch.eye(3, dtype=F).expand(4, 3, 3), ep.vector),
        ("lattice", FRAMES[:, 0], ep.vector),  # a rotated cube of 1 Å
        ("velocities", draw(4, 8, 3), ep.vector),
        ("magmoms", draw(4, 8), ep.scalar),
        ("lengths", 5 + draw(4, 3).abs(), ep.fixed),
        ("noise", draw(4, 16), ep.fixed),
    ],
)
def test_what_fits_is_not_asked_about(name: str, value: Tensor, wanted: ep.Schema) -> None:
    """Negative control."""
    assert inferred(**{name: value}).inputs[name] == wanted


def test_fractional_coordinates_beside_the_numbers_of_a_cell_are_no_places() -> None:
    """Taken for places they would look broken: the model is equivariant, since nothing that it is given rotates."""
    frac = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0), dtype=F)
    numbers = torch.tensor([[5.0, 6.0, 7.0, 90.0, 90.0, 120.0]], dtype=F).expand(4, 6)
    for beside in ({"cell": numbers}, {"lengths": numbers[:, :3], "cell_angles": numbers[:, 3:]}):
        for name in ("x", "pos"):
            with pytest.raises(ep.EquivProbeError, match=rf"'{name}'.*fractional.*ep\.fixed"):
                ep.Schema.infer({name: frac, **beside}, {"energy": torch.zeros(4)})
        assert ep.Schema.infer({"pos": 9 * frac, **beside}, {"energy": torch.zeros(4)}).inputs["pos"] == ep.point


def test_logits_do_not_rotate() -> None:
    for name in ("logits", "probs"):
        assert inferred({name: draw(4, 3)}).outputs[name] == ep.scalar


def test_channels_named_like_places_are_arrows_about_the_middle_of_the_box() -> None:
    """``ep.grid(ep.point)`` is refused: the line that is shown must work."""
    inputs = {"image": torch.rand(2, 1, 6, 6, 6), "coords": torch.rand(2, 3, 6, 6, 6)}
    with pytest.raises(ep.EquivProbeError, match=r'"coords": ep\.grid\(ep\.vector\)'):
        ep.Schema.infer(inputs, {"image": torch.rand(2, 1, 6, 6, 6)})
    assert ep.grid(ep.vector).fits((2, 3, 6, 6, 6))


@pytest.mark.parametrize("shape", [(2, 8, 8, 8, 3), (1, 6, 8, 8, 3), (2, 8, 8, 5, 3)])
def test_voxels_with_their_channels_last_are_no_positions(shape: tuple[int, ...]) -> None:
    """Colours or densities that are rotated as places would make a network of voxels look invariant."""
    with pytest.raises(ep.EquivProbeError, match=r"channels last.*ep.point.*movedim\(-1, 1\)"):
        ep.Schema.infer({"x": draw(*shape)}, {"0": draw(*shape[:-1], 2)})


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 8, 8, 3), (2, 3, 8, 8, 3), (2, 4, 5, 9, 3)])
def test_positions_with_several_axes_of_batches_are_positions(shape: tuple[int, ...]) -> None:
    assert ep.Schema.infer({"x": draw(*shape)}, {"0": draw(*shape)}).inputs["x"] == ep.point
    assert ep.Schema.infer({"pos": draw(2, 8, 8, 8, 3)}, {"0": draw(2, 8, 8, 8, 3)}).inputs["pos"] == ep.point


def test_channels_behind_are_no_value_of_channel_axis() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"movedim\(-1, -4\)"):
        ep.grid(channel_axis=-1)  # type: ignore[arg-type]


def test_the_state_of_a_flow_is_no_atomic_numbers_by_its_name() -> None:
    time = {"r": torch.rand(4, dtype=F), "t": torch.rand(4, dtype=F)}
    schema = ep.Schema.infer({"z": draw(4, 8, 3), **time}, {"0": draw(4, 8, 3)})
    assert schema.inputs["z"] == ep.point
    numbers = {"z": torch.ones(4, 3, dtype=torch.long), "pos": draw(4, 3, 3)}  # water
    assert ep.Schema.infer(numbers, {"energy": torch.zeros(4)}).inputs["z"] == ep.fixed
    one_hot = {"z": torch.eye(3, dtype=F)[torch.tensor([[0, 1, 1, 2]])], "pos": draw(1, 4, 3)}
    assert ep.Schema.infer(one_hot, {"energy": torch.zeros(1)}).inputs["z"] == ep.fixed
    with pytest.raises(ep.EquivProbeError, match="inputs\\['z'\\]"):  # beside places it may be anything
        inferred(z=draw(4, 8, 3, seed=7))
