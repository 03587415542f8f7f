"""The probe's two hooks on the network: which calls they keep, and for whom."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.called_method import CalledMethod
from equiv_probe.live.capture import only_forward, transforming
from equiv_probe.live.hook import Hook
from equiv_probe.live.isolation import capturing_graph, going_backward, measuring
from equiv_probe.live.random_state import RandomState
from equiv_probe.probe.call_measurement import Pending, measure_call
from equiv_probe.probe.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from equiv_probe.probe.parts import Parts
    from equiv_probe.probe.recorder import Recorder


class Hooks:
    """Hooks that hand the network's calls to the recorder, or measure them where that is due.

    Args:
        parts: of the probe.
        recorder: of steps.
    """

    def __init__(self, parts: Parts, recorder: Recorder) -> None:
        self._parts, self._recorder = parts, recorder
        self._handles: list[Any] = []
        self._both: list[Hook] = []
        self._granted = self._stopped = False
        self._pending: Pending | None = None
        self._awaited: str | None = None
        self._resting = self._told = False
        self.threads = Threads()

    def attach(self, *, for_calls: bool = True) -> None:
        """Put them on.

        Args:
            for_calls: whether calls outside of steps are measured too.
        """
        model = self._parts.model
        if isinstance(model, torch.jit.ScriptModule):
            raise EquivProbeError(
                "a scripted module, on which torch allows no hooks",
                "a module written in Python",
                "wrap it, and use the wrapper: torch.nn.Sequential(model)",
            )
        if not self._handles:
            wanted = for_calls and not self._parts.schedules["call", "train"].ahead
            self._both = before, after = [Hook(one, wanted=wanted) for one in (self._before, self._after)]
            for one in self._both:
                one.evaluates = for_calls and self._parts.schedules.cadences.full is not None
            self._handles = [
                before.on(model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)),
                after.on(model.register_forward_hook(after, with_kwargs=True)),
            ]
            if for_calls:
                self._handles.append(register_optimizer_step_post_hook(self._stepped))
            if isinstance(model, CalledMethod):
                self._handles.append(model.stand_in())

    def remove(self) -> None:
        """Take them off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._pending = [], None
        self._recorder.stop()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks on the network, for this long if they are not there."""
        there = bool(self._handles)
        self.attach(for_calls=False)
        try:
            yield
        finally:
            if not there:
                self.remove()

    @contextmanager
    def off(self) -> Iterator[None]:
        """A context without the hooks: they do not reach into code that is compiled around the module."""
        for handle in self._handles:
            handle.remove()
        for_calls, self._handles = len(self._handles) > len(self._both), []
        self._recorder.deafen()
        try:
            yield
        finally:
            self.attach(for_calls=for_calls)
            if self._recorder.active:
                self._recorder.listen()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """A context of a step that is not measured, nor are its calls."""
        before, self._resting = self._resting, True
        try:
            yield
        finally:
            self._resting = before
            self._around()

    @contextmanager
    def awaiting(self, stage: str) -> Iterator[None]:
        """A context of a step whose first call is measured."""
        with self.resting(), self.attached():
            self._awaited = stage
            try:
                yield
            finally:
                self._awaited = None

    def _around(self, *hooks: Hook) -> bool:
        """Whether compiled code called the network since this was asked last: it need not stop for hooks any more."""
        passed = self._passed
        for hook in hooks if passed else ():
            hook.wanted = False
        for hook in self._both:
            hook.passed = False
        return passed

    @property
    def _passed(self) -> bool:
        return any(hook.passed for hook in self._both)

    def _stepped(self, *_: Any) -> None:
        """After a step of an optimizer: code that is compiled around the network does not ask whether a call is due."""
        called, self._stopped = self._around() or self._stopped, False
        if called and self._parts.schedules["call", "train"].due():
            self._granted = True
            for hook in self._both:
                hook.wanted = True

    def _due(self) -> bool:
        """Whether a call of the network outside of steps is to be measured."""
        self._stopped = self._around(self._both[0])
        if self._stopped and self._granted:
            self._granted = False
            return True
        return not self._resting and self._parts.schedules["call", self._parts.stage].due()

    @property
    def _recomputes(self) -> bool:
        """Whether a call is gradient checkpointing's, which repeats one that was counted."""
        return going_backward() and not self._recorder.active

    def _idle(self, module: nn.Module) -> bool:
        """Count a call that is known not to be due, by as little as there is to do: nearly all calls are like that."""
        waiting = self._recorder.active or self._resting or self._granted or self._awaited is not None
        if waiting or not module.training or self._passed:
            return False
        return self._parts.schedules["call", "train"].passes()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parts = self._parts
        if module is not parts.model or measuring() or self._recomputes:
            return
        if not self.threads.enter() or self._idle(module) or capturing_graph():
            return
        self._pending = None
        replayable = self._recorder.active and only_forward()
        if transforming() and not replayable:
            self._recorder.transformed = True
            if not (self._recorder.active or self._resting or self._told):
                self._told = True
                parts.checks.calls.leaves_transformed_alone()
        elif self._recorder.active:
            if self._recorder.records_here:
                self._recorder.called(args, kwargs)
            else:
                self._recorder.elsewhere = True
        elif self._awaited is not None or self._due():
            parts.meeting.require(parts.live.network)
            kind = "call" if self._awaited is None else "step"
            augmented = parts.plans.augmentation(parts.model, parts.live) is not None
            before = RandomState.now() if augmented else None
            stage, self._awaited = self._awaited or parts.stage, None
            try:
                self._pending = Pending(parts.live.keep(args, kwargs), stage, kind, before)
            except Exception as error:
                parts.failures.take(error)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], raw: Any) -> None:
        del args, kwargs
        if module is not self._parts.model or measuring():
            return
        self.threads.leave()
        if self._passed:
            self._around(self._both[1])
        if self._pending is None or self._recomputes or self._pending.thread != threading.get_ident():
            return
        pending, self._pending = self._pending, None
        if self._recorder.active:
            return
        with self.threads.alone() as alone, self._parts.failures.listed():
            if alone:
                measure_call(self._parts, pending, raw)
