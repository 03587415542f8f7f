"""Forces beside the slope of the energy, and their sum: no structure pushes itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.diagnosis.comparison import root
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.estimation.verdict import BROKEN_FACTOR
from equiv_probe.report.formatting import number
from equiv_probe.representations.representation import scalar, vector
from equiv_probe.schema.usual_names import plain

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

SLOPE = "forces and energy"
DIRECTIONS = 3
OFF = 1e-2
"""Of the forces, that the gradient may be off by."""
_ENERGIES = {"energy", "energies", "free_energy", "energy_u0"}
NET = "net force"
PUSHED = 1e-3
"""Of the root mean square of all forces, as sums over atoms of random errors would be."""


@experiment(SLOPE, "physics", "Are the forces the gradient of the energy?", cost=4 * DIRECTIONS, needs_error=False)
def gradient(subject: Subject) -> Findings:
    """Differences of the energy along random directions, with two steps: what they disagree by is not counted."""
    energy, forces, places = _names(subject)
    points = subject.inputs[places].detach()
    generator = torch.Generator().manual_seed(subject.seed)
    spread = float(points.double().flatten(0, -2).std(0, unbiased=False).norm())
    step = spread * torch.finfo(subject.precision).eps ** 0.25
    defects, doubts, sizes = [], [], []
    for _ in range(DIRECTIONS):
        along = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points.device)
        along /= along.norm()
        fine, coarse = (_slope(subject, energy, places, size * step * along, size * step) for size in (1, 2))
        work = float((subject.identity[forces] * along).sum())
        defects.append((4 * fine - coarse) / 3 + work)
        doubts.append(fine - coarse)
        sizes.append(work)
    defect, doubt = (math.sqrt(sum(v * v for v in one) / DIRECTIONS) for one in (defects, doubts))
    size = float(subject.identity[forces].norm()) / math.sqrt(points.numel())
    if defect > max(OFF * size, 3 * doubt):
        sentence = (
            f"{forces!r} are not the gradient of {energy!r}: F + ∇E is {number(defect, 2)} per component, beside "
            f"forces of {number(size, 2)}"
        )
        advice = (
            "Look for a force head of its own, a detach() between energy and positions, a wrong sign or unit, and "
            "neighbours that appear at the cutoff. Molecular dynamics will not conserve the energy."
        )
        yield Finding(SLOPE, forces, sentence, advice, "beside", defect, doubt)


def _names(subject: Subject) -> tuple[str, str, str]:
    outputs = subject.schema.outputs
    energies = [n for n in subject.outputs if plain(n) in _ENERGIES and outputs[n] == scalar]
    places = [n for n, rep in subject.schema.inputs.items() if rep.is_affine]
    forces = [
        n
        for n in subject.outputs
        if plain(n) in {"force", "forces"}
        and outputs[n] == vector
        and places
        and subject.identity[n].shape == subject.inputs[places[0]].shape
    ]
    if not (energies and forces):
        raise NotApplicable("no energy beside forces among the outputs")
    return energies[0], forces[0], places[0]


def _slope(subject: Subject, energy: str, places: str, move: Tensor, length: float) -> float:
    """Central difference of the energy for a move of all places ``(N, 3)``, of this length."""
    points = subject.inputs[places].detach()
    ahead, behind = (
        float(subject.at({**subject.inputs, places: (points.double() + s * move).to(points)})[energy].sum())
        for s in (1, -1)
    )
    return (ahead - behind) / (2 * length)


@experiment(NET, "physics", "Do the forces add up to nothing?", cost=0, needs_error=False)
def net_force(subject: Subject) -> Findings:
    """Sums of forces over the atoms of each structure."""
    names = [n for n in subject.outputs if plain(n) in {"force", "forces"} and _is_forces(subject, n)]
    if not names:
        raise NotApplicable("no forces among the outputs, a vector for each atom")
    for name in names:
        forces = subject.identity[name]
        index = subject.inputs[subject.schema.batch].long() if subject.schema.batch is not None else None
        total = (
            forces.sum(-2) if index is None else forces.new_zeros(int(index.max()) + 1, 3).index_add_(0, index, forces)
        )
        atoms = forces.shape[-2] if index is None else len(forces) / len(total)
        net, size = root(total) / atoms**0.5, root(forces)
        if net > max(PUSHED * size, BROKEN_FACTOR * subject.rounding(name)):
            sentence = (
                f"{name!r} of a structure add up to {subject.amount(name, root(total))} per component, beside forces "
                f"of {number(size, 2)}: the structure pushes itself"
            )
            advice = (
                "Take forces as the gradient of an energy that depends on differences of positions, or subtract their "
                "mean."
            )
            yield Finding(NET, name, sentence, advice, "beside", root(total), subject.rounding(name))


def _is_forces(subject: Subject, name: str) -> bool:
    own: Tensor = subject.identity[name]
    return subject.schema.outputs[name] == vector and own.ndim >= 2 and own.shape[-2] > 1
