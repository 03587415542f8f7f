"""Sums over the ranks of a distributed run."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation import binned_sums
from equiv_probe.estimation.estimates import Sums
from equiv_probe.landscape.gradient_sums import GradientSums
from equiv_probe.landscape.measured_gradients import Gradients

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.estimation.running import Running

Key = tuple[str, str]
"""Stage and output."""
Place = tuple[str, str, int]
"""Output, group of parameters, and how many these are."""


def world() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """The value of every rank; waits for all of them."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    torch.distributed.all_gather_object(found, value)
    return found


def of_training(running: Mapping[Key, Running], keys: Iterable[Key], device: torch.device) -> dict[Key, Sums]:
    """Sums over the window and over ranks, by one collective of fixed size, without waiting for the device.

    Args:
        running: this rank's.
        keys: the same on all ranks; what this rank has not measured counts nothing.
        device: where the collective runs.
    """
    if world() == 1:
        return {key: running[key].latest for key in keys if key in running}
    keys = list(keys)
    stacked: Tensor = torch.zeros(len(keys), 13, dtype=torch.float64, device=device)
    for k, key in enumerate(keys):
        if key in running:
            stacked[k] = running[key].latest.flat()
    torch.distributed.all_reduce(stacked)
    return {key: Sums.from_flat(row) for key, row in zip(keys, stacked, strict=True)}


def places_of(latest: Mapping[str, Gradients]) -> list[Place]:
    """What any rank has measured gradients of; waits for all of them."""
    mine = [(name, group, one.sizes.get(group, 0)) for name, one in latest.items() for group in one.groups]
    return list(dict.fromkeys(place for places in gathered(mine) for place in places))


def of_gradients(
    latest: Mapping[str, Gradients], places: Sequence[Place], device: torch.device
) -> dict[str, Gradients]:
    """The last measurements of gradients over ranks, by one collective of fixed size, without waiting for the device.

    Every rank differentiates the loss of its own batch: squared norms are averaged over the ranks' batches.

    Args:
        latest: this rank's, by output.
        places: the same on all ranks; what this rank has not measured counts nothing.
        device: where the collective runs.
    """
    if world() == 1 or not places:
        return dict(latest)
    own = {(name, group): sums.sums.flat() for name, one in latest.items() for group, sums in one.groups.items()}
    none = torch.zeros(13, dtype=torch.float64, device=device)
    stacked = torch.stack([own.get(place[:2], none) for place in places])
    torch.distributed.all_reduce(stacked)
    found: dict[str, Gradients] = {}
    for (name, group, size), row in zip(places, stacked, strict=True):
        one = found.get(name, Gradients({}))
        groups = {**one.groups, group: GradientSums(Sums.from_flat(row))}
        found[name] = Gradients(groups, sizes={**one.sizes, group: size})
    return found


def merged(running: Mapping[Key, Running]) -> dict[Key, dict[str, Any]]:
    """The state of every rank's running estimates added up; waits for all ranks.

    The windows are added measurement by measurement, from the latest: ranks measure at the same steps.
    """
    states = gathered({key: one.state_dict() for key, one in running.items()})
    if len(states) == 1:
        return dict(states[0])
    found = {}
    for key in sorted({key for state in states for key in state}):
        mine = [state[key] for state in states if key in state]
        length = max(len(state["recent"]) for state in mine)
        recent = [
            _sum(Sums(**state["recent"][-k]) for state in mine if k <= len(state["recent"]))
            for k in range(length, 0, -1)
        ]
        everything = _sum(Sums(**state["everything"]) for state in mine)
        structures = sum(state["structures"] for state in mine)
        found[key] = {
            "everything": vars(everything),
            "recent": [vars(sums) for sums in recent],
            "structures": structures,
            "labelled": mine[0]["labelled"],
            **{name: mine[0][name] for name in ("loss", "floor", "precision")},
        }
        if binned := binned_sums.merged([state.get("binned", {}) for state in mine]):
            found[key]["binned"] = binned
    return found


def window(state: Mapping[str, Any]) -> Sums:
    """Sums over the window of a running estimate's state."""
    return _sum(Sums(**sums) for sums in state["recent"])


def _sum(several: Iterable[Sums]) -> Sums:
    return reduce(add, several)
