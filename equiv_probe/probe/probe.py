"""The probe: hooks on a live module that measure now and then, and leave no trace.

>>> import torch, equiv_probe as ep
>>> _ = torch.manual_seed(0)
>>> class Model(torch.nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.layer = torch.nn.Linear(3, 3)
...     def forward(self, pos):
...         return {"forces": self.layer(pos - pos.mean(-2, keepdim=True))}
>>> model, x, y = Model(), torch.randn(8, 5, 3), torch.randn(8, 5, 3)
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> with ep.Probe(model, schema, every=1) as probe:
...     loss = probe.step(lambda: (model(x)["forces"] - y).square().mean())
>>> sorted(probe.compute())[::2]
['equiv/train/loss/L_equiv', 'equiv/train/loss/L_mean', 'equiv/train/loss/L_total', 'equiv/train/loss/share']
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from equiv_probe.deprecation import renamed
from equiv_probe.live.called_method import CalledMethod
from equiv_probe.live.isolation import measuring
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.probe.accumulated import Accumulated
from equiv_probe.probe.bins import Over
from equiv_probe.probe.hooks import Hooks
from equiv_probe.probe.parts import Parts
from equiv_probe.probe.plans import LIGHT, Plans
from equiv_probe.probe.probe_report import report_of
from equiv_probe.probe.readings import Readings
from equiv_probe.probe.recorder import Recorder
from equiv_probe.probe.schedules import Cadences, Schedules
from equiv_probe.probe.step_gradients import step_gradients
from equiv_probe.probe.step_measurement import gradients_due, measure_gradients, measure_step, replayed
from equiv_probe.probe.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor, nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.probe.bins import Bins
    from equiv_probe.probe.recorded import RecordedStep
    from equiv_probe.probe.replay import Replay
    from equiv_probe.probe.schedule import Cadence, Warmup
    from equiv_probe.probe.step_gradients import Groups
    from equiv_probe.results.report import Report
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.rotations.resolve import PlanLike
    from equiv_probe.schema.schema import Schema

T = TypeVar("T")


class Probe(Readings):
    """Measures a module's symmetry error while it is being used.

    Every training call that is due costs two more forward passes without gradient (light mode), every evaluation call
    that is due the whole plan (full mode); both evaluate the model in eval mode. Without labels this gives the
    squared-error ``L_equiv`` of each output. :meth:`step` and :meth:`replay` decompose any loss of the user's own.

    Args:
        model: any module: plain, compiled, wrapped for data-parallel training.
        schema: representations; None infers them at the first call that is due, and prints what it assumed. Inputs are
            named as in the signature of ``forward``, and by their keys if it is given a dict.
        plan: of full mode; None is four tetrahedral replicates, 48 rotations; where a grid without interpolation
            rotates along, the rotations of the cube (half turns, on a box that is no cube), and two of them in light
            mode.
        every: training calls, or steps, between two measurements; ``"auto"`` for as many as the cost allows, the same
            in all processes; ``"epoch"`` for one after each :meth:`begin_epoch`; a rule ``step -> bool``; or None for
            never.
        warmup: training calls at the beginning that are left alone; ``"earned"`` leaves those of evaluation alone too,
            until the cost allows a first measurement: a run too short for one has no number.
        full: evaluation calls, of which one at random is measured; a rule; or None for never.
        cost: largest share of the elapsed time that measuring takes, in training with ``every="auto"`` and in
            evaluation; one half for each where both are measured so. A first measurement comes early all the same. It,
            and in evaluation one that there is no room for otherwise, are small if no plan was chosen: four rotations,
            or two of eight structures of the batch, drawn at random, whose loss is scaled to the batch where it is
            found to be a sum over structures (and whose error bar includes the draw). None is no limit. Gradients are
            counted apart.
        light: the plan of light mode.
        window: measurements in the running estimate.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        seed: of the rotations, which come from generators of the probe's own.
        adapter: for batches that are not made of tensors, tuples and dicts; see
            :class:`equiv_probe.live.adapters.Adapter`.
        stacked: whether a dense batch may hold several copies; None tries it once and compares.
        targets: labels among the inputs of the call, by output: ``{"energy": "y"}``; their loss is decomposed. Or a
            function that finds them, see :data:`equiv_probe.estimation.objectives.Evaluate`.
        loss: against the targets; a name, or one by output.
        objectives: the losses of a call, structure by structure, for those who know them: then :meth:`step` measures
            these at the network's first call, and does not run the step again.
        protect: other modules that a replayed step touches; their buffers, flags and gradients are kept too. Those that
            the step names itself, metrics or a head, are found without.
        quiet: makes contexts in which steps are replayed, for what else must not notice.
        over: name of an input of the network's call, such as ``"t"``: everything is also measured in bins of it, see
            :meth:`over_time`. A step's number can be split by structure if it is a weighted squared error of
            the network's output, or if the step returns the structures' own losses.
        bins: how many equal bins of [0, 1], or their edges; None is ten.
        gradients: measure the gradients of ``L_mean`` and ``L_equiv`` by the parameters too, in training steps that go
            through :meth:`step`: every so many, or a cadence as ``every``; True is every 500th. The step is run again
            with the graph kept, in three blocks of two rotations; that costs about as much as 15 training steps, 3 % at
            that cadence (25 steps of a few milliseconds). They are those of the step's own batch, noise of the batch
            included.
        groups: of parameters, as for :func:`equiv_probe.analysis.gradients`.
        method: the name of the method by which the network is called, where that is not ``network(...)``.

    Raises:
        EquivProbeError: at the first measurement, if the schema cannot be inferred or does not fit. What fails later
            is listed in ``failures`` and warned of once: it never ends a training run.
    """

    @renamed(budget="cost", stack="stacked")
    def __init__(
        self,
        model: nn.Module,
        schema: Schema | None = None,
        plan: PlanLike | None = None,
        every: Cadence = "auto",
        *,
        warmup: Warmup = 0,
        full: Cadence = 10,
        cost: float | None = 0.01,
        light: PlanLike = LIGHT,
        window: int = 10,
        center: str | Tensor = "centroid",
        seed: int = 0,
        adapter: Adapter | None = None,
        stacked: bool | None = None,
        targets: Mapping[str, str] | Evaluate | None = None,
        loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
        objectives: Evaluate | None = None,
        protect: Iterable[nn.Module] = (),
        quiet: Callable[[], AbstractContextManager[Any]] = nullcontext,
        over: str | None = None,
        bins: Bins | None = None,
        gradients: Cadence | bool = False,
        groups: Groups = None,
        method: str | None = None,
    ) -> None:
        wanted = gradients is not None and gradients is not False
        differentiating = step_gradients(gradients, groups, window) if wanted else None
        model = model if method is None else CalledMethod(model, method)
        plans = Plans(plan, light, seed)
        cadences = Cadences(every, warmup, full, cost, differentiating.every if differentiating else None, seed)
        super().__init__(
            Parts(
                model,
                LiveOrbit(model, schema, center, adapter=adapter, stacked=stacked),
                Task.of(targets, loss, objectives, protect, quiet),
                plans,
                Schedules(cadences, plans.small.size / plans.full.size),
                Accumulated(window, None if over is None else Over(over, bins), differentiating),
                seed,
            )
        )
        self._recorder = Recorder(self._parts)
        self._hooks = Hooks(self._parts, self._recorder)

    # On and off -----------------------------------------------------------------------------------------------------

    def attach(self) -> Probe:
        """Register the hooks; ``with probe:`` does it too."""
        self._hooks.attach()
        return self

    def remove(self) -> None:
        """Take the hooks off; what was measured stays."""
        self._hooks.remove()

    def __enter__(self) -> Probe:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def unhooked(self) -> AbstractContextManager[None]:
        """A context without the hooks: they do not reach into code that is compiled around the module."""
        return self._hooks.off()

    # Measuring ------------------------------------------------------------------------------------------------------

    def begin_epoch(
        self, stage: str, calls: float | None = None, *, fresh: bool = False, last: bool | None = None
    ) -> None:
        """Say that an epoch begins: for ``every="epoch"``, and so that every epoch of an evaluation is measured.

        Args:
            stage: whose steps.
            calls: in this epoch, if known.
            fresh: forget what was measured in this stage before, as soon as something new is.
            last: whether it is the last epoch of an evaluation, if that is known: for it half of what evaluation may
                cost is kept, and it is measured whatever comes.
        """
        self.schedules["step", stage].begin_epoch(calls, last)
        if stage == "train" and self.gradients is not None:
            self.schedules["gradients", stage].begin_epoch(calls)
        if fresh:
            self.running.stale.add(stage)

    def step(
        self,
        step: Callable[[], T],
        *,
        stage: str | None = None,
        replay: bool = True,
        per_structure: bool | None = None,
    ) -> T:
        """Run the user's step, and decompose its loss when that is due. The hooks are put on for that, if need be.

        Args:
            step: a closure that calls the model and returns its loss, or a mapping or tuple of losses; an empty mapping
                if there is none, and then ``L_equiv`` of the model's outputs is measured, without labels. It must not
                change the weights: ``backward()`` and ``optimizer.step()`` come after it. It is run again when that is
                due: what the caller needs of it, a prediction for one, it returns; a variable outside would be left as
                the last run left it.
            stage: the name to keep the estimates under; None is ``"train"`` or ``"val"``, by the model's mode.
            replay: False for a step that cannot be run again, because it changes the weights or takes its batch from an
                iterator: the outputs of the model's first call are measured, without labels.
            per_structure: as for :meth:`replay`; False for a loss that couples structures with each other.

        Returns:
            What the closure returned in its one ordinary run, graph and all.
        """
        stage = stage or self._parts.stage
        due = differentiated = False
        if not measuring():
            due = self.schedules["step", stage].due()
            differentiated = stage == "train" and gradients_due(self._parts, replay=replay)
        if not (due or differentiated):
            with self._hooks.resting():
                return step()
        at_its_call = not (self._parts.task.replays and replay) or stage in self._parts.checks.steps.at_calls
        if at_its_call and not differentiated:
            with self._hooks.awaiting(stage):
                return step()
        result: list[Any] = []
        with self._parts.failures.listed(result), self._hooks.attached():
            self._parts.meeting.require(self.live.network)
            run = self.record(step, result)
            with self._hooks.threads.alone() as alone:
                if due and alone:
                    measure_step(self._parts, run, stage, per_structure)
                if differentiated and alone:
                    measure_gradients(self._parts, run, per_structure)
        found: T = result[0]
        return found

    def replay(
        self, step: Callable[[], Any], plan: PlanLike | None = None, *, per_structure: bool | None = None
    ) -> Replay:
        """Decompose the losses that a step returns, now.

        The step is run once as it is, and again for every rotation, their mean and the leave-one-out means, with the
        network's outputs replaced and the random state put back: the same noise is drawn each time.

        Args:
            step: as for :meth:`step`.
            plan: None is the probe's own.
            per_structure: rotate each structure by rotations of its own, which is more precise for a loss that is a sum
                over structures, and needs every call of the network to see the same structures; None: if they do, as
                far as their number tells.
        """
        run = self.record(step, [])
        return replayed(self._parts, run, self.fitted(run, plan), per_structure)

    def ahead(self, stage: str) -> float:
        """How many steps of the user's own, from the next one on, are known not to be due; infinity for all of them."""
        step = self.schedules["step", stage]
        counted = [step] if stage != "train" or self.gradients is None else [step, self.schedules["gradients", stage]]
        return min(one.ahead for one in counted)

    def passed(self, stage: str, steps: int) -> None:
        """Count steps that :meth:`ahead` said not to be due, and that did not go through :meth:`step`."""
        self.schedules["step", stage].passed(steps)
        if stage == "train" and self.gradients is not None:
            self.schedules["gradients", stage].passed(steps)

    @property
    def recording(self) -> bool:
        """Whether a step is in its ordinary run, and will be run again."""
        return self._recorder.active

    def record(self, step: Callable[[], Any], result: list[Any]) -> RecordedStep:
        """The step's one ordinary run, and what is needed to run it again.

        Args:
            step: as for :meth:`step`.
            result: what it returns is appended to it.
        """
        return self._recorder.record(step, result, self._hooks.attached)

    def fitted(self, run: RecordedStep, plan: PlanLike | None) -> RotationPlan:
        """A plan, once it is known to fit what is rotated in a step; None is that of full mode."""
        return self._parts.plans.fitted(self.live, run.calls[0].call, run.calls[0].raw, given=plan)

    def report(self, **about: Any) -> Report:
        """What was measured, as a report; arguments as for :func:`equiv_probe.probe.probe_report.report_of`."""
        return report_of(self, **about)
