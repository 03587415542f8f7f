"""A step's one ordinary run, recorded: what it asks the network, and the random state around every call."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.hook import Hook
from equiv_probe.live.isolation import may_be_compiled, measuring, observed, versions
from equiv_probe.live.left_behind import LeftBehind
from equiv_probe.live.memory import Memory
from equiv_probe.live.module_snapshot import ModuleSnapshot
from equiv_probe.live.random_state import RandomState, generators_of
from equiv_probe.live.reachable import generators_in, modules_of
from equiv_probe.live.used_while_running import Used
from equiv_probe.probe.recorded import Recorded, RecordedStep

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import nn

    from equiv_probe.probe.parts import Parts


class Recorder:
    """Records steps.

    Args:
        parts: of the probe.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._calls: list[Recorded] | None = None
        self._generators: list[Any] = []
        self._last: Any = None
        self._thread: int | None = None
        self._unkept: Exception | None = None
        self._own_seconds = 0.0
        """That the step itself took."""
        self.transformed = False
        """Whether the network was called inside of ``torch.func``, but for ``jvp``, since the recording began."""
        self.elsewhere = False
        """Likewise in another thread."""

    @property
    def active(self) -> bool:
        """Whether a step is in its ordinary run."""
        return self._calls is not None

    @property
    def records_here(self) -> bool:
        """Whether it is this thread that runs the step."""
        return self._thread == threading.get_ident()

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a call of the network."""
        assert self._calls is not None
        try:
            call = self._parts.live.keep(args, kwargs)
        except Exception as error:  # raised after the user's own step, which goes on
            self._unkept = self._unkept or error
            return
        attributes = LeftBehind(self._parts.live.network)
        self._calls.append(Recorded(call, RandomState.now(self._generators), attributes))

    def listen(self) -> None:
        """Put a hook behind all others on the network: what they make of its output counts."""
        hook = Hook(self._heard_output, wanted=False)
        hook.evaluates = False
        self._last = hook.on(self._parts.model.register_forward_hook(hook))

    def deafen(self) -> None:
        """Take it off."""
        if self._last is not None:
            self._last.remove()
        self._last = None

    def _heard_output(self, module: nn.Module, args: tuple[Any, ...], raw: Any) -> None:
        del args
        if module is self._parts.model and not measuring() and self._calls and self.records_here:
            self._calls[-1].put_out(raw)

    def stop(self) -> None:
        """Forget a recording that was broken off."""
        self._calls = None

    def record(
        self, step: Callable[[], Any], result: list[Any], hooked: Callable[[], AbstractContextManager[None]]
    ) -> RecordedStep:
        """Run a step as it is.

        Args:
            step: as for :meth:`equiv_probe.Probe.step`.
            result: what it returns is appended to it.
            hooked: makes contexts in which the hooks are on the network.

        Raises:
            EquivProbeError: a step that does not call the network so that the call can be repeated.
        """
        began = time.perf_counter()
        protect = (*self._parts.task.protect, *modules_of(step))
        modules = (self._parts.live.network, *protect)
        generators = list({id(one): one for one in (*generators_of(modules), *generators_in(step))}.values())
        before, old = RandomState.now(generators), versions(modules)
        memory, snapshot = Memory.of_step(step), ModuleSnapshot((self._parts.model, *modules))
        watched, used = [*memory.watched, *snapshot.objects.watched], Used()
        self.transformed = self.elsewhere = False
        self._unkept = None
        with used.watching(watched):
            calls = self._heard(step, result, hooked, generators)
        new = versions(modules)
        self._parts.schedules.account.around += time.perf_counter() - began - self._own_seconds
        if self._unkept is not None:
            raise self._unkept
        run = RecordedStep(
            step,
            calls,
            before,
            result[0],
            self._parts.model,
            self._parts.live,
            memory=memory,
            snapshot=snapshot,
            protect=protect,
            trains=any(new.get(parameter, version) != version for parameter, version in old.items()),
            unrepeatable=tuple(dict.fromkeys((*used.names, *(str(one) for one in watched if one.changes())))),
        )
        if may_be_compiled() and not calls and not run.never_again:
            run = self._beside(run, hooked, generators)
        self._require_calls(run)
        return run

    def _heard(
        self,
        step: Callable[[], Any],
        result: list[Any],
        hooked: Callable[[], AbstractContextManager[None]],
        generators: list[Any],
    ) -> list[Recorded]:
        """The network's calls in one run of a step."""
        calls: list[Recorded] = []
        self._calls, self._generators, self._thread = calls, generators, threading.get_ident()
        try:
            with hooked():
                self.listen()
                began = time.perf_counter()
                result.append(step())
                self._own_seconds = time.perf_counter() - began
        finally:
            self.deafen()
            self._calls, self._generators = None, []
        return [one for one in calls if one.after is not None]

    def _beside(
        self, run: RecordedStep, hooked: Callable[[], AbstractContextManager[None]], generators: list[Any]
    ) -> RecordedStep:
        """A step run once more: its calls and numbers. Code that is compiled around the network goes past its hooks."""
        result: list[Any] = []
        with run.repeating(), observed():
            run.rewind()
            calls = self._heard(run.step, result, hooked, generators)
        return replace(run, calls=calls, result=result[0])

    def _require_calls(self, run: RecordedStep) -> None:
        if not run.calls and self.elsewhere:
            raise EquivProbeError(
                "a step that calls the probed module in other threads than its own",
                "calls in the thread that runs the step: those of other threads come in no order",
                "call it there, or probe its calls by ep.Probe(network) as hooks, without probe.step",
            )
        if self.transformed:
            raise EquivProbeError(
                "a step that calls the probed module inside of torch.func (vmap, grad)",
                "calls on ordinary tensors, or inside of torch.func.jvp alone: other derivatives cannot be replayed",
                "probe a step that calls it so, in evaluation; every=None leaves training alone",
            )
        if not run.calls:
            raise EquivProbeError(
                "a step that did not call the probed module",
                "at least one call as network(...): those of its methods, such as network._forward(...), are not seen",
                'network(...), ep.Probe(network, method="_forward"), or ep.Probe of the module that the step calls',
            )
