"""The network of somebody's own training loop: found when it is called with coordinates, graphs or grids.

A hook on all modules waits for the outermost one that is, and puts a probe on it. What cannot be measured is said in
one warning, and the loop goes on without.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from equiv_probe.augmentation.augment import augment
from equiv_probe.cli.claims import claimed
from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import CallAdapter
from equiv_probe.live.hook import Hook
from equiv_probe.live.isolation import measuring
from equiv_probe.live.network_search import coordinates
from equiv_probe.live.wrappers import network
from equiv_probe.messages import logger
from equiv_probe.probe.probe import Probe
from equiv_probe.schema.grid_inference import looks_like_grid
from equiv_probe.schema.schema import Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

OF_LOOPS = frozenset(inspect.signature(Probe).parameters) | {"augment", "network"}
"""Settings that a loop listens to; the others are for frameworks."""
WARNINGS = 3
"""Networks that are left alone with a warning each; of more, nothing new is said."""


class Finder:
    """Puts a probe on the outermost modules that are called with coordinates.

    Args:
        options: of :class:`equiv_probe.Probe`; ``augment``; ``network``, the name of a submodule or of a class; and
            what is for frameworks, which is said to change nothing here.

    Raises:
        EquivProbeError: options that do not fit.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = {name: value for name, value in options.items() if name in OF_LOOPS}
        self.idle = sorted(set(options) - OF_LOOPS - {"report"})
        self.augment, self.network = self.options.pop("augment", False), self.options.pop("network", None)
        if "schema" in self.options:
            self.options["schema"] = Schema.of(self.options["schema"])
        Probe(torch.nn.Identity(), **self.options).schedule("call", "train")  # what is wrong is an error here
        self.probes: list[Probe] = []
        self.refused: dict[str, str] = {}
        """Why networks are left alone, by the names of their classes."""
        self.called: dict[str, list[str]] = {}
        """Names of the inputs of networks that were called without coordinates."""
        self.parts: dict[str, str] = {}
        """Of which network, whose own arguments cannot be read, a measured one is a part; by the names of classes."""
        self._inside: WeakSet[nn.Module] = WeakSet()
        self._unread: WeakSet[nn.Module] = WeakSet()
        self._waiting: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self._handle: Any = None
        self._listen()

    def remove(self) -> None:
        """Wait no longer."""
        self._handle.remove()
        for handle in [*self._waiting.values()]:
            handle.remove()

    def _listen(self) -> None:
        self._handle = register_module_forward_pre_hook(Hook(self._called))

    def _called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Look at a call; the keywords of a module's call are seen from its second one on."""
        if measuring() or module in claimed or network(module) in claimed:
            return
        if any(module is probe.model for probe in self.probes):
            self.remove()  # a round has been seen: whoever is called with coordinates was called
            return
        if module in self._inside or next(module.parameters(), None) is None:
            return
        if self.network is not None:
            self._named(module)
        elif not self._taken(module, args, {}) and module not in self._waiting:
            self._inside.update(module.modules())
            hook = Hook(self._again)
            self._waiting[module] = hook.on(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _again(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's second call, with its keywords: without coordinates there, modules inside of it count."""
        if measuring():
            return
        self._waiting.pop(module).remove()
        for inner in module.modules():
            self._inside.discard(inner)
        if not (kwargs and self._taken(module, args, kwargs)):
            self._inside.add(module)
            self._unread.add(module)

    def _named(self, module: nn.Module) -> None:
        """The network that was asked for, if it is this module or in it."""
        inner = dict(module.named_modules())
        named = [one for name, one in inner.items() if self.network in (name, type(one).__name__)]
        if named and not any(named[0] is probe.model for probe in self.probes):
            self._attach(named[0], None)

    def _taken(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call holds coordinates, so that its module is dealt with, measured or not."""
        try:
            adapter = adapter_for(network(module), args, kwargs)
            schema: Schema | None = self.options.get("schema")
            wanted = frozenset(schema.inputs) if schema is not None else frozenset()
            how, names = coordinates(network(module), args, kwargs, wanted)
            if how == "likely":
                leaves = adapter.split(args, kwargs)[0].values()
                how = "likely" if any(_is_batch_or_grid(value) for value in leaves) else ""
        except Exception as error:  # somebody's own containers may refuse to be read
            self._refuse(module, error)
            return True
        if not how:
            self.called[type(network(module)).__name__] = names
            return False
        self._attach(module, adapter)
        return True

    def _attach(self, module: nn.Module, adapter: Any) -> None:
        known = {} if adapter is None else {"adapter": adapter, "targets": adapter.labels()}
        if type(adapter) is CallAdapter:
            known = {}
        probe = Probe(module, **{**known, **self.options}).attach()
        probe.failures.at_first = lambda error: self._gave_up(probe, error)
        if self.augment:
            augment(module, seed=probe.seed)
        self.probes.append(probe)
        self._inside.update(module.modules())
        if self.idle:
            logger.warning(f"equiv_probe: {', '.join(self.idle)} is for frameworks, and changes nothing in a loop")
            self.idle = []
        name = type(probe.live.network).__name__
        outer = next((one for one in self._unread if module is not one and module in set(one.modules())), None)
        if outer is not None:
            whole = type(network(outer)).__name__
            self.parts[name] = (
                f"{name} is a part of {whole}, which is called with {', '.join(self.called.get(whole, []))}, where no "
                "coordinates can be read: the error is that of the part's outputs, features perhaps"
            )
        logger.info(f"equiv_probe is on {name}" if name not in self.parts else f"equiv_probe: {self.parts[name]}")

    def _gave_up(self, probe: Probe, error: Exception) -> None:
        """Leave a network alone that cannot be measured; of a loss with a network inside, that one may do."""
        probe.remove()
        self.probes.remove(probe)
        module = probe.model
        if not (isinstance(error, EquivProbeError) and error.expected.startswith("the network inside")):
            self._refuse(module, error)
            return
        for inner in module.modules():
            self._inside.discard(inner)
        self._inside.add(module)
        self._handle.remove()
        self._listen()

    def _refuse(self, module: nn.Module, error: Exception) -> None:
        name = type(network(module)).__name__
        self._inside.add(module)
        if name in self.refused:
            return
        self.refused[name] = str(error) if isinstance(error, EquivProbeError) else f"{type(error).__name__}: {error}"
        if len(self.refused) <= WARNINGS:
            how = '; with equiv-probe run: -s \'schema={"inputs": {...}, "outputs": {...}}\''
            logger.warning(f"equiv_probe leaves {name} alone, and the run goes on: {self.refused[name]}{how}")

    def nothing(self) -> str:
        """Why nothing was measured, as far as modules were called."""
        lines = [f"{name} was called with {', '.join(given)}" for name, given in self.called.items()]
        lines += [f"{name} is left alone (see above)" for name in self.refused]
        if self.network is not None:
            lines.append(f"no module that was called is, or holds, network={self.network}")
        return "; ".join(lines[:4])


def _is_batch_or_grid(value: Any) -> bool:
    """Whether a tensor without a usual name is a dense batch of places ``(B, N, 3)``, or of grids.

    Three columns in two axes may be any table.
    """
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return looks_like_grid(value) or (value.ndim == 3 and value.shape[-1] == 3 and value.shape[-2] > 3)
