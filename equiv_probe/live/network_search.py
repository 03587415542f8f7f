"""Which module is the network: the outermost one that is called with coordinates while something runs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import CallAdapter
from equiv_probe.live.hook import Hook
from equiv_probe.live.outputs import all_outputs
from equiv_probe.schema.grid_inference import looks_like_grid
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from equiv_probe.schema.schema import Schema


@dataclass
class Called:
    """The outermost modules with parameters that were called, and what they put out for coordinates.

    Attributes:
        certain: whose inputs hold coordinates by a declaration, a framework's batch, or their name.
        likely: whose inputs hold a floating tensor ``(..., N, 3)``.
        others: called without anything of the kind; the names of their inputs.
        features: which of the first two put out what looks like features of a network, not like its output.
        later: the others that were called after one of the first two.
    """

    certain: list[nn.Module] = field(default_factory=list)
    likely: list[nn.Module] = field(default_factory=list)
    others: dict[nn.Module, list[str]] = field(default_factory=dict)
    features: dict[nn.Module, tuple[int, ...]] = field(default_factory=dict)
    later: list[nn.Module] = field(default_factory=list)

    def add(self, module: nn.Module, how: str, names: list[str]) -> None:
        """Note a module that was called, and what :func:`coordinates` says of the call."""
        if how:
            self.others.pop(module, None)
            (self.certain if how == "certain" else self.likely).append(module)
            return
        if (self.certain or self.likely) and module not in self.later:
            self.later.append(module)
        self.others[module] = names

    def only(self, root: nn.Module) -> nn.Module:
        """The one whose symmetry is in question.

        Raises:
            EquivProbeError: there is none, or several.
        """
        names = {module: name or "." for name, module in root.named_modules()}
        found = self.certain or self.likely
        if len(found) == 1:
            self._require_whole(found[0], names)
            return found[0]
        if found:
            listed = ", ".join(f'network="{names[module]}" ({type(module).__name__})' for module in found)
            raise EquivProbeError(f"{len(found)} modules called with coordinates", "one to measure", listed)
        called = [f"{names[m]} ({type(m).__name__}) with {', '.join(given)}" for m, given in self.others.items()]
        raise EquivProbeError(
            f"a step of {type(root).__name__} that calls {'; '.join(called) or 'no module with parameters'}",
            "a module that is called with coordinates (..., N, 3), a graph with pos, a dict with positions, or "
            "voxel grids (B, C, D, H, W)",
            'network="<name of a submodule>", schema=ep.Schema(inputs={...}, outputs={...})',
        )

    def _require_whole(self, module: nn.Module, names: dict[nn.Module, str]) -> None:
        """Raise EquivProbeError for the first layers of a network whose ``forward`` is not what the step calls."""
        if module in self.features and self.later:
            rest = ", ".join(f"{names[one]} ({type(one).__name__})" for one in self.later[:3])
            own = f"{names[module]} ({type(module).__name__})"
            raise EquivProbeError(
                f"coordinates given to {own}, which puts out features {self.features[module]}, and after it {rest}",
                "a network that is called as one module, from coordinates to its output",
                f'put them into one module and call that; network="{names[module]}" if it is what you mean',
            )


@contextmanager
def calls_of(root: nn.Module, schema: Schema | None = None) -> Iterator[Called]:
    """Watch the calls inside this context, of a module and all that is in it.

    Args:
        root: the module.
        schema: whose inputs count as coordinates where they rotate.
    """
    called = Called()
    inside: list[nn.Module] = []
    wanted = frozenset(name for name, rep in schema.inputs.items() if rep.event_shape) if schema else frozenset()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen = (*called.certain, *called.likely)
        if not inside and module not in seen and next(module.parameters(), None) is not None:
            called.add(module, *coordinates(module, args, kwargs, wanted))
        inside.append(module)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        del args
        if module in (*called.certain, *called.likely) and (shape := _features(output)):
            called.features[module] = shape
        while inside and inside.pop() is not module:
            pass

    handles: list[Any] = []
    for module in root.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(Hook(before), with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(Hook(after), always_call=True))
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def coordinates(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: frozenset[str] = frozenset()
) -> tuple[str, list[str]]:
    """Whether a call's inputs hold coordinates: ``"certain"``, ``"likely"`` or ``""``; and the inputs' names."""
    adapter = adapter_for(module, args, kwargs)
    leaves, _ = adapter.split(args, kwargs)
    tensors = {name: value for name, value in leaves.items() if isinstance(value, torch.Tensor)}
    shaped = {n for n, v in tensors.items() if v.is_floating_point() and v.ndim >= 2 and v.shape[-1] == 3}
    if wanted:
        return ("certain" if wanted & set(tensors) else ""), sorted(leaves)
    by_name = any(getattr(usual(name, tuple(tensors[name].shape)), "event_shape", ()) for name in shaped)
    if shaped and (by_name or type(adapter) is not CallAdapter):
        return "certain", sorted(leaves)
    likely = bool(shaped) or any(looks_like_grid(value) for value in tensors.values())
    return ("likely" if likely else ""), sorted(leaves)


def _features(output: Any) -> tuple[int, ...]:
    """The shape of an output without vectors, usual names or single numbers; nothing if it has one of these."""
    values = {name: v for name, v in all_outputs(output).items() if isinstance(v, torch.Tensor)}
    plain = [v for n, v in values.items() if v.ndim >= 2 and v.shape[-1] not in {1, 3} and not usual(n, tuple(v.shape))]
    return tuple(plain[0].shape) if plain and len(plain) == len(values) else ()


def inside(root: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the outermost modules inside of one that are called with coordinates while something runs.

    Args:
        root: which is not counted itself.
        run: what calls it.
    """
    found: dict[str, None] = {}
    depth = [0]
    names = {module: name for name, module in root.named_modules() if name}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not depth[0] and coordinates(module, args, kwargs)[0]:
            found[names[module]] = None
            depth[0] += 1
        elif depth[0]:
            depth[0] += 1

    def after(*_: Any) -> None:
        depth[0] = max(0, depth[0] - 1)

    handles: list[Any] = []
    for module in names:
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, always_call=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found)
