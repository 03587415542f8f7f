"""Weights as a vector: the way there, and the way back to the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.parameter_space import ParameterSpace


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_vectors_run_through_all_parameters_in_order() -> None:
    model = network()
    space = ParameterSpace(model)
    assert space.size == 12 + 4 + 4 + 4 + 8 + 2
    parts = space.parts(torch.arange(space.size, dtype=torch.float64))
    assert [part.shape for part in parts] == [p.shape for p in model.parameters()]
    assert torch.equal(space.flat(parts), torch.arange(space.size, dtype=torch.float64))
    assert torch.equal(space.here, nn.utils.parameters_to_vector(model.parameters()).double())


def test_frozen_and_shared_parameters_count_as_the_loss_sees_them() -> None:
    model = network()
    model[0].bias.requires_grad_(requires_grad=False)
    assert ParameterSpace(model).size == 34 - 4
    one = nn.Parameter(torch.ones(3))
    assert ParameterSpace([("a", one), ("b", one)]).names == ["a"]
    with pytest.raises(EquivProbeError, match="requires a gradient"):
        ParameterSpace([torch.ones(3)])


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
def test_a_walk_ends_where_it_began_to_the_bit(fails: bool) -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
        model[2].bias[0] = 1e-42  # subnormal
    model(torch.randn(5, 3)).sum().backward()
    before, gradients = bits(model), [p.grad.clone() for p in model.parameters()]
    held = (model[0].weight ** 2).sum()
    space = ParameterSpace(model)
    try:
        with space.walking() as walk:
            walk.to(torch.full((space.size,), 0.1, dtype=torch.float64))
            assert torch.allclose(model[2].weight, before["2.weight"] + 0.1)
            walk.to(torch.full((space.size,), torch.nan, dtype=torch.float64))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    for name, value in model.state_dict().items():
        assert torch.equal(
            value.view(torch.uint8) if value.ndim else value,
            before[name].view(torch.uint8) if value.ndim else before[name],
        ), name
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    held.backward()  # a graph of the user's own is still valid


def test_a_filter_moves_by_its_own_length_and_a_scaled_layer_by_its_own() -> None:
    model = network(torch.float64)
    space = ParameterSpace(model)
    direction = space.random(torch.Generator().manual_seed(1))
    parts = space.parts(space.filter_normalised(direction))
    torch.testing.assert_close(parts[0].norm(dim=1), model[0].weight.norm(dim=1))
    torch.testing.assert_close(parts[1].norm(), model[0].bias.norm())
    with torch.no_grad():
        model[0].weight.mul_(7)
        model[2].weight[1] = 0
    scaled = space.parts(space.filter_normalised(direction))
    torch.testing.assert_close(scaled[0], 7 * parts[0])
    assert not scaled[4][1].any()


def test_an_empty_weight_is_no_obstacle() -> None:
    weights = [torch.zeros(0, 5), torch.ones(2, 2), torch.zeros(0)]
    space = ParameterSpace([weight.requires_grad_() for weight in weights])
    assert space.size == 4
    torch.testing.assert_close(space.filter_normalised(torch.full((4,), 3.0).double()), torch.ones(4).double())


def test_weights_of_another_model_are_refused_by_name_and_shape() -> None:
    space = ParameterSpace(network())
    with pytest.raises(EquivProbeError, match=r"without '0\.bias'"):
        space.of_names({"0.weight": torch.ones(4, 3)}, missing="error")
    with pytest.raises(EquivProbeError, match="shape"):
        space.of_names({"0.weight": torch.ones(4, 4)}, missing="zero")
    with pytest.raises(EquivProbeError, match="none is a parameter"):
        space.of_names({"weight": torch.ones(4, 3)}, missing="zero")
    assert torch.equal(space.of_names(network().state_dict(), missing="error"), space.here)
