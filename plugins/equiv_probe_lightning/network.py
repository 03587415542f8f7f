"""Which part of a LightningModule is the network: named, defined by a framework, or seen at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.objectives import Training
from equiv_probe.live import plugins
from equiv_probe.live.isolation import isolated
from equiv_probe.live.network_search import calls_of
from equiv_probe.live.silence import silenced
from equiv_probe_lightning.step import recorded_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.schema.schema import Schema


def known(module: Any, name: str | None) -> Training | None:
    """The network where it is named, or a framework defines it.

    Args:
        module: the LightningModule.
        name: of a submodule; ``"."`` is the module itself.

    Raises:
        EquivProbeError: there is no such submodule.
    """
    if name is not None:
        try:
            return Training(module.get_submodule("" if name == "." else name))
        except AttributeError as error:
            names = [each for each, _ in module.named_modules() if each.count(".") < 2]
            found = f"network={name!r} in {type(module).__name__}"
            raise EquivProbeError(found, f"one of {names[1:20]}, or '.'", 'network="<name>"') from error
    for plugin in plugins.installed()[0]:
        training = plugin.training(module) if plugin.training is not None else None
        if training is not None:
            return training
    return None


def seen(
    module: Any, schema: Schema | None, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Training:
    """The network that a step calls with coordinates, from a run of the step that leaves no trace.

    Args:
        module: the LightningModule.
        schema: what is known of the network's inputs.
        step: a method of it.
        args: of the step, which may write into them.
        kwargs: too.

    Raises:
        EquivProbeError: no such network, or several.
    """
    with (
        silenced(),
        isolated(module, gradients=True, contents=True),
        recorded_logs(module, forward=False),
        calls_of(module, schema) as called,
    ):
        step(*args, **kwargs)
    return Training(called.only(module))
