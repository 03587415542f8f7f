"""From records of structures to one report."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from equiv_probe.estimation.estimates import EQUIV, TOTAL, WEIGHT, Sums
from equiv_probe.estimation.heavy_tails import HEAVY, bootstrap_t, effective_number
from equiv_probe.results.report import Labelled, Measured
from equiv_probe_ase.auditing.angular import Kinds
from equiv_probe_ase.auditing.judgement import floor_of, has_no_orientation, judged, root_mean_square, varies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.auditing.about import Unit
    from equiv_probe_ase.structures.quantities import Quantity

    Record = Mapping[str, Any]

WORST_ATOMS = 10


def blind_spots(plan: RotationPlan) -> list[str]:
    """What no measurement with this plan can see; what its controls did not look at comes with them."""
    return [
        "errors that respect rotation: a wrong sign of the stress, a wrong but equivariant model",
        "forces that are not the gradient of the energy",
        "broken permutation symmetry"
        if plan.improper
        else "broken reflection (improper rotations) or permutation symmetry",
    ]


HEAVY_PARTS = frozenset({"per_atom", "worst_atoms", "over_rotations", "angular", "elements", "notes"})
"""What a record holds of a quantity that is summed up, and not kept of every structure."""


class Totals:
    """One quantity's sums and extremes over structures, as they come: memory does not grow with what they are of."""

    def __init__(self) -> None:
        self.deviations = array("d")
        self.elements: dict[str, list[float]] = {}
        self.worst_atoms: list[dict[str, Any]] = []
        self.kinds = Kinds()
        self.notes: list[str] = []

    def add(self, record: Record, values: Mapping[str, Any]) -> None:
        """Take in what was read on one structure."""
        self.deviations.extend(values["over_rotations"])
        self.kinds.add(values)
        self.notes = self.notes or list(values["notes"])  # the first structure that has any speaks for all
        for element, (total, count) in values.get("elements", {}).items():
            entry = self.elements.setdefault(element, [0.0, 0.0])
            entry[0] += total
            entry[1] += count
        atoms = [{"structure": record["name"], **atom} for atom in values.get("worst_atoms", [])]
        self.worst_atoms = sorted([*self.worst_atoms, *atoms], key=lambda atom: -atom["rms"])[:WORST_ATOMS]

    def by_element(self) -> dict[str, dict[str, float]]:
        """Root error and number of the atoms of each element."""
        return {
            e: {"rms": math.sqrt(max(total / n, 0.0)), "atoms": n} for e, (total, n) in sorted(self.elements.items())
        }


def collected(records: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Totals]]:
    """Of every record what a report keeps of each structure, and by quantity what it says of all together."""
    kept, totals = [], dict[str, Totals]()
    for record in records:
        for name, values in record["quantities"].items():
            totals.setdefault(name, Totals()).add(record, values)
        quantities = {
            name: {key: value for key, value in values.items() if key not in HEAVY_PARTS}
            for name, values in record["quantities"].items()
        }
        kept.append({**{k: v for k, v in record.items() if k != "geometry"}, "quantities": quantities})
    return kept, totals


def summarise(
    records: Sequence[Record], totals: Mapping[str, Totals], units: Mapping[str, Unit | Quantity], loss: str
) -> list[Measured]:
    """One measurement per quantity that any structure has."""
    found = []
    for name, unit in units.items():
        having = [record for record in records if name in record["quantities"]]
        if having:
            one = _measured(name, unit.unit, having, totals[name], loss)
            alone = all(map(has_no_orientation, having))
            found.append(unmeasured(one, "rotation leaves these structures as they are") if alone else one)
    return found


def unmeasured(one: Measured, why: str) -> Measured:
    """A quantity that, if it looks invariant, does so for another reason than that it is."""
    if one.verdict != "round-off":
        return one
    return msgspec.structs.replace(one, verdict="unknown", sentence=f"not measured: {why}")


