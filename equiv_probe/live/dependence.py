"""What the outputs of a call depend on: on what is rotated, on other structures of the batch, on chance.

Each is found out by a few passes over one call, which wait for the device: once, before numbers are believed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.capture import wide
from equiv_probe.live.isolation import isolated
from equiv_probe.live.kept_numbers import same
from equiv_probe.live.random_state import RandomState
from equiv_probe.orbit.seen_rotation import NUDGE, is_changed, nudge
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.translation import shift_of

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.schema.structures import Structures

LARGE_NUDGE = 0.3
"""Of a second displacement: a statistic of the batch may be the same, to rounding, after one of them by chance."""
ROUNDING = 2e3
"""Spacings of numbers, relative to the largest output, that the values of other structures may change by rounding."""


class Passes:
    """Passes over one call in one random state, without a trace; its own outputs are evaluated once.

    Args:
        live: how the network is evaluated, in the mode it is in.
        call: of the network.
        start: the random state in which it is evaluated.
    """

    def __init__(self, live: LiveOrbit, call: Call, start: RandomState) -> None:
        self.live, self.call, self.start = live, call, start
        self.draws = False
        """Whether the network draws random numbers of torch's, once :attr:`own` is known."""

    @cached_property
    def own(self) -> dict[str, Tensor]:
        """The outputs of the call as it was."""
        with isolated(self.live.network, generators=[generator for generator, _ in self.start.own]):
            found = _outputs(self.live, self.call, {}, self.start)
            self.draws = self.start.moved(numpy=False)
            return found

    def at(self, changed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs with other values of some inputs."""
        with isolated(self.live.network, generators=[generator for generator, _ in self.start.own]):
            return _outputs(self.live, self.call, changed, self.start)


def rotates(passes: Passes, rotations: Tensor) -> bool:
    """Whether rotations ``(C, [U,] 3, 3)`` change the inputs: those of atoms alone they leave as they are."""
    structures, inputs = passes.live.structures(passes.call.inputs), passes.call.inputs
    rotated = structures.rotate(inputs, passes.live.known_schema, rotations)
    return any(is_changed(copies, inputs[name]) for name, copies in rotated.items() if copies.numel())


def blind_outputs(passes: Passes, rotations: Tensor) -> dict[str, bool]:
    """Outputs that are the same, bit for bit, at rotated inputs and at displaced ones, and whether they are all zero.

    Args:
        passes: over the call.
        rotations: ``(C, [U,] 3, 3)`` that fit the inputs; of these, and of random ones where any will do.
    """
    live, call = passes.live, passes.call
    structures, schema = live.structures(call.inputs), live.known_schema
    if not any(rep.is_whole for rep in schema.inputs.values()):  # grids go by few rotations
        rotations = haar(2, torch.Generator().manual_seed(1)).to(rotations)
    rotated = structures.rotate(call.inputs, schema, rotations)
    copies = [{name: value[k] for name, value in rotated.items()} for k in range(min(3, len(rotations)))]
    own = passes.own
    blind = [name for name, value in own.items() if value.is_floating_point() and value.numel()]
    # Displaced last: what differs at a rotation needs no more.
    for changed in (*copies, _displaced(live, call, structures, others=False)):
        if not blind:
            break
        found = passes.at(changed)
        blind = [name for name in blind if same(found[name], own[name])]
    return {name: not own[name].any() for name in blind}


def coupled_outputs(passes: Passes) -> dict[str, float]:
    """Outputs of one structure that depend on the other structures of its batch, and by how much of their size.

    The others are displaced, in the mode that the network is in; in eval mode the structure is also taken alone, and
    without the padding that the others bring.
    """
    live, call = passes.live, passes.call
    structures = live.structures(call.inputs)
    if structures.layout == "one" or structures.count < 2:
        return {}
    found: dict[str, float] = {}
    nudged = (_displaced(live, call, structures, others=True, size=one) for one in (NUDGE, LARGE_NUDGE))
    variants = [passes.at(changed) for changed in nudged]
    if not live.network.training and structures.layout == "leading":
        variants += _alone(passes, structures)
    for other in variants:
        for name, value in passes.own.items():
            gap = _gap(value, other[name], structures, name)
            if gap > found.get(name, 0.0):
                found[name] = gap
    return found


def differences_when_moved(passes: Passes) -> dict[str, tuple[float, float, float]]:
    """How far outputs are from what they should be where all structures are moved as a whole, by one vector.

    Returns:
        By output the root mean square of the difference, that of the output, and the length of the shift relative to
        the size of the structures; nothing without inputs that are places.
    """
    call, schema = passes.call, passes.live.known_schema
    places = {name: rep for name, rep in schema.inputs.items() if rep.is_affine and call.inputs.get(name) is not None}
    if not places:
        return {}
    first = next(iter(places))
    spread, shift = shift_of(places[first].places(call.inputs[first]).detach())
    here, there = passes.own, passes.at({n: rep.translate(call.inputs[n], shift) for n, rep in places.items()})
    found = {}
    for name, rep in schema.outputs.items():
        if there[name].is_floating_point() and there[name].shape == here[name].shape:
            back = rep.translate(there[name], -shift) if rep.is_affine else there[name]
            sizes = [float(wide(one).nan_to_num().square().mean().sqrt()) for one in (back - here[name], here[name])]
            found[name] = sizes[0], sizes[1], float(shift.norm()) / max(spread, 1e-6)
    return found


def moved_on(passes: Passes, outputs: dict[str, Tensor]) -> float:
    """How far the outputs of a call are now from what they were, relative to these: other weights are in the network.

    Args:
        passes: over the call.
        outputs: that it had.
    """
    found = [0.0]
    for name, value in passes.own.items():
        if name in outputs and value.is_floating_point() and value.shape == outputs[name].shape:
            gap, size = (float(wide(one).nan_to_num().norm()) for one in (value - outputs[name], outputs[name]))
            found.append(gap / max(size, 1e-30))
    return max(found)


def drawn_outputs(live: LiveOrbit, call: Call) -> bool:
    """Whether the network draws random numbers in eval mode: from one of the global states."""
    with isolated(live.network):
        live.network.eval()
        before = RandomState.now()
        _outputs(live, call, {}, before)
        return before.moved()


def _outputs(live: LiveOrbit, call: Call, changed: dict[str, Tensor], start: RandomState) -> dict[str, Tensor]:
    start.restore()
    with torch.no_grad():
        return live.copies.at(call, changed)


def _displaced(
    live: LiveOrbit, call: Call, structures: Structures, *, others: bool, size: float = NUDGE
) -> dict[str, Tensor]:
    """What is rotated, displaced at random, which no rotation does; ``others``: all structures but the first."""
    generator = torch.Generator().manual_seed(round(10 * size))
    found = {}
    for name, rep in live.known_schema.inputs.items():
        value = call.inputs.get(name)
        if not (rep.event_shape and isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel()):
            continue
        noise = nudge(value, generator, size)
        if others:
            noise = noise * _other(value, structures, name).reshape(-1, *(1,) * (value.ndim - 1))
        found[name] = value + noise.to(value)
    return found


def _other(value: Tensor, structures: Structures, name: str) -> Tensor:
    """Whether each entry of the first axis belongs to another structure than the first one."""
    owner = structures.owner(value, name) if structures.layout == "index" else None
    first = 0 if owner is None or structures.index is None else structures.index[0]
    return (torch.arange(len(value), device=value.device) if owner is None else owner) != first


def _alone(passes: Passes, structures: Structures) -> list[dict[str, Tensor]]:
    """Outputs for the first structure of a dense batch alone; nothing where the network takes no such batch."""
    count, mask = structures.count, structures.mask
    atoms = None if mask is None else int(mask[0].reshape(len(mask[0]), -1).any(1).sum())

    def cut(value: Any) -> Any:
        if not (isinstance(value, torch.Tensor) and value.ndim and len(value) == count):
            return value
        value = value[:1]
        if mask is not None and atoms is not None:
            for axis in (1, 2):
                if value.ndim > axis and value.shape[axis] == mask.shape[1]:
                    value = value.narrow(axis, 0, atoms)
        return value

    inputs = {name: cut(value) for name, value in passes.call.inputs.items()}
    try:
        return [passes.at({n: v for n, v in inputs.items() if isinstance(v, torch.Tensor)})]
    except Exception:  # a batch of a size that the network was not made for: then nothing is known
        return []


def _gap(own: Tensor, other: Tensor, structures: Structures, name: str) -> float:
    """How far the first structure's values are apart, relative to the largest output; zero if by rounding alone."""
    if not (own.ndim and own.is_floating_point() and other.ndim):
        return 0.0
    whole = len(other) == len(own)
    mine = ~_other(own, structures, name)
    a, b = wide(own[mine]), wide(other[mine] if whole else other)
    if a.ndim > 1 and a.shape[1] > b.shape[1] and a.shape[2:] == b.shape[2:]:
        a = a[:, : b.shape[1]]  # without padding
    if a.shape != b.shape or not a.numel():
        return 0.0
    scale = torch.where(own.isfinite(), own, 0.0).abs().max().clamp_min(torch.finfo(own.dtype).tiny)
    gap = float((a - b).abs().nan_to_num().max() / wide(scale))
    return gap if gap > ROUNDING * torch.finfo(own.dtype).eps else 0.0
