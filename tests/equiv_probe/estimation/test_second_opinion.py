"""Another representation is suggested where it explains the orbit far better, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.estimation.second_opinion import second_opinion
from equiv_probe.representations.representation import Representation  # noqa: TC001
from equiv_probe.testing import CentralForces, LinearDenoiser, LinearField, QuadraticEnergy

PLAN = ep.RotationPlan("tetrahedral", 4)


def opinion(predict, positions: Tensor, declared: Representation, **kwargs) -> str:
    schema = ep.Schema({"pos": ep.point}, {"y": declared})
    return second_opinion(ep.twirl(predict, {"pos": positions}, schema, PLAN, **kwargs), "y")


def test_a_wrong_declaration_is_doubted_and_the_right_one_named(positions: Tensor) -> None:
    model = CentralForces()
    cases = {
        # Three invariants of each atom, taken for a vector.
        ("scalar", ep.vector): lambda x: {"y": (x["pos"] - x["pos"].mean(0)).norm(dim=-1)[:, None].expand(-1, 3)},
        ("vector", ep.scalar): lambda x: {"y": model(x["pos"])["forces"]},
        ("point", ep.vector): lambda x: {"y": x["pos"] + model(x["pos"])["forces"]},
        ("vector", ep.point): lambda x: {"y": model(x["pos"])["forces"]},
        ('voigt("xx yy zz yz xz xy")', ep.voigt("xx yy zz xy yz xz")): lambda x: {"y": model(x["pos"])["stress"]},
    }
    for (right, declared), predict in cases.items():
        said = opinion(predict, positions, declared)
        assert f"as ep.{right} it would vary" in said, (right, said)
        assert f'outputs={{"y": ep.{right}}}' in said
        assert "ep." in said.split(",")[0]


@pytest.mark.parametrize("name", ["field", "denoiser", "energy", "central"])
def test_models_that_are_broken_or_right_as_declared_are_not_doubted(
    name: str, matrix: Tensor, positions: Tensor
) -> None:
    model, output = {
        "field": (LinearField(matrix), "forces"),
        "denoiser": (LinearDenoiser(matrix), "denoised"),
        "energy": (QuadraticEnergy(matrix), "energy"),
        "central": (CentralForces(), "forces"),
    }[name]
    assert opinion(lambda x: {"y": model(x["pos"])[output]}, positions, model.outputs[output]) == ""


def test_without_values_there_is_no_opinion(positions: Tensor) -> None:
    assert opinion(lambda x: {"y": CentralForces()(x["pos"])["forces"]}, positions, ep.scalar, keep=False) == ""


def test_it_is_among_the_notes(positions: Tensor) -> None:
    schema = ep.Schema({"pos": ep.point}, {"y": ep.scalar})
    orbit = ep.twirl(lambda x: {"y": CentralForces()(x["pos"])["forces"]}, {"pos": positions}, schema, PLAN)
    found = ep.decompose(orbit)
    assert "declare outputs=" in found.notes[0]
    assert "declare outputs=" in str(found)


def test_three_energies_of_a_packed_batch_are_no_point_and_no_error(matrix: Tensor) -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.arange(3).repeat_interleave(4)

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.stack([QuadraticEnergy(matrix)(inputs["pos"][index == k])["energy"] for k in range(3)])}

    schema = ep.Schema({"pos": ep.point}, {"y": ep.scalar}, batch="batch")
    orbit = ep.twirl(predict, {"pos": x, "batch": index}, schema, PLAN)
    assert second_opinion(orbit, "y") == ""
