"""One structure's numbers, as plain data for the journal and the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from equiv_probe import EquivProbeError, decompose
from equiv_probe.estimation.heavy_tails import effective_number
from equiv_probe.estimation.measurement import Objective, equiv_by_structure
from equiv_probe.estimation.noise import pairing_score
from equiv_probe.estimation.spectrum import characters, spectrum, torque_bound
from equiv_probe.estimation.variogram import Pairs, variogram
from equiv_probe.results.report import without_nan
from equiv_probe_ase.structures.loading import reference_values
from equiv_probe_ase.structures.orientations import distinct_orientations
from equiv_probe_ase.structures.reflections import Hands, spread_of_proper, words_on

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.decomposition import Decomposition
    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.orbit import Orbit
    from equiv_probe_ase.auditing.job import Job
    from equiv_probe_ase.structures.quantities import Quantity

WORST_ATOMS = 5
MAX_DEGREE = 6
"""Of the angular spectrum."""


class Between(NamedTuple):
    """What lies between two rotations of an orbit: the same for all its outputs."""

    pairs: Pairs
    characters: Tensor


@torch.inference_mode()
def record(job: Job, loss: AnyLoss) -> dict[str, Any]:
    """Everything that is reported about one structure; ``loss`` compares with reference values.

    Raises:
        EquivProbeError: an output is not finite.
    """
    orbit, atoms = job.orbit(), job.structure.atoms
    between = None if orbit.plan.improper else Between(Pairs.of(orbit), characters(orbit, MAX_DEGREE))
    quantities = {name: _quantity(job, orbit, quantity, loss, between) for name, quantity in job.quantities.items()}
    if "energy" in quantities and "forces" in quantities and not atoms.pbc.any():
        quantities["energy"]["torque_bound"] = _torque_bound(job, orbit)
    found: dict[str, Any] = without_nan(
        {
            "key": job.structure.key,
            "index": job.structure.index,
            "name": job.structure.name,
            "formula": atoms.get_chemical_formula(),
            "n_atoms": len(atoms),
            "rotations": orbit.rotations.shape[0] * orbit.rotations.shape[1],
            "orientations": distinct_orientations(atoms, orbit.rotations, job.rotator.arrows_beside()),
            "quantities": quantities,
        }
    )
    return found


def _quantity(job: Job, orbit: Orbit, quantity: Quantity, loss: AnyLoss, between: Between | None) -> dict[str, Any]:
    name = quantity.name
    single = orbit.only(name)
    found = decompose(single)
    kept = single.kept(name)
    deviation = kept - torch.einsum("n,rn...->...", orbit.weights, kept) / len(kept)
    by_rotation = deviation.flatten(0, 1).reshape(kept.shape[0] * kept.shape[1], -1).square().mean(-1)
    squares = torch.einsum("n,rn...->...", orbit.weights, kept.square()) / len(kept)
    size = float(squares.mean()) - found.equiv if quantity.has_zero else math.nan
    values: dict[str, Any] = {
        "rms": math.sqrt(max(found.equiv, 0.0)),
        "equiv": found.equiv,
        "equiv_stderr": found.equiv_stderr,
        "equiv_interval": list(found.equiv_interval),
        "weight": float(found.per_structure["weight"]),
        "size": size,
        "relative": math.sqrt(max(found.equiv, 0.0) / size) if size > 0 else math.nan,
        "floor": math.sqrt(max(found.floor, 0.0)),
        "nondeterminism": math.sqrt(max(found.nondeterminism, 0.0)),
        "resolution": job.resolution[name],
        "plain": _mark(job.identity[name]),
        "effective_rotations": effective_number(by_rotation.numpy()),
        **_control_readings(job, name),
        **_noise(single, name, found.noise),
        "notes": list(found.notes),
        "largest": float(_magnitudes(deviation, quantity).max()),
        "over_rotations": _short(by_rotation.sqrt().tolist()),
    }
    reflected = []
    if job.plan.improper:
        reflected = _on_reflection(kept.flatten(0, 1), orbit.rotations.reshape(-1, 3, 3), quantity, found.equiv)
    values["notes"] += reflected
    if quantity.per_atom:
        values |= _by_atom(job, single)
    if between is not None:
        values["angular"] = _angular(single, name, between)
    try:
        target = reference_values(job.structure, quantity)
        known = None if target is None else decompose(single, torch.from_numpy(target), loss)
    except (EquivProbeError, TypeError, ValueError) as error:  # labels come from files
        reason = " ".join(str(error).split())[:200]
        values["notes"].append(f"the reference {name} of {job.structure.name} was not used: {reason}")
        return values
    if known is not None:
        values["notes"] = [*known.notes, *reflected]
        values["labelled"] = _labelled(known)
        if quantity.extensive and target is not None:
            values["labelled"]["residual"] = float(orbit.means[name].mean()) - float(target)
    return values


def _mark(values: Tensor) -> list[float]:
    """Two numbers by which a later run sees whether the model still gives the same for the structure as it is."""
    flat = values.double().flatten()
    return [float(flat.mean()), float(flat.square().mean().sqrt())]


def _control_readings(job: Job, name: str) -> dict[str, Any]:
    """What the controls of one structure read, in the quantity's unit; None where one was not run."""
    copies = {"jolted": job.jolts, "deformed": job.deformed, "moved": job.moved}
    return {
        "explained": job.explained(name),
        "explained_at_moved": job.explained_at_moved(name),
        **{kind: job.off(rows, name) if name in rows else None for kind, rows in copies.items()},
        "unmoved": job.unmoved[name],
    }


