"""The adapter conformance suite: does a plugin rotate, batch and rotate back as the core does?

A plugin describes itself by an :class:`AdapterCase` and calls :func:`check_adapter` in a test. The suite wraps planted
models, whose ``L_equiv`` and twirl are known in closed form, as models of the framework, and lets the plugin
evaluate their orbits on its own path. A plan of two icosahedral replicates integrates these models exactly, so there
are no statistical tolerances; what is left is rounding, in the framework's precision.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from equiv_probe.estimation.decomposition import decompose
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.testing.planted import CentralForces, PlantedModel, QuadraticEnergy

if TYPE_CHECKING:
    from equiv_probe.estimation.orbit import Orbit

Field = Callable[[Tensor], dict[str, Tensor]]
"""Positions ``(..., N, 3)`` to ``energy`` ``(...)``, ``forces`` ``(..., N, 3)`` and ``stress`` ``(..., 6)``."""

EXACT_PLAN = RotationPlan("icosahedral", replicates=2, seed=7)
"""Degree 5: exact for the planted models, whose squared errors are of degree 4."""


class AdapterCase(Protocol):
    """What a plugin says about itself, so that the suite can drive it."""

    def structures(self) -> Sequence[Any]:
        """At least two of the framework's own structures, of different sizes, none of them a single atom."""

    def positions(self, structure: Any) -> Tensor:
        """Positions of a structure, ``(N, 3)``, as the model sees them when nothing is rotated."""

    def orbit(self, field: Field, structure: Any, plan: RotationPlan) -> Orbit:
        """The orbit of one structure, evaluated on the framework's own path.

        Wrap ``field`` as a model of the framework; let the plugin rotate, stack, evaluate and rotate back as it does
        for users. Outputs are named as in ``field``; leave out those that the framework does not have.
        """

    def state(self, structure: Any) -> Any:
        """A snapshot of everything in the structure that could change, comparable with ``==``: nested lists, say."""


def check_adapter(case: AdapterCase, tolerance: float = 1e-4) -> None:
    """Run every check on every structure of the case.

    Args:
        case: the plugin's.
        tolerance: of every comparison, relative to the size of the output. The default allows float32 models and
            coordinates of tens of Å; use 1e-9 where the framework computes in float64.

    Raises:
        AssertionError: says which check failed on which structure, what was found and what was expected.
    """
    structures = case.structures()
    counts = [len(case.positions(structure)) for structure in structures]
    require(
        len(set(counts)) >= 2 and min(counts, default=0) >= 2, "structures", counts, "at least two sizes, all above 1"
    )
    for index in range(len(structures)):
        check_closed_form(case, index, tolerance)
        check_every_rotation(case, index, tolerance)
        check_equivariant(case, index, tolerance)
        check_untouched(case, index)
        check_repeatable(case, index, tolerance)


def check_closed_form(case: AdapterCase, index: int, tolerance: float) -> None:
    """``L_equiv`` and the twirl of an anisotropic energy, its forces and a stress are the closed-form ones."""
    structure, model = case.structures()[index], anisotropic()
    positions = case.positions(structure).double()
    orbit = case.orbit(model, structure, EXACT_PLAN)
    require(bool(orbit.identity), f"outputs (structure {index})", sorted(orbit.identity), "energy, forces or stress")
    # Rounding may not reach beyond the tolerance; the floors of a plugin are checked by its own tests.
    found = decompose(orbit).parts
    twirl, equiv, size = model.twirl(positions), model.equiv(positions), sizes(model, positions)
    for name in orbit.identity:
        require(name in twirl, f"outputs (structure {index})", name, f"one of {sorted(twirl)}")
        where = f"{name} of structure {index}"
        close(orbit.means[name].mean(0), twirl[name], size[name], tolerance, f"closed-form twirl, {where}")
        close(
            torch.tensor(found[name].equiv), torch.tensor(equiv[name]), size[name] ** 2, tolerance,
            f"closed-form L_equiv, {where}",
        )  # fmt: skip


