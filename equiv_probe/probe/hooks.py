"""The probe's two hooks on the network: which calls they keep, and for whom."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.hook import Hook
from equiv_probe.live.isolation import RandomState, capturing_graph, measuring, transforming
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
        self._pending: Pending | None = None
        self._awaited: str | None = None
        self._resting = False
        self.threads = Threads()

    def attach(self) -> None:
        """Put them on."""
        model = self._parts.model
        if isinstance(model, torch.jit.ScriptModule):
            raise EquivProbeError(
                "a scripted module, on which torch allows no hooks",
                "a module written in Python",
                "wrap it, and use the wrapper: torch.nn.Sequential(model)",
            )
        if not self._handles:
            before, after = Hook(self._before), Hook(self._after)
            self._handles = [
                model.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                model.register_forward_hook(after, with_kwargs=True),
            ]

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
        self.attach()
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
        self._handles = []
        self._recorder.deafen()
        try:
            yield
        finally:
            self.attach()
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

    @contextmanager
    def awaiting(self, stage: str) -> Iterator[None]:
        """A context of a step whose first call is measured."""
        with self.resting(), self.attached():
            self._awaited = stage
            try:
                yield
            finally:
                self._awaited = None

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parts = self._parts
        if module is not parts.model or measuring() or capturing_graph():
            return
        if not self.threads.enter():
            return
        self._pending = None
        if transforming():
            self._recorder.transformed = True
        elif self._recorder.active:
            if self._recorder.records_here:
                self._recorder.called(args, kwargs)
        elif self._awaited is not None or (not self._resting and parts.schedules["call", parts.stage].due()):
            parts.meeting.require(parts.live.network)
            kind = "call" if self._awaited is None else "step"
            augmented = parts.plans.augmentation(parts.model, parts.live) is not None
            before = RandomState.now() if augmented else None
            stage, self._awaited = self._awaited or parts.stage, None
            try:
                self._pending = Pending(parts.live.keep(args, kwargs), stage, kind, before)
            except Exception as error:
                if parts.failures.fatal:
                    raise
                parts.failures.add(error, "measure")

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], raw: Any) -> None:
        del args, kwargs
        if module is not self._parts.model or measuring():
            return
        self.threads.leave()
        if self._pending is None or self._pending.thread != threading.get_ident():
            return
        pending, self._pending = self._pending, None
        if self._recorder.active:
            return
        with self.threads.alone() as alone, self._parts.failures.listed():
            if alone:
                measure_call(self._parts, pending, raw)
