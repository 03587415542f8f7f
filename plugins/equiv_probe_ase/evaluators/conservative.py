r"""Are the forces the gradient of the energy? And what does it do to the total energy if they are not?

The defect ``d(x) = F(x) + ∇E(x)`` is zero for conservative forces. Along a unit direction u in the space of all
coordinates, five-point differences of the energy give ``u·d``: over uniformly random directions the mean of its square
is ``‖d‖² / 3N``, the mean square of a component. Along the velocity it is a power: the total energy of a trajectory
changes at the rate

    dH/dt = v·F + v·∇E = v·d(x),

and at no other, but for the integrator's error. **Broken rotation alone does not show here**: forces that are the
gradient of an energy which depends on the orientation conserve that energy. It changes the angular momentum instead.

The twirled model's forces and energy obey the same equation, and the twirl commutes with the gradient, so the power of
the twirled model is the mean of the powers at rotated copies that move along rotated velocities: what is left of the
drift when rotation is respected. The difference is the drift that broken rotation and non-conservative forces make
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import units
from scipy.stats import f as fisher

from equiv_probe.estimation.verdict import BROKEN_RELATIVE
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from equiv_probe_ase.evaluators.engine import Engine

    Vector = NDArray[np.float64]

STEPS = {torch.float64: 3e-3}
"""Root-mean-square displacement of an atom, Å, by precision: where rounding and curvature spoil the least."""
COARSE_STEP = 1e-2
DIRECTIONS = 2
"""Random directions at each structure."""
_STENCIL = np.array([-2.0, -1.0, 1.0, 2.0])
_SLOPE = np.array([1.0, -8.0, 8.0, -1.0]) / 12
_FOURTH = np.array([1.0, -4.0, -4.0, 1.0])


@dataclass(frozen=True)
class Slopes:
    """``u·d`` of one structure along some directions.

    Attributes:
        defects: ``(U,)``, eV/Å.
        noises: what rounding and curvature can make of each, from the fourth difference of the same energies
            ``(U,)``, eV/Å.
        forces: at the structure itself ``(N, 3)``, eV/Å.
    """

    defects: Vector
    noises: Vector
    forces: Vector


@dataclass(frozen=True)
class Defect:
    """How far the forces are from the energy's gradient, at one structure.

    Attributes:
        square: mean square of a component of ``d``, (eV/Å)²; one structure's few directions estimate it without bias.
        floor: mean square that rounding makes of it, (eV/Å)².
        size: mean square of a component of the forces, (eV/Å)².
        power: ``v·d``, eV/fs; NaN at rest.
        power_floor: what rounding makes of it, eV/fs.
        twirled_power: ``v·d`` of the twirled model, eV/fs; NaN if no rotated copies were given.
    """

    square: float
    floor: float
    size: float
    power: float
    power_floor: float
    twirled_power: float


def beyond_noise(square: float, floor: float, samples: int) -> bool:
    """Whether a mean square is more than its floor explains.

    Both are means of squares over ``samples`` directions; of equal noise their ratio follows Fisher's F, which exceeds
    this limit once in a thousand. Less than a factor of two is never counted: noise is not quite Gaussian.

    >>> beyond_noise(20.0, 1.0, 3), beyond_noise(20.0, 1.0, 9)
    (False, True)
    """
    return square > max(4.0, float(fisher.isf(1e-3, samples, samples))) * floor


def is_gradient(square: float, floor: float, size: float, samples: int) -> bool:
    """Whether forces are the gradient of the energy, but for rounding and for what no trajectory would show.

    The arguments are :class:`Defect`'s, or means of them over structures, and the number of directions in all.
    """
    return not (beyond_noise(square, floor, samples) and square > BROKEN_RELATIVE**2 * size)


def words_on(square: float, floor: float, size: float, samples: int) -> str:
    """What :func:`is_gradient` found in words, with the numbers; squares in (eV/Å)²."""
    almost = ", almost" if beyond_noise(square, floor, samples) else ""
    words = (
        f"the energy's gradient{almost}" if is_gradient(square, floor, size, samples) else "not the energy's gradient"
    )
    rms, noise, forces = (number(1e3 * math.sqrt(value)) for value in (square, floor, size))
    return (
        f"the forces are {words}: F + ∇E is {rms} meV/Å per component beside forces of {forces}, and rounding and "
        f"kinks of the energy make {noise} of it"
    )


def step_of(precision: torch.dtype) -> float:
    """Displacement of the differences, Å."""
    return STEPS.get(precision, COARSE_STEP)


def directions(count: int, atoms: Atoms, generator: np.random.Generator) -> Vector:
    """Uniformly random unit vectors in the space of all coordinates, ``(count, N, 3)``."""
    drawn = generator.standard_normal((count, len(atoms), 3))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=(1, 2), keepdims=True))


def slopes(
    engine: Engine, structures: Sequence[Atoms], along: Sequence[Vector], energy: str, step: float
) -> list[Slopes]:
    """Forces against differences of the energy, of each structure along its unit vectors ``(U, N, 3)``.

    ``energy`` is the property whose gradient they should be, ``step`` the root-mean-square displacement of an atom, Å.
    """
    centres = list(engine.run(list(structures), [energy, "forces"]))
    displaced = []
    for atoms, vectors in zip(structures, along, strict=True):
        for vector in vectors:
            for multiple in _STENCIL:
                moved = atoms.copy()
                moved.set_constraint()
                moved.positions += multiple * step * math.sqrt(len(atoms)) * vector
                displaced.append(moved)
    energies = iter([float(one[energy]) for one in engine.run(displaced, [energy])])
    found = []
    for centre, vectors in zip(centres, along, strict=True):
        forces = centre["forces"]
        length = step * math.sqrt(len(forces))
        # Differences from the middle: the fourth one needs them, and small numbers round less.
        table = np.array([[next(energies) for _ in _STENCIL] for _ in vectors]) - float(centre[energy])
        gradient = table @ _SLOPE / length
        # Of five energies with independent errors σ the fourth difference has √70 σ, and the slope 0.95 σ / length.
        sigma = np.abs(table @ _FOURTH) / math.sqrt(70)
        work = np.einsum("uni,ni->u", vectors, forces)
        found.append(Slopes(gradient + work, math.sqrt(130) / 12 * sigma / length, forces))
    return found


def defect(
    engine: Engine,
    atoms: Atoms,
    generator: np.random.Generator,
    *,
    energy: str = "energy",
    precision: torch.dtype = torch.float64,
    count: int = DIRECTIONS,
    rotated: Sequence[Atoms] = (),
) -> Defect:
    """Measure the defect at one structure.

    Args:
        engine: evaluates structures.
        atoms: with momenta, if a power is wanted.
        generator: of the random directions.
        energy: the property that the forces should be the gradient of.
        precision: of the model.
        count: random directions.
        rotated: copies of ``atoms`` rotated by Haar-distributed rotations, with their momenta.

    Returns:
        The defect; 4 (``count`` + 1) + 1 evaluations, and 5 for each rotated copy.
    """
    step = step_of(precision)
    moving = [_unit_velocity(one) for one in (atoms, *rotated)]
    moves = moving[0][1] > 0
    random = directions(count, atoms, generator)
    own = np.concatenate([random, moving[0][0][None]]) if moves else random
    copies = list(rotated) if moves else []
    along = [own, *(unit[None] for unit, _ in moving[1 : 1 + len(copies)])]
    found = slopes(engine, [atoms, *copies], along, energy, step)
    speed = moving[0][1]
    return Defect(
        square=float(np.mean(found[0].defects[:count] ** 2)),
        floor=float(np.mean(found[0].noises[:count] ** 2)),
        size=float(np.mean(found[0].forces ** 2)),
        power=speed * float(found[0].defects[-1]) if moves else math.nan,
        power_floor=speed * float(found[0].noises[-1]) if moves else math.nan,
        twirled_power=speed * float(np.mean([one.defects[0] for one in found[1:]])) if copies else math.nan,
    )


def _unit_velocity(atoms: Atoms) -> tuple[Vector, float]:
    """Direction of motion in the space of all coordinates ``(N, 3)``, and the speed along it, Å/fs."""
    velocities = atoms.get_velocities() * units.fs
    speed = float(np.linalg.norm(velocities))
    return (velocities / speed if speed > 0 else velocities), speed
