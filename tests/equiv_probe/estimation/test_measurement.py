"""Weights, masks, structures, several outputs and callables against explicit computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import equiv_probe as ep
from equiv_probe.estimation.jackknife import jackknife
from equiv_probe.testing import LinearField, QuadraticEnergy

SCHEMA = ep.Schema({"pos": ep.point}, {"forces": ep.vector})
BOTH = ep.Schema({"pos": ep.point}, {"energy": ep.scalar, "forces": ep.vector})
PLAN = ep.RotationPlan("klein", 5)
SAME = 1e-13
KEYS = ("total", "mean", "equiv")


def batch_orbit(matrix: Tensor, structures: int = 4, atoms: int = 5) -> tuple[ep.Orbit, Tensor]:
    """A dense batch ``(B, N, 3)`` of a quadratic energy's forces, and targets."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(structures, atoms, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(structures, atoms, 3, generator=generator, dtype=torch.float64)
    return ep.twirl(lambda i: LinearField(matrix)(i["pos"]), {"pos": x}, SCHEMA, PLAN, stacked=True), y


def explicit(orbit: ep.Orbit, value) -> dict[str, float]:
    """The decomposition of any scalar function of one prediction, written out."""
    h = orbit.kept("forces")
    losses = torch.stack([torch.stack([value(one) for one in replicate]).mean() for replicate in h])
    means = h.mean(1)
    left_out = [torch.cat([means[:r], means[r + 1 :]]).mean(0) for r in range(len(h))]
    found = jackknife(losses, value(means.mean(0)), torch.stack([value(m) for m in left_out]))
    return {"total": float(found.total), "mean": float(found.mean), "equiv": float(found.equiv)}


@pytest.mark.parametrize("loss", ["mse", "mae", "mae-norm", "huber", "huber-norm"])
@pytest.mark.parametrize("structures", [None, "leading"])
def test_weights_and_masks_equal_explicit_computation(loss: str, structures: str | None, matrix: Tensor) -> None:
    orbit, y = batch_orbit(matrix)
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(4, 5, generator=generator) > 0.3

    def value(prediction: Tensor) -> Tensor:
        error = prediction - y
        if loss.endswith("norm"):
            error = error.norm(dim=-1)
        kind = {"mse": torch.square, "mae": torch.abs}.get(loss.removesuffix("-norm"))
        each = kind(error) if kind else functional.huber_loss(error, torch.zeros_like(error), reduction="none")
        factor = (weights * mask).reshape(4, 5, *(1,) * (each.ndim - 2)).expand(each.shape)
        return (each * factor).sum() / factor.sum()

    shape = (4, 5) if loss.endswith("norm") else (4, 5, 1)
    found = ep.decompose(
        orbit, y, loss, structures=structures, weights=weights.reshape(shape), mask=mask.reshape(shape)
    )
    for key, expected in explicit(orbit, value).items():
        assert abs(getattr(found, key) - expected) < SAME, key


def test_missing_labels_may_be_nan_where_masked(matrix: Tensor) -> None:
    orbit, y = batch_orbit(matrix)
    mask = torch.ones(4, 5, 1, dtype=torch.bool)
    mask[1, 2:], mask[3] = False, False
    missing = torch.where(mask, y, torch.nan)
    for structures in (None, "leading"):
        with_zeros = ep.decompose(orbit, torch.where(mask, y, 0.0), mask=mask, structures=structures)
        with_nans = ep.decompose(orbit, missing, mask=mask, structures=structures)
        for key in (*KEYS, "share", "equiv_stderr", "share_stderr"):
            assert getattr(with_nans, key) == getattr(with_zeros, key), key
        assert with_nans.structures == (3 if structures else 1), "a structure without labels does not count"


