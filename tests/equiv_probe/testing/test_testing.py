"""Planted models are what their closed forms say, and the conformance suite catches adapters that are wrong."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe import testing
from equiv_probe.testing import AdapterCase, Field, PlantedModel, check_adapter

AXIS = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)


def models(matrix: Tensor) -> dict[str, PlantedModel]:
    return {
        "field": testing.LinearField(matrix),
        "denoiser": testing.LinearDenoiser(matrix),
        "quadratic": testing.QuadraticEnergy(matrix, matrix @ matrix.mT),
        **{f"harmonic {degree}": testing.HarmonicEnergy(degree, AXIS) for degree in (1, 2, 3, 4, 5)},
        "central": testing.CentralForces(),
        "handed": testing.HandedModel(),
    }


NAMES = list(models(torch.eye(3)))


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_against_quadrature(name: str, matrix: Tensor, positions: Tensor, *, improper: bool) -> None:
    # Written out here, without the code under test: degree 11 integrates squares of degree 5 exactly.
    model = models(matrix)[name]
    plan = ep.RotationPlan("lebedev-11", 1, improper=improper)
    g, center = plan.rotations()[0], positions.mean(0)
    outputs = model((positions - center) @ g.mT + center)
    for output, values in outputs.items():
        h = model.outputs[output].rotate_back(values, g, center)
        twirl = torch.einsum("n,n...->...", plan.weights, h)
        expected = model.twirl(positions, improper=improper)[output]
        size = max(float(h.abs().max()), 1.0)  # l = 1 about the centroid is zero
        assert float((twirl - expected).abs().max()) < 1e-12 * size, output
        spread = float(torch.einsum("n,n...->...", plan.weights, (h - twirl).square()).mean())
        assert abs(spread - model.equiv(positions, improper=improper)[output]) < 1e-12 * size**2, output
        if not improper:
            assert abs(sum(model.power(positions)[output].values()) - spread) < 1e-12 * size**2


@pytest.mark.parametrize("name", NAMES)
def test_planted_models_do_not_care_where_or_in_what_batch(name: str, matrix: Tensor, positions: Tensor) -> None:
    model, shift = models(matrix)[name], torch.tensor([5.0, -3.0, 2.0], dtype=torch.float64)
    stack = torch.stack([positions, positions.flip(0), positions + shift])
    for output, values in model(stack).items():
        for k in range(3):
            assert float((values[k] - model(stack[k])[output]).abs().max()) < 1e-11
        moved = values[2] - shift if isinstance(model.outputs[output], type(ep.point)) else values[2]
        assert float((moved - values[0]).abs().max()) < 1e-11
        assert model(positions.float())[output].dtype == torch.float32


def test_quadratic_and_central_forces_are_gradients(matrix: Tensor, positions: Tensor) -> None:
    for model in (testing.QuadraticEnergy(matrix), testing.CentralForces()):
        x = positions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)["energy"], x)
        assert float((gradient + model(positions)["forces"]).abs().max()) < 1e-12


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 6])
def test_solid_harmonics_are_legendre_polynomials(degree: int, positions: Tensor) -> None:
    from scipy.special import eval_legendre

    x = (positions - positions.mean(0)).numpy()
    r = np.linalg.norm(x, axis=-1)
    expected = (r**degree * eval_legendre(degree, x @ (AXIS / AXIS.norm()).numpy() / r)).sum()
    found = float(testing.HarmonicEnergy(degree, AXIS)(positions)["energy"])
    assert abs(found - expected) < 1e-11 * r.max() ** degree


class Molecule:
    """A toy framework: structures are objects, batches are lists of them, models answer one dict per structure."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions = positions
        self.notes: dict[str, Any] = {}


def run_batch(model: Field, batch: list[Molecule]) -> list[dict[str, np.ndarray]]:
    stacked = torch.from_numpy(np.stack([molecule.positions for molecule in batch]))
    outputs = model(stacked)
    return [{name: values[k].numpy() for name, values in outputs.items()} for k in range(len(batch))]


