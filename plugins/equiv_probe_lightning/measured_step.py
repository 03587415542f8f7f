"""A step of a LightningModule, measured if that is due."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

from equiv_probe.estimation.objectives import Training
from equiv_probe.live.isolation import isolated, observed
from equiv_probe.live.network_search import calls_of
from equiv_probe.live.random_state import RandomState, generators_of
from equiv_probe.live.silence import silenced
from equiv_probe_lightning import network as locating
from equiv_probe_lightning.losses import losses_of
from equiv_probe_lightning.step import copied, recorded_logs
from equiv_probe_lightning.trainers import compiled_as_a_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe_lightning.run import Run


def measured_step(
    run: Run, stage: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a step of the module, measured if that is due.

    Args:
        run: whose module it is.
        stage: ``"train"``, ``"val"`` or ``"test"``.
        original: the module's own method.
        args: of the step.
        kwargs: of the step.
    """
    began = time.perf_counter()
    module, first = run.module, not run.stepped
    run.stepped = True
    if stage != "train":
        stage = run.stage_of(stage, original, args, kwargs)
    repeatable = not run.iterates(stage, original) and (stage != "train" or module.automatic_optimization)
    whole = compiled_as_a_whole(module)
    if stage in run.given_up or (whole and not repeatable):
        if stage not in run.given_up:
            _warn_of_compiled(run)
        return original(*args, **kwargs)
    raises = first and run.settings.on_error == "raise"
    if run.probe is None:
        try:
            found = _network(run, original, copied((args, kwargs)) if repeatable else None)
        except Exception as error:
            if raises:
                raise
            run.give_up(stage, error)
            return original(*args, **kwargs)
        if found is None:  # then the user's own run shows which it is
            return _shown(run, stage, original, args, kwargs, raises=raises)
        run.begin(found)
        assert run.probe is not None
        run.probe.schedules.account.around += time.perf_counter() - began
    assert run.probe is not None
    step = _Repeated(run, stage, original, args, kwargs, whole=whole)
    failures, before = run.probe.failures, len(run.probe.failures)
    failures.at_first = None if raises else failures.warn
    run.probe.step(step, stage=stage, replay=repeatable)
    if len(failures) > before and not failures.succeeded:  # of what never worked nobody must hear at every step
        run.given_up.add(stage)
    run.logbook.stepped(run.probe, stage)
    if step.seconds is not None:
        run.probe.schedules.account.around += time.perf_counter() - began - step.seconds
    return step.outcome[0]


def _shown(
    run: Run, stage: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, raises: bool
) -> Any:
    """Run the user's step, and see which module is the network."""
    with calls_of(run.module, run.settings.schema) as called:
        result = original(*args, **kwargs)
    try:
        run.begin(Training(called.only(run.module)))
    except Exception as error:
        if raises:
            raise
        run.give_up(stage, error)
    return result


def _network(run: Run, original: Callable[..., Any], again: Any) -> Training | None:
    """What is trained, where it is known or a run beside the user's own shows it."""
    known = locating.known(run.module, run.settings.network)
    if known is not None or again is None:
        return known
    with run.quiet():
        return locating.seen(run.module, run.settings.schema, original, *again)


class _Repeated:
    """A step that runs once on the user's own batch, and then on copies of it: it may write into them.

    Attributes:
        outcome: what the user's own run returned, once there is something.
        seconds: what that took, where the step was not measured.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        whole: bool,
    ) -> None:
        self._run, self._stage = run, stage
        self._original, self._given, self._whole = original, (args, kwargs), whole
        self.__wrapped__ = original  # what it writes into is put back before it is run again
        self._pristine: Any = None
        self.outcome: list[Any] = []
        self.seconds: float | None = None

    def __call__(self) -> dict[str, Any]:
        """The losses of the step."""
        probe = self._run.probe
        assert probe is not None
        if self.outcome:
            return self._losses(*(copied(self._pristine) or self._given), forward=False)
        if probe.recording:
            self._pristine = copied(self._given)
            return self._compiled() if self._whole else self._losses(*self._given, forward=True)
        args, kwargs = self._given
        began = time.perf_counter()
        self.outcome.append(self._original(*args, **kwargs))
        self.seconds = time.perf_counter() - began
        return {}  # nobody asked for its losses

    @property
    def arguments(self) -> Any:
        """What further runs are given copies of."""
        return self._pristine or self._given

    def _losses(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, forward: bool) -> dict[str, Any]:
        probe = self._run.probe
        assert probe is not None
        with recorded_logs(self._run.module, forward=forward) as logged:
            result = self._original(*args, **kwargs)
        if not self.outcome:
            self.outcome.append(result)
        losses = losses_of(result, logged, by_structure=probe.over is not None)
        return {name: value for name, value in losses.items() if name not in self._run.logbook.repeated(self._stage)}

    def _compiled(self) -> dict[str, Any]:
        """Hooks do not reach into a compiled step: it runs as it is, and is recorded in an eager run beside that."""
        run, module = self._run, self._run.module
        assert run.probe is not None
        args, kwargs = self._given
        before = RandomState.now(generators_of((module,)))
        with run.probe.unhooked():
            self.outcome.append(self._original(*args, **kwargs))
        with run.quiet(), silenced(), isolated(module, gradients=True, contents=True), observed():
            before.restore()
            return self()


def _warn_of_compiled(run: Run) -> None:
    if not run.warned:
        run.warned = True
        what = "a compiled LightningModule's step that cannot be run again is not measured"
        warnings.warn(f"equiv_probe: {what}; compile the network instead: self.net = torch.compile(net)", stacklevel=2)