def _noise(orbit: Orbit, name: str, variance: float) -> dict[str, Any]:
    """What varies from call to call: standard deviation of one call, and whether the pairing of two calls matters."""
    if name not in orbit.half_differences:
        return {}
    mean, half = (values.flatten(0, 1) for values in (orbit.kept(name), orbit.half_differences[name]))
    return {"noise": math.sqrt(max(variance, 0.0)), "pairing": list(pairing_score(mean + half, mean - half))}


def _on_reflection(values: Tensor, rotations: Tensor, quantity: Quantity, equiv: float) -> list[str]:
    """An error that is a change of sign between the two hands, and what there is without it."""
    hands = Hands()
    hands.add(values, rotations)
    if not hands.are_opposite:
        return []
    both, proper = math.sqrt(max(equiv, 0.0)), spread_of_proper(values, rotations)
    return [
        f"{words_on(quantity.name)}: over rotations and reflections it is off by {both:.2g} {quantity.unit}, over "
        f"rotations alone by {proper:.2g} {quantity.unit}"
    ]


def _labelled(known: Decomposition) -> dict[str, Any]:
    """The decomposition against reference values."""
    own = known.per_structure
    return {
        **{key: float(own[key]) for key in ("total", "mean", "equiv", "weight")},
        "share_stderr": known.share_stderr,
        "share_interval": list(known.share_interval),
        "equiv_stderr": known.equiv_stderr,
        "equiv_interval": list(known.equiv_interval),
        "total_stderr": known.total_stderr,
        "mean_stderr": known.mean_stderr,
        "unit": known.unit,
    }


def _magnitudes(deviation: Tensor, quantity: Quantity) -> Tensor:
    """Norms of each atom's (or the structure's) deviation, ``(R, n, ...)``."""
    event = len(quantity.representation.event_shape)
    return deviation.flatten(-event).norm(dim=-1) if event else deviation.abs()


def _by_atom(job: Job, orbit: Orbit) -> dict[str, Any]:
    """Sums by element, the worst atoms, and every atom's root error."""
    (each,) = Objective.of(orbit, None, "mse", structures="leading", weights=None, mask=None).values()
    per_atom = equiv_by_structure(orbit, each)
    symbols = job.structure.atoms.get_chemical_symbols()
    elements: dict[str, list[float]] = {}
    for symbol, value in zip(symbols, per_atom.tolist(), strict=True):
        entry = elements.setdefault(symbol, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1
    worst = per_atom.argsort(descending=True)[:WORST_ATOMS].tolist()
    ranked = [{"atom": i, "element": symbols[i], "rms": math.sqrt(max(float(per_atom[i]), 0.0))} for i in worst]
    roots = per_atom.clamp(min=0).sqrt().tolist()
    return {"elements": elements, "worst_atoms": ranked, "per_atom": _short(roots)}


def _short(numbers: list[float]) -> list[float]:
    """Four digits: what is drawn needs no more, and the journal keeps it for every structure."""
    return [float(f"{x:.4g}") for x in numbers]


def _angular(orbit: Orbit, name: str, between: Between) -> dict[str, Any]:
    """At which angular degrees the orbit varies, and how outputs at two rotations differ: what kind of error it is."""
    power = spectrum(orbit, MAX_DEGREE, between=between.characters)
    pairs = variogram(orbit, name, between.pairs)
    return {
        "power": _short(list(power.power[1:])),
        "power_stderr": _short(list(power.stderr[1:])),
        "rest": power.rest,
        "by_angle": [_short(pairs.by_angle.tolist()), _short(pairs.pairs_by_angle.tolist())],
        "by_axis": [_short(pairs.by_axis.tolist()), _short(pairs.pairs_by_axis.tolist())],
    }


def _torque_bound(job: Job, orbit: Orbit) -> float:
    """``√(½⟨τ²⟩)`` in meV/atom: how much the net torque allows the energy to vary, if the forces conserve it."""
    forces = orbit.kept("forces")
    arms = torch.from_numpy(job.structure.atoms.positions - job.rotator.pivot())
    # Forces that were rotated back, on arms that were not rotated: a torque rotates with the frame and keeps its size.
    torque = torch.linalg.cross(arms.expand_as(forces), forces).sum(-2)
    return math.sqrt(torque_bound(torque, orbit.weights)) / len(arms)