@dataclass
class ToyAdapter:
    """An adapter for the toy framework; every flag breaks it in one way."""

    molecules: list[Molecule] = field(
        default_factory=lambda: [Molecule(np.random.default_rng(n).normal(size=(n, 3)) + n) for n in (3, 5)]
    )
    batch: int = 16
    rotate: str = "right"
    pull_back: bool = True
    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    voigt: str = "xx yy zz yz xz xy"
    loses_last_batch: bool = False
    swaps_rows: bool = False
    moves_structure: bool = False
    moves_random_state: str = ""
    noise: float = 0.0
    ignores_seed: bool = False
    single: bool = False
    calls: int = 0

    def structures(self) -> list[Molecule]:
        return self.molecules

    def positions(self, structure: Molecule) -> Tensor:
        return torch.from_numpy(structure.positions)

    def state(self, structure: Molecule) -> Any:
        return structure.positions.tolist(), dict(structure.notes)

    def orbit(self, field: Field, structure: Molecule, plan: ep.RotationPlan) -> ep.Orbit:
        self.calls += 1
        rotations = replace(plan, seed=self.calls).rotations() if self.ignores_seed else plan.rotations()
        copies = [self._rotated(structure, g) for g in rotations.reshape(-1, 3, 3)]
        outputs: list[dict[str, np.ndarray]] = []
        for start in range(0, len(copies), self.batch):
            part = run_batch(field, copies[start : start + self.batch])
            if self.loses_last_batch and start + self.batch >= len(copies) > self.batch:
                part = outputs[: len(part)]
            outputs += part[::-1] if self.swaps_rows else part
        if self.moves_structure:
            structure.notes["energy"] = self.calls
        if self.moves_random_state == "torch":
            torch.rand(1)
        elif self.moves_random_state == "numpy":
            np.random.rand()  # noqa: NPY002 - the sabotage
        elif self.moves_random_state == "python":
            random.random()
        schema = ep.Schema(
            {"positions": ep.point},
            {"energy": ep.scalar, "forces": ep.vector, "stress": ep.voigt(self.voigt)},
        )
        values, identity = {}, {}
        unrotated = run_batch(field, [copy.deepcopy(structure)])[0]
        for name in self.outputs:
            raw = torch.stack([torch.from_numpy(np.asarray(a[name])) for a in outputs]).double()
            raw = raw + self.noise * torch.randn(raw.shape, generator=torch.Generator().manual_seed(self.calls))
            back = schema.outputs[name].rotate_back(raw, rotations.reshape(-1, 3, 3)) if self.pull_back else raw
            values[name] = back.reshape(plan.R, plan.n, *raw.shape[1:])
            identity[name] = torch.from_numpy(np.asarray(unrotated[name])).double()
        return ep.Orbit.from_values(values, identity, schema, plan, rotations)

    def _rotated(self, structure: Molecule, g: Tensor) -> Molecule:
        if self.rotate == "not":
            return copy.deepcopy(structure)
        matrix = g.numpy() if self.rotate == "transposed" else g.numpy().T
        dtype = np.float32 if self.single else np.float64
        return Molecule((structure.positions.astype(dtype) @ matrix.astype(dtype)).astype(dtype))


def test_a_right_adapter_passes() -> None:
    adapter: AdapterCase = ToyAdapter()
    check_adapter(adapter, tolerance=1e-9)
    check_adapter(ToyAdapter(batch=7, outputs=("energy",)), tolerance=1e-9)
    check_adapter(ToyAdapter(single=True), tolerance=1e-4)


@pytest.mark.parametrize(
    ("sabotage", "check"),
    [
        ({"rotate": "not"}, "closed-form"),
        ({"rotate": "transposed"}, "closed-form twirl, forces"),
        ({"pull_back": False}, "closed-form twirl, forces"),
        ({"voigt": "xx yy zz xy yz xz", "outputs": ("stress",)}, "stress"),
        ({"loses_last_batch": True, "outputs": ("energy",)}, "energy"),
        ({"swaps_rows": True, "outputs": ("energy",)}, "energy of structure 0"),
        ({"moves_structure": True}, "structure 0 untouched"),
        ({"moves_random_state": "torch"}, "random state of torch untouched"),
        ({"moves_random_state": "numpy"}, "random state of numpy untouched"),
        ({"moves_random_state": "python"}, "random state of python untouched"),
        ({"noise": 0.1}, "closed-form"),
        ({"ignores_seed": True}, "repeatable, rotations"),
        ({"molecules": []}, "structures"),
        ({"molecules": [Molecule(np.ones((1, 3))), Molecule(np.ones((2, 3)))]}, "structures"),
        ({"single": True}, "closed-form"),  # in float32, held to the tolerance of float64
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_sabotage_is_caught_and_named(sabotage: dict[str, Any], check: str) -> None:
    with pytest.raises(AssertionError, match=f"adapter conformance, .*{check}.*: found .*, expected ") as caught:
        check_adapter(ToyAdapter(**sabotage), tolerance=1e-9)
    assert "\n" not in str(caught.value)


def test_rotating_without_pulling_back_shows_even_for_an_equivariant_model() -> None:
    with pytest.raises(AssertionError, match="equivariant model, forces of structure 1"):
        testing.check_equivariant(ToyAdapter(pull_back=False), 1, 1e-4)
    testing.check_equivariant(ToyAdapter(), 1, 1e-9)


def test_noise_below_the_spread_is_caught_by_the_equivariant_model() -> None:
    with pytest.raises(AssertionError, match="equivariant model"):
        testing.check_equivariant(ToyAdapter(noise=1e-3), 0, 1e-4)


def test_nan_fails() -> None:
    with pytest.raises((AssertionError, ep.EquivProbeError)):
        check_adapter(ToyAdapter(noise=float("nan")))
