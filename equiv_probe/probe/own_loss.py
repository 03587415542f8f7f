"""Whether a probed module puts out its own loss: then ``L_equiv`` is zero by construction, or its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import wide
from equiv_probe.live.dependence import drawn_outputs
from equiv_probe.live.isolation import isolated
from equiv_probe.live.network_search import inside

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.probe.recorded import Recorded


def output_that_is(loss: Tensor, last: Recorded, live: LiveOrbit) -> str | None:
    """The output of a step's last call that is its loss, itself or by its mean or sum; waits for the device."""
    outputs = last.known(live.known_schema)
    for name, rep in live.known_schema.outputs.items():
        if rep.event_shape or rep.is_whole or not outputs[name].is_floating_point():
            continue
        values = wide(outputs[name])
        for one in (values.mean(), values.sum()):
            if bool(torch.isclose(one, wide(loss).to(one), rtol=1e-6, atol=0)):
                return name
    return None


def require_network(live: LiveOrbit, call: Call, name: str) -> None:
    """Raise EquivProbeError for a module whose output is the step's loss, if it is a loss with a network inside."""
    is_named_so = any(word in name.lower() for word in ("loss", "nll", "elbo"))
    unnamed = name.rpartition(".")[2].isdigit()
    if is_named_so or (unnamed and (inner_networks(live, call) or drawn_outputs(live, call))):
        found = f"{type(live.network).__name__}, whose output {name!r} is the loss that the step returns"
        raise loss_already(live, call, found)


def loss_of(result: Any) -> Tensor | None:
    """The one number that a step is about."""
    if hasattr(result, "get"):
        result = result.get("loss", next(iter(result.values()), None))
    elif isinstance(result, (tuple, list)) and result:
        result = result[0]
    if not (isinstance(result, torch.Tensor) and result.is_floating_point() and result.numel()):
        return None
    return result.detach().mean()


def inner_networks(live: LiveOrbit, call: Call) -> list[str]:
    """Names of the modules inside the network that are called with coordinates."""

    def run() -> None:
        with isolated(live.network), torch.inference_mode(False), torch.no_grad():
            live.copies.at(call, {})

    return inside(live.network, run)


def loss_already(live: LiveOrbit, call: Call, found: str) -> EquivProbeError:
    """What to say of a module that puts out its own loss."""
    children = [name for name, one in live.network.named_children() if next(one.parameters(), None) is not None]
    named = [f"model.{name}" for name in (inner_networks(live, call) or children)[:4]]
    listed = ", ".join(f"{name} ({type(live.network.get_submodule(name[6:])).__name__})" for name in named)
    return EquivProbeError(
        found,
        "the network inside, whose outputs rotate: of a loss as a module's output L_equiv is zero by construction",
        f"ep.Probe({named[0]}): inside is {listed}" if named else "probe the module inside that sees the coordinates",
    )