def check_every_rotation(case: AdapterCase, index: int, tolerance: float) -> None:
    """Every replicate mean, and every kept prediction, equals the planted model's, rotated one copy at a time."""
    structure, model = case.structures()[index], anisotropic()
    positions = case.positions(structure).double()
    for plan in (RotationPlan("haar", replicates=5, seed=3), EXACT_PLAN):  # below and beyond one batch
        orbit = case.orbit(model, structure, plan)
        rotations = orbit.rotations.double().cpu()
        shape = (plan.R, plan.n, 3, 3)
        require(tuple(rotations.shape) == shape, f"rotations of {plan}", tuple(rotations.shape), f"shape {shape}")
        rotated = [model(positions @ g.mT) for g in rotations.reshape(-1, 3, 3)]
        for name in orbit.identity:
            flat = torch.stack([one[name] for one in rotated])
            reference = model.outputs[name].rotate_back(flat, rotations.reshape(-1, 3, 3))
            reference = reference.reshape(plan.R, plan.n, *flat.shape[1:])
            size, where = sizes(model, positions)[name], f"{name} of structure {index}, {plan}"
            close(orbit.identity[name], model(positions)[name], size, tolerance, f"unrotated prediction, {where}")
            mean = torch.einsum("n,rn...->r...", plan.weights, reference)
            close(orbit.means[name], mean, size, tolerance, f"means of replicates, {where}")
            if orbit.values is not None:
                close(orbit.values[name], reference, size, tolerance, f"prediction at every rotation, {where}")


def check_equivariant(case: AdapterCase, index: int, tolerance: float) -> None:
    """An exactly equivariant model has an orbit without spread, up to rounding."""
    structure, model = case.structures()[index], CentralForces()
    positions = case.positions(structure).double()
    orbit = case.orbit(model, structure, EXACT_PLAN)
    for name, part in decompose(orbit).parts.items():
        found, size = math.sqrt(max(part.equiv, 0.0)), sizes(model, positions)[name]
        limit = tolerance * size
        require(found <= limit, f"equivariant model, {name} of structure {index}", found, f"√L_equiv ≤ {limit:.3g}")


def check_untouched(case: AdapterCase, index: int) -> None:
    """The structure and the global random states are as they were."""
    structure = case.structures()[index]
    before, random_before = case.state(structure), _random_states()
    case.orbit(anisotropic(), structure, EXACT_PLAN)
    require(case.state(structure) == before, f"structure {index} untouched", case.state(structure), before)
    for name, state in _random_states().items():
        require(state == random_before[name], f"global random state of {name} untouched", "it moved", "no change")


def check_repeatable(case: AdapterCase, index: int, tolerance: float) -> None:
    """The same plan gives the same rotations and the same orbit again, whatever was evaluated in between."""
    structures, model = case.structures(), anisotropic()
    first = case.orbit(model, structures[index], EXACT_PLAN)
    case.orbit(CentralForces(), structures[index - 1], RotationPlan("klein", replicates=2, seed=99))
    second = case.orbit(model, structures[index], EXACT_PLAN)
    same = torch.equal(first.rotations, second.rotations)
    require(same, f"repeatable, rotations of structure {index}", "others", "the same plan, the same rotations")
    size = sizes(model, case.positions(structures[index]).double())
    for name, means in first.means.items():
        close(second.means[name], means, size[name], tolerance, f"repeatable, {name} of structure {index}")


def anisotropic() -> QuadraticEnergy:
    """A planted model with no symmetry at all, so that a swapped axis, a transposed rotation or a wrong order shows."""
    matrix = torch.tensor([[0.9, 0.3, -0.2], [0.3, 0.5, 0.4], [-0.2, 0.4, 0.1]], dtype=torch.float64)
    stress = torch.tensor([[0.7, -0.3, 0.5], [-0.3, 0.2, 0.1], [0.5, 0.1, -0.4]], dtype=torch.float64)
    return QuadraticEnergy(matrix, stress)


def sizes(model: PlantedModel, positions: Tensor) -> dict[str, float]:
    """Largest component of every output, against which rounding is measured."""
    return {name: float(value.abs().max()) for name, value in model(positions).items()}


def _random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is what is checked
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"], numpy_state["has_gauss"]),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states


def close(found: Tensor, expected: Tensor, size: float, tolerance: float, check: str) -> None:
    """Raise AssertionError unless two tensors agree to the tolerance, relative to ``size``."""
    found, expected = found.double().cpu(), expected.double().cpu()
    require(found.shape == expected.shape, check, f"shape {tuple(found.shape)}", f"shape {tuple(expected.shape)}")
    error = float((found - expected).abs().max())
    # Written so that NaN fails.
    require(error <= tolerance * size, check, f"an error of {error:.3g}", f"at most {tolerance:g} × {size:.3g}")


def require(passed: bool, check: str, found: object, expected: object) -> None:
    """Raise AssertionError that says which check failed."""
    if not passed:
        raise AssertionError(f"adapter conformance, {check}: found {found}, expected {expected}")