@pytest.mark.parametrize("loss", ["mse", "huber-norm"])
def test_structures_leading_and_by_index_equal_calls_per_structure(loss: str, matrix: Tensor) -> None:
    orbit, y = batch_orbit(matrix)
    index = torch.arange(4).repeat_interleave(5)
    flat = ep.Orbit.from_values(
        {"forces": orbit.kept("forces").flatten(2, 3)}, {"forces": orbit.identity["forces"].flatten(0, 1)},
        SCHEMA, PLAN, orbit.rotations,
    )  # fmt: skip
    together = ep.decompose(orbit, y, loss, structures="leading")
    by_index = ep.decompose(flat, y.flatten(0, 1), loss, structures=index)
    for k in range(4):
        alone = ep.Orbit.from_values(
            {"forces": orbit.kept("forces")[:, :, k]},
            {"forces": orbit.identity["forces"][k]},
            SCHEMA,
            PLAN,
            orbit.rotations,
        )
        single = ep.decompose(alone, y[k], loss)
        for found in (together, by_index):
            for key in KEYS:
                assert abs(float(found.per_structure[key][k]) - getattr(single, key)) < SAME
            assert abs(float(found.per_structure["equiv_stderr"][k]) - single.equiv_stderr) < SAME
    assert together.structures == by_index.structures == 4
    assert abs(together.equiv - float(together.per_structure["equiv"].mean())) < SAME