def _measured(name: str, unit: str, records: Sequence[Record], totals: Totals, loss: str) -> Measured:
    values = [record["quantities"][name] for record in records]
    equiv = _column(values, "equiv")
    weight = _column(values, "weight")
    sums = Sums.of(torch.from_numpy(equiv), torch.full((len(equiv),), math.nan).double(), torch.from_numpy(weight))
    pooled = sums.estimate(EQUIV, WEIGHT) if varies(values) else sums.equiv
    low, high, stderr = pooled.low, pooled.high, pooled.stderr
    if effective_number(equiv * weight) < HEAVY * len(values) and not varies(values):
        low, high = bootstrap_t(equiv * weight, weight)
    if len(values) == 1:  # one structure: its own interval, from the replicates
        low, high = _floats(values[0]["equiv_interval"])
        stderr = _column(values, "equiv_stderr")[0]
    rms = math.sqrt(max(pooled.value, 0.0))

    floor, nondeterminism = floor_of(values), root_mean_square(values, "nondeterminism")
    if varies(values):
        nondeterminism = root_mean_square(values, "noise")
    size = float((_column(values, "size") * weight).sum() / weight.sum())
    relative = rms / math.sqrt(size) if size > 0 else math.nan
    says = judged(values, pooled.value, float(stderr), relative, unit)
    roots = _column(values, "rms")
    return Measured(
        name=name,
        unit=unit,
        structures=len(values),
        rms=rms,
        rms_interval=(math.sqrt(max(low, 0.0)), math.sqrt(max(high, 0.0))) if math.isfinite(low) else (math.nan,) * 2,
        equiv=pooled.value,
        equiv_stderr=float(stderr),
        relative=relative,
        floor=floor,
        nondeterminism=nondeterminism,
        verdict=says.kind,
        sentence=says.sentence,
        over_structures={**_quantiles(roots), "worst": records[int(roots.argmax())]["name"]},
        over_rotations=_quantiles(np.array(totals.deviations)),
        largest=float(_column(values, "largest").max()),
        by_element=totals.by_element(),
        worst_atoms=totals.worst_atoms,
        labelled=_labelled(values, loss),
        angular=totals.kinds.pooled(),
    )


def _column(values: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array(_floats(value.get(key) for value in values))


def _quantiles(values: np.ndarray) -> dict[str, Any]:
    return {f"q{q}": float(np.quantile(values, q / 100)) for q in (5, 25, 50, 75, 95)} | {"max": float(values.max())}


def _labelled(values: Sequence[Mapping[str, Any]], loss: str) -> Labelled | None:
    """Delta method over structures; for a single one, its own error bars from the replicates."""
    known = [value["labelled"] for value in values if value.get("labelled")]
    if not known:
        return None
    columns = [torch.from_numpy(_column(known, key)) for key in ("equiv", "total", "weight")]
    sums = Sums.of(*columns)
    total, mean, equiv, share = sums.total, sums.mean, sums.equiv, sums.share
    if varies(values):  # nothing may be left of what noise was subtracted from: no scale that ends at zero
        equiv, share = sums.estimate(EQUIV, WEIGHT), sums.estimate(EQUIV, TOTAL)
    own = known[0]

    def bars(key: str, pooled: Estimate) -> dict[str, Any]:
        """Value and error bars of one of the four."""
        if len(known) > 1:
            return {key: pooled.value, f"{key}_stderr": pooled.stderr, f"{key}_interval": (pooled.low, pooled.high)}
        low, high = _floats(own.get(f"{key}_interval") or (None, None))
        return {key: pooled.value, f"{key}_stderr": _floats([own[f"{key}_stderr"]])[0], f"{key}_interval": (low, high)}

    found = bars("total", total) | bars("mean", mean) | bars("equiv", equiv) | bars("share", share)
    return Labelled(
        loss=loss,
        unit=own["unit"],
        structures=len(known),
        **{name: value for name, value in found.items() if name not in {"total_interval", "mean_interval"}},
    )


def _floats(numbers: Iterable[Any]) -> list[float]:
    """Numbers as a journal keeps them, with NaN where there is none."""
    return [math.nan if x is None else float(x) for x in numbers]
