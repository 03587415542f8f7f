"""Measuring on a live model without a trace: random state, flags, buffers, gradients, autocast and compilation.

Nothing here copies a tensor to or from a device or waits for one.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.called_method import CalledMethod
from equiv_probe.live.held_by_modules import Held, all_of, lend
from equiv_probe.live.random_state import RandomState, cuda_in_use, generators_of
from equiv_probe.live.wrappers import sharded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

_STATE = threading.local()


def measuring() -> bool:
    """Whether this thread is inside a measurement: the project's own hooks do nothing then."""
    return bool(getattr(_STATE, "depth", 0))


def leave_out() -> None:
    """Say that something was left out of what is measured: then the step's number is another than the user's."""
    _STATE.left_out = True


def left_out() -> bool:
    """Whether something was, since this was asked last."""
    found, _STATE.left_out = bool(getattr(_STATE, "left_out", False)), False
    return found


@contextmanager
def observed() -> Iterator[None]:
    """Let the project's own hooks work inside :func:`isolated`: for a run that is there to be recorded."""
    depth, _STATE.depth = getattr(_STATE, "depth", 0), 0
    try:
        yield
    finally:
        _STATE.depth = depth


@contextmanager
def unobserved() -> Iterator[None]:
    """Let the project's own hooks rest: for passes that are the project's own, but part of the user's training."""
    _STATE.depth = getattr(_STATE, "depth", 0) + 1
    try:
        yield
    finally:
        _STATE.depth -= 1


class ModuleState:
    """Attributes, buffers and parameters by name of some modules, and how to put them back.

    While it is away, buffers are clones: the originals, which the user's graph may have saved for its backward pass,
    are not written to.

    Args:
        modules: to keep, with all that is inside them.
        contents: lend copies of what the attributes hold, too: lists, dicts, sets, deques, arrays and tensors, which a
            step may write into (histories, running totals, the states of metrics).
        apart: objects among these contents that are kept by somebody else.
    """

    def __init__(self, modules: Iterable[nn.Module], *, contents: bool = False, apart: Iterable[object] = ()) -> None:
        plain, scripted = all_of(modules, contained=contents)
        self._flags = [(m, m.training) for m in scripted]  # all that can be put back of a scripted module
        spread = sharded(plain)
        self._saved = [(module, Held.by(module, spread=spread)) for module in plain]
        clones: dict[int, Tensor] = {}
        for module, saved in self._saved:
            for name, buffer in saved.buffers.items():
                if buffer is not None:
                    module._buffers[name] = clones.setdefault(id(buffer), buffer.detach().clone())
        if contents:
            lend(plain, clones, apart)

    def restore(self) -> None:
        """Put everything back, the very same objects."""
        for script, flag in self._flags:
            script.training = flag
        for module, saved in self._saved:
            saved.put_into(module)


@contextmanager
def isolated(
    *modules: nn.Module,
    gradients: bool = False,
    contents: bool = False,
    apart: Iterable[object] = (),
    generators: Iterable[Any] = (),
) -> Iterator[None]:
    """Run something on the modules, and leave random state, flags, attributes and buffers as they were.

    Args:
        modules: to protect, with all that is inside them.
        gradients: take the parameters' ``.grad`` away too, and give it back.
        contents: lend the modules copies of what their attributes hold; see :class:`ModuleState`.
        apart: objects among these that must stay the same.
        generators: random generators beside those that the modules hold.
    """
    before = RandomState.now({id(one): one for one in (*generators_of(modules), *generators)}.values())
    state = ModuleState(modules, contents=contents, apart=apart)
    parameters = [p for module in modules for p in module.parameters()] if gradients else []
    grads = [(p, p.grad) for p in parameters]
    for p in parameters:
        p.grad = None
    _STATE.depth = getattr(_STATE, "depth", 0) + 1
    try:
        with ExitStack() as stack:
            for context in (*_uncached_autocast(modules), *_eager()):
                stack.enter_context(context)
            yield
    finally:
        _STATE.depth -= 1
        state.restore()
        for p, grad in grads:
            p.grad = grad
        before.restore()


def _uncached_autocast(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """Autocast as it is, without its cache: a weight that was cast without a graph must not reach the user's step."""
    kinds = {"cpu", *(p.device.type for module in modules for p in module.parameters())}
    for kind in sorted(kinds):
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)


def may_be_compiled() -> bool:
    """Whether anything in this process may be compiled, and can be told to run as it is."""
    return "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")


def _eager() -> Iterator[Any]:
    """Whatever is compiled runs eagerly: new shapes and grad modes would use up the user's recompilations."""
    if may_be_compiled():
        yield torch.compiler.set_stance("force_eager")


@contextmanager
def patched_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let ``module(...)`` run ``forward`` in the place of its own; its hooks still run."""
    own = vars(module).get("forward") if not hasattr(module, "_orig_mod") else module.forward
    module.forward = forward
    stand_in = module.stand_in() if isinstance(module, CalledMethod) else None
    try:
        yield
    finally:
        if stand_in is not None:
            stand_in.remove()
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own


def versions(modules: Iterable[nn.Module]) -> dict[int, int]:
    """How often each parameter, by ``id``, has been written to, to notice a step that trains.

    One that a lazy module has yet to make is left out: its first values are no training.
    """
    made = (p for module in modules for p in module.parameters() if not nn.parameter.is_lazy(p))
    return {id(p): p._version for p in made if not p.is_inference()}


def capturing_graph() -> bool:
    """Whether a CUDA graph is being captured, into which nothing must be added."""
    return cuda_in_use() and torch.cuda.is_current_stream_capturing()


def going_backward() -> bool:
    """Whether autograd is in a backward pass: gradient checkpointing calls modules there once more."""
    return bool(torch._C._current_graph_task_id() != -1)


def needs_gradient(error: BaseException) -> bool:
    """Whether an exception says that the model differentiates something inside: autograd forces."""
    text = str(error)
    signs = ("does not require grad", "does not have a grad_fn", "appears to not have been used in the graph")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def missing_output(error: BaseException) -> bool:
    """Whether an exception says that an output was left out, as some models do with forces under ``no_grad``."""
    return isinstance(error, EquivProbeError) and error.expected.startswith("the schema's outputs")