def both_orbit(matrix: Tensor, index: Tensor) -> tuple[ep.Orbit, dict[str, Tensor]]:
    """Structures of unequal size in one packed batch: energies ``(B,)`` and forces ``(N, 3)``."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(index), 3, generator=generator, dtype=torch.float64)
    model, count = QuadraticEnergy(matrix), int(index.max()) + 1

    def predict(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        each = [model(inputs["pos"][index == k]) for k in range(count)]
        return {"energy": torch.stack([e["energy"] for e in each]), "forces": torch.cat([e["forces"] for e in each])}

    schema = ep.Schema(BOTH.inputs, BOTH.outputs, batch="batch")
    targets = {
        "energy": torch.randn(count, generator=generator, dtype=torch.float64),
        "forces": torch.randn(len(index), 3, generator=generator, dtype=torch.float64),
    }
    return ep.twirl(predict, {"pos": x, "batch": index}, schema, PLAN), targets


@pytest.mark.parametrize("sizes", [[3, 3, 3], [2, 5, 3, 8]])
def test_several_outputs_add_up_with_their_coefficients(sizes: list[int], matrix: Tensor) -> None:
    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    orbit, targets = both_orbit(matrix, index)
    coefficients = {"energy": 0.1, "forces": 10.0}
    losses = {"energy": "mse", "forces": "huber-norm"}
    found = ep.decompose(orbit, targets, losses, structures=index, coefficients=coefficients)
    for name, loss in losses.items():
        alone = ep.decompose(orbit, {name: targets[name]}, loss, structures=index)
        assert repr(alone.parts[name]) == repr(found.parts[name])  # NaN is not NaN
    for key in KEYS:
        expected = sum(coefficients[name] * getattr(part, key) for name, part in found.parts.items())
        assert abs(getattr(found, key) - expected) < 1e-12, key
    assert found.loss == "0.1·mse(energy) + 10·huber-norm(forces)"
    assert found.structures == len(sizes)
    only = ep.decompose(orbit, targets, losses, structures=index, coefficients={"energy": 1.0, "forces": 0.0})
    for key in (*KEYS, "equiv_stderr", "share_stderr"):
        assert abs(getattr(only, key) - getattr(found.parts["energy"], key)) < 1e-12, key


def test_a_coefficient_of_one_output_keeps_its_error_bar(matrix: Tensor) -> None:
    # Forces weigh by atoms: evened out for the sum, they must scatter as their own ratio does.
    index = torch.arange(4).repeat_interleave(torch.tensor([2, 5, 3, 8]))
    orbit, targets = both_orbit(matrix, index)
    only = ep.decompose(orbit, targets, structures=index, coefficients={"energy": 0.0, "forces": 1.0})
    part = only.parts["forces"]
    for key in (*KEYS, "share", "equiv_stderr", "total_stderr", "mean_stderr", "share_stderr"):
        assert abs(getattr(only, key) / getattr(part, key) - 1) < 1e-9, key


def test_callable_losses_equal_the_named_ones(matrix: Tensor) -> None:
    orbit, y = batch_orbit(matrix)
    for call, name in ((functional.mse_loss, "mse"), (functional.huber_loss, "huber")):
        found, named = ep.decompose(orbit, y, call), ep.decompose(orbit, y, name)
        for key in (*KEYS, "share", "equiv_stderr"):
            assert abs(getattr(found, key) - getattr(named, key)) < SAME, key
    per_structure = ep.decompose(orbit, y, lambda p, t: (p - t).square().mean((-2, -1)))
    named = ep.decompose(orbit, y, structures="leading")
    assert per_structure.structures == 4
    assert abs(per_structure.share_stderr - named.share_stderr) < SAME
    assert per_structure.loss == "<lambda>"


def test_a_callable_of_several_outputs_gets_dicts(matrix: Tensor) -> None:
    index = torch.arange(3).repeat_interleave(4)
    orbit, targets = both_orbit(matrix, index)

    def loss(prediction: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        assert set(prediction) == set(target) == {"energy", "forces"}
        energy = functional.mse_loss(prediction["energy"], target["energy"])
        return energy + 10 * functional.mse_loss(prediction["forces"], target["forces"])

    found = ep.decompose(orbit, targets, loss)
    by_parts = ep.decompose(orbit, targets, coefficients={"forces": 10.0})
    for key in (*KEYS, "share", "equiv_stderr", "share_stderr"):
        assert abs(getattr(found, key) - getattr(by_parts, key)) < 1e-12, key
    with pytest.raises(ep.EquivProbeError, match="no targets"):
        ep.decompose(orbit, None, loss)


@pytest.mark.parametrize(("loss", "remedy"), [("mae", "mae-norm"), ("huber", "huber-norm"), ("mae-norm", None)])
def test_frame_dependence_is_reported_with_the_remedy(loss: str, remedy: str | None, matrix: Tensor) -> None:
    orbit, y = batch_orbit(matrix)
    notes = ep.decompose(orbit, y, loss).notes
    if remedy is None:
        assert notes == ()
    else:
        assert "depends on the frame" in notes[0]
        assert f"use the norm-wise '{remedy}'" in notes[0]
        assert notes[0] in str(ep.decompose(orbit, y, loss))


def test_targets_may_rotate_otherwise_than_their_output(matrix: Tensor) -> None:
    # Squares of a vector against three numbers that do not rotate: that depends on the frame.
    orbit, y = batch_orbit(matrix)
    assert ep.decompose(orbit, y).notes == ()
    orbit.schema = ep.Schema(SCHEMA.inputs, SCHEMA.outputs, targets={"forces": ep.fixed})
    assert "depends on the frame" in ep.decompose(orbit, y).notes[0]


def test_energies_in_a_column_are_not_compared_with_energies_in_a_row() -> None:
    plan = ep.RotationPlan("klein", 2)
    orbit = ep.Orbit.from_values(
        {"energy": torch.zeros(2, 4, 7)}, {"energy": torch.zeros(7)}, BOTH, plan, plan.rotations()
    )
    with pytest.raises(
        ep.EquivProbeError, match=r"target of shape \(7, 1\) for 'energy'; expected the prediction's \(7,\)"
    ):
        ep.decompose(orbit, torch.zeros(7, 1))


def test_one_target_for_several_outputs_is_ambiguous(matrix: Tensor) -> None:
    orbit, _ = both_orbit(matrix, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ep.EquivProbeError, match=r'targets=\{"energy": ...\}'):
        ep.decompose(orbit, torch.zeros(1))
