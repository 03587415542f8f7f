"""Conformance of adapters to live calls: does a plugin read, rotate, stack and split a framework's batches rightly?

A plugin describes one call of its kind by a :class:`CallCase` and runs :func:`check_calls` in a test. Planted models
are evaluated structure by structure inside a module of the framework's kind, and what the probe finds on the plugin's
path is compared with the planted model itself, rotated by hand, and with its closed form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import CallAdapter
from equiv_probe.live.capture import cloned
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.outputs import read_outputs
from equiv_probe.probe.probe import Probe
from equiv_probe.rotations.drawing import draw
from equiv_probe.testing.conformance import EXACT_PLAN, anisotropic, close, require, sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from equiv_probe.live.adapters import Arguments
    from equiv_probe.schema.schema import Schema
    from equiv_probe.testing.conformance import Field

COPIES = 5


class CallCase(Protocol):
    """What a plugin says about one kind of call, so that the suite can drive it."""

    @property
    def schema(self) -> Schema | None:
        """Representations, or None if they must be inferred."""

    def module(self, field: Field) -> nn.Module:
        """A module of the framework's kind that gives the field's ``energy`` ``(B,)`` and ``forces`` ``(N, 3)``.

        Evaluate ``field`` structure by structure, and join its outputs as the framework's models do; leave out outputs
        that the framework does not have.
        """

    def call(self) -> Arguments:
        """Arguments and keywords of one call, the same numbers in fresh objects every time; three structures at least.

        Structures have different sizes, and none is a single atom.
        """

    def positions(self) -> Sequence[Tensor]:
        """Positions of every structure, ``(N_b, 3)``, in the order of the call."""


def check_calls(case: CallCase, tolerance: float = 1e-9, *, stacks: bool = True) -> None:
    """Run every check.

    Args:
        case: the plugin's.
        tolerance: of every comparison, relative to the size of the output; 1e-4 for frameworks in float32.
        stacks: whether several rotated copies are expected to share a call.

    Raises:
        AssertionError: says which check failed, what was found and what was expected.
    """
    counts = [len(one) for one in case.positions()]
    wanted = "three or more, not all of one size, no single atoms"
    require(len(counts) >= 3 and len(set(counts)) > 1 and min(counts) > 1, "structures", counts, wanted)
    check_recognised(case)
    check_round_trip(case, tolerance)
    check_call_untouched(case)
    check_own_rotations(case, tolerance, stacks=stacks)
    check_measured(case, tolerance)


def check_recognised(case: CallCase) -> None:
    """The plugin is found through its entry point; calls of plain tensors are none of its business."""
    module = case.module(anisotropic())
    found = adapter_for(module, *case.call())
    require(type(found) is not CallAdapter, "recognised", type(found).__name__, "the plugin's own adapter")
    plain = adapter_for(torch.nn.Linear(3, 3), (torch.zeros(4, 3),), {})
    require(type(plain) is CallAdapter, "a call of one tensor", type(plain).__name__, "CallAdapter")


def check_round_trip(case: CallCase, tolerance: float) -> None:
    """What was split can be rebuilt, and the model gives the same outputs."""
    module, (args, kwargs) = case.module(anisotropic()), case.call()
    live = LiveOrbit(module, case.schema)
    call = live.keep(args, kwargs)
    made, made_kwargs = call.rebuild({name: cloned(value) for name, value in call.inputs.items()})
    output = module(*args, **kwargs)
    schema = live.resolve(call, output)
    expected, found = read_outputs(output, schema), read_outputs(module(*made, **made_kwargs), schema)
    for name, value in expected.items():
        close(found[name], value, float(value.abs().max()), tolerance, f"{name} of a call that was rebuilt")


def check_call_untouched(case: CallCase) -> None:
    """Measuring changes no tensor of the user's call."""
    module, (args, kwargs) = case.module(anisotropic()).eval(), case.call()
    adapter = adapter_for(module, args, kwargs)
    before = {name: cloned(value) for name, value in adapter.split(args, kwargs)[0].items()}
    live = LiveOrbit(module, case.schema)
    call = live.keep(args, kwargs)
    live.resolve(call, module(*case.call()[0], **case.call()[1]))
    structures = live.structures(call.inputs)
    live.rotated_back(call, structures, draw(EXACT_PLAN, EXACT_PLAN.generator(), structures.count)[0])
    after = adapter.split(args, kwargs)[0]
    require(after.keys() == before.keys(), "names of the call, afterwards", sorted(after), sorted(before))
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else True
        require(same, f"{name!r} of the user's call untouched", after[name], value)


def check_own_rotations(case: CallCase, tolerance: float, *, stacks: bool) -> None:
    """Every structure rotates by its own rotation about its own centroid, whether copies share a call or not."""
    model = anisotropic()
    module, (args, kwargs) = case.module(model).eval(), case.call()
    live = LiveOrbit(module, case.schema)
    call = live.keep(args, kwargs)
    live.resolve(call, module(*args, **kwargs))
    structures = live.structures(call.inputs)
    rotations = draw(EXACT_PLAN, EXACT_PLAN.generator(), structures.count)[0, :COPIES]
    rotated = structures.rotate(call.inputs, live.known_schema, rotations)
    stacked = live.adapter.stack(call.inputs, rotated)
    require(stacked is not None or not stacks, "copies share a call", stacked, "a stacked call (or stacks=False)")
    found = live.rotated_back(call, structures, rotations)
    each = [live.rotated_back(call, structures, g[None]) for g in rotations]
    for name, value in found.items():
        alone = torch.cat([one[name] for one in each])
        scale = max(sizes(model, one.double())[name] for one in case.positions())
        close(value, alone, scale, tolerance, f"{name}, copies together and one by one")
        parts = []
        for b, one in enumerate(case.positions()):
            center, g = one.double().mean(0), rotations[:, b]
            outputs = [model((one.double() - center) @ r.mT + center)[name] for r in g]
            parts.append(model.outputs[name].rotate_back(torch.stack(outputs), g))
        joined = torch.cat([part if part.ndim > 1 else part[:, None] for part in parts], 1)
        close(value.reshape(joined.shape), joined, scale, tolerance, f"{name}, each structure by its own rotation")


def check_measured(case: CallCase, tolerance: float) -> None:
    """The probe's ``L_equiv`` is the closed form."""
    model = anisotropic()
    module, (args, kwargs) = case.module(model).eval(), case.call()
    with Probe(module, case.schema, EXACT_PLAN, full=1, cost=None) as probe:
        module(*args, **kwargs)
    require(bool(probe.running), "outputs measured", sorted(probe.running), "energy or forces")
    for (stage, name), running in probe.running.items():
        require(stage == "val", "stage of a model in eval mode", stage, "val")
        each = [(model.equiv(one.double())[name], len(one) if name == "forces" else 1) for one in case.positions()]
        expected = sum(value * weight for value, weight in each) / sum(weight for _, weight in each)
        value = running.everything.equiv.value
        wanted = f"{expected:.9g}, relatively to {tolerance:g}"
        require(abs(value / expected - 1) <= 1e2 * tolerance, f"closed-form L_equiv, {name}", value, wanted)
