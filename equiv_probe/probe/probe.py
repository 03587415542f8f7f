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

import time
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.objectives import label_free, labelled
from equiv_probe.estimation.running import RunningEstimates
from equiv_probe.live.capture import read_outputs
from equiv_probe.live.generators import generators_of
from equiv_probe.live.hook import CallRotation, Hook, rotation_of_calls
from equiv_probe.live.isolation import (
    RandomState,
    capturing_graph,
    cuda_in_use,
    isolated,
    measuring,
    transforming,
    versions,
)
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.reachable import generators_in, modules_of
from equiv_probe.probe.bins import Over
from equiv_probe.probe.probe_report import report_of
from equiv_probe.probe.replay import Replay, replay_step, require_untrained
from equiv_probe.probe.schedule import Schedule
from equiv_probe.probe.step_gradients import step_gradients
from equiv_probe.probe.substitution import Recorded
from equiv_probe.results.over_time import OverTime
from equiv_probe.rotations.drawing import RotationSource, draw, source
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor, nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.live.capture import Call
    from equiv_probe.probe.bins import Bins
    from equiv_probe.probe.schedule import Cadence
    from equiv_probe.probe.step_gradients import Groups
    from equiv_probe.results.report import Report
    from equiv_probe.schema.schema import Schema

T = TypeVar("T")

LIGHT = RotationPlan("haar", replicates=2)
"""Two rotations: the fewest with which ``L_equiv`` can be estimated without bias."""

NOT_REPLAYED = (
    "gradients were not measured: they need a step that can be run again, not one that changes the weights itself "
    "(manual optimisation) or takes its batch from an iterator"
)


def _there(binned: list[tuple[str, str]]) -> str:
    """How to ask for what is in bins."""
    return 'probe.over_time("{}", "{}")'.format(*binned[0]) if binned else 'Probe(..., over="t")'


def _against(targets: Mapping[str, str] | Evaluate | None, loss: AnyLoss | Mapping[str, AnyLoss]) -> Evaluate:
    if callable(targets):
        return targets
    return labelled(targets, loss) if targets else label_free


class Probe:
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
        every: training calls, or steps, between two measurements; ``"epoch"`` for one after each :meth:`begin_epoch`; a
            rule ``step -> bool``; or None for never.
        warmup: training calls at the beginning that are left alone.
        full: evaluation calls, of which one at random is measured; a rule; or None for never.
        budget: largest share of the elapsed time that full mode may take.
        light: the plan of light mode.
        window: measurements in the running estimate.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        seed: of the rotations, which come from generators of the probe's own.
        adapter: for batches that are not made of tensors, tuples and dicts; see
            :class:`equiv_probe.live.adapters.Adapter`.
        stack: whether a dense batch may hold several copies; None tries it once and compares.
        targets: labels among the inputs of the call, by output: ``{"energy": "y"}``; their loss is decomposed. Or a
            function that finds them, see :data:`equiv_probe.estimation.objectives.Evaluate`.
        loss: against the targets; a name, or one by output.
        objectives: the losses of a call, structure by structure, for those who know them: then :meth:`step` measures
            these at the network's first call, and does not run the step again.
        protect: other modules that a replayed step touches; their buffers, flags and gradients are kept too. Those that
            the step names itself, metrics or a head, are found without.
        quiet: makes contexts in which steps are replayed, for what else must not notice.
        over: name of an input of the network's call, such as ``"t"``: everything is also measured in bins of it, see
            :meth:`over_time`. A step's number can be parted into its structures if it is a weighted squared error of
            the network's answer, or if the step returns the structures' own losses.
        bins: how many equal bins of [0, 1], or their edges; None is ten.
        gradients: measure the gradients of ``L_mean`` and ``L_equiv`` by the parameters too, in training steps that go
            through :meth:`step`: every so many, or a cadence as ``every``; True is every 500th. The step is run again
            with the graph kept, in three blocks of two rotations; that costs about as much as 15 training steps, 3 % at
            that cadence (25 steps of a few milliseconds). They are those of the step's own batch, noise of the batch
            included.
        groups: of parameters, as for :func:`equiv_probe.analysis.gradients`.

    Raises:
        EquivProbeError: at the first measurement, if the schema cannot be inferred or does not fit. What fails later
            is listed in ``failures`` and warned of once: it never ends a training run.
    """

    def __init__(
        self,
        model: nn.Module,
        schema: Schema | None = None,
        plan: PlanLike | None = None,
        every: Cadence = 50,
        *,
        warmup: int = 0,
        full: Cadence = 10,
        budget: float | None = 0.1,
        light: RotationPlan = LIGHT,
        window: int = 10,
        center: str | Tensor = "centroid",
        seed: int = 0,
        adapter: Adapter | None = None,
        stack: bool | None = None,
        targets: Mapping[str, str] | Evaluate | None = None,
        loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
        objectives: Evaluate | None = None,
        protect: Iterable[nn.Module] = (),
        quiet: Callable[[], AbstractContextManager[Any]] = nullcontext,
        over: str | None = None,
        bins: Bins | None = None,
        gradients: Cadence | bool = False,
        groups: Groups = None,
    ) -> None:
        self.model = model
        self.plan, self.light = rotation_plan(plan) or RotationPlan(), rotation_plan(light)
        self._chosen = plan is not None, light is not LIGHT
        for each in (self.plan, light):
            if each.R < 2 and each.is_random:
                raise EquivProbeError("a plan of one replicate", "at least two", "RotationPlan(..., replicates=4)")
        self.schedules: dict[tuple[str, str], Schedule] = {}
        """By what is counted, ``"call"``, ``"step"`` or ``"gradients"``, and stage."""
        self._cadence = {"every": every, "warmup": warmup}, {"every": full, "at_random": True, "budget": budget}
        self.live = LiveOrbit(model, schema, center, adapter=adapter, stack=stack)
        self.window, self.seed, self.protect = window, seed, tuple(protect)
        self._source = RotationSource(seed)
        self._evaluate = objectives or _against(targets, loss)
        self._replays, self._quiet = objectives is None, quiet
        self.over = None if over is None else Over(over, bins)
        self.running = RunningEstimates(window)
        wanted = gradients is not None and gradients is not False
        self.gradients = step_gradients(gradients, groups, window) if wanted else None
        self.failures: list[str] = []
        self._handles: list[Any] = []
        self._pending: tuple[Call, str, str, RandomState | None] | None = None
        self._awaiting: str | None = None
        self._recording: list[Recorded] | None = None
        self._generators: list[Any] = []
        self._stepping = self._succeeded = self._transformed = False

    @property
    def schema(self) -> Schema | None:
        """The representations, once they are known."""
        return self.live.schema

    @property
    def recording(self) -> bool:
        """Whether a step is in its ordinary run, and will be run again."""
        return self._recording is not None

    def attach(self) -> Probe:
        """Register the hooks; ``with probe:`` does it too."""
        if isinstance(self.model, torch.jit.ScriptModule):
            raise EquivProbeError(
                "a scripted module, on which torch allows no hooks",
                "a module written in Python",
                "wrap it, and use the wrapper: torch.nn.Sequential(model)",
            )
        if not self._handles:
            before, after = Hook(self._before), Hook(self._after)
            self._handles = [
                self.model.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
                self.model.register_forward_hook(after, with_kwargs=True),
            ]
        return self

    def remove(self) -> None:
        """Take the hooks off; what was measured stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._pending, self._recording = [], None, None

    def __enter__(self) -> Probe:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def schedule(self, kind: str, stage: str) -> Schedule:
        """Which calls or steps are measured, and how long that took.

        Args:
            kind: ``"call"``, ``"step"`` or ``"gradients"``.
            stage: whose.
        """
        if (kind, stage) not in self.schedules:
            light, full = self._cadence
            cadence: dict[str, Any] = light if stage == "train" else full
            if kind == "gradients":
                cadence = {**light, "every": self.gradients.every if self.gradients else None}
            self.schedules[kind, stage] = Schedule(**cadence, seed=self.seed)
        return self.schedules[kind, stage]

    def _stage(self) -> str:
        return "train" if self.live.network.training else "val"

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is not self.model or measuring() or capturing_graph():
            return
        self._pending = None
        if transforming():
            self._transformed = True
        elif self._recording is not None:
            self._recording.append(Recorded(self.live.keep(args, kwargs), RandomState.now(self._generators)))
        elif self._awaiting is not None or (not self._stepping and self.schedule("call", self._stage()).due()):
            kind = "call" if self._awaiting is None else "step"
            before = None if self._augmentation() is None else RandomState.now()
            self._pending = self.live.keep(args, kwargs), self._awaiting or self._stage(), kind, before
            self._awaiting = None

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], raw: Any) -> None:
        del args, kwargs
        if module is not self.model or measuring():
            return
        pending, self._pending = self._pending, None
        if self._recording:
            self._recording[-1].answered(raw)
        elif pending is not None:
            self._attempt(lambda: self._measure(*pending, raw))

    def _measure(self, call: Call, stage: str, kind: str, before: RandomState | None, raw: Any) -> None:
        began = self._clock(stage)
        with isolated(self.live.network), torch.inference_mode(False), torch.no_grad():
            rotated = None if before is None else self._rotated_by()
            if rotated is None:
                self.live.network.eval()
            plan = self._fitted(stage, call, raw)
            if plan.design != "haar":  # only of Haar rotations are the augmentation's a sample
                rotated = None
                self.live.network.eval()
            count = self.live.structures(call.inputs).count
            rotations = self._source.draw(plan, call.inputs, count, rotated)
            known = None
            if rotated is not None and before is not None:
                # The user's own answer is that of the first rotation; the second in the same mode, with its dropout.
                known = {name: v.detach()[None] for name, v in read_outputs(raw, self.live.known_schema).items()}
                before.restore()
            measured = self.live.measure(call, raw, plan, rotations, evaluate=self._evaluate, known=known)
            for name, found in measured.items():
                equiv = found.estimate.equiv
                total = found.estimate.total if found.labelled else torch.full_like(equiv, torch.nan)
                running = self.running.add(stage, name, equiv, total, found.weight)
                running.labelled, running.loss = found.labelled, found.loss
            if self.over is not None:
                self.over.add_calls(self.running, stage, self._values(call), measured)
        self.schedule(kind, stage).spent(self._clock(stage) - began)

    def _fitted(self, stage: str, call: Call, raw: Any, given: RotationPlan | None = None) -> RotationPlan:
        """The plan of a stage: where nobody chose one, what fits the grids of the call."""
        schema = self.live.resolve(call, raw)
        outputs = read_outputs(raw, schema)
        plan_chosen, light_chosen = self._chosen
        if not plan_chosen:
            self.plan = fitting_plan(self.plan, schema, call.inputs, outputs)
        if not light_chosen:
            self.light = fitting_plan(self.light, schema, call.inputs, outputs, subset=2)
        plan = given or (self.light if stage == "train" else self.plan)
        require_fit(plan, schema, call.inputs, outputs)
        return plan

    def fitted(self, call: Call, raw: Any, plan: RotationPlan) -> RotationPlan:
        """A plan, once it is known to fit what is rotated."""
        return self._fitted("", call, raw, plan)

    def turns(
        self,
        recorded: list[Recorded],
        plan: RotationPlan,
        generator: torch.Generator | None,
        *,
        per_structure: bool,
    ) -> Tensor:
        """A plan's rotations for a recorded step, ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` for each structure."""
        with torch.no_grad():
            for one in recorded:
                self.live.resolve(one.call, one.raw)
            inputs = recorded[0].call.inputs
            counts = {self.live.structures(one.call.inputs).count for one in recorded}
            if per_structure and len(counts) > 1:
                raise EquivProbeError(
                    f"calls of {sorted(counts)} structures in one step", "the same structures", "per_structure=False"
                )
            rotations = draw(plan, generator or plan.generator(), counts.pop() if per_structure else None)
            device = next((v.device for v in inputs.values() if isinstance(v, torch.Tensor)), rotations.device)
            rotations = rotations.to(device, non_blocking=True)
            return self.live.repeats_rotated_alike(inputs, rotations) if per_structure else rotations

    def _augmentation(self) -> CallRotation | None:
        """What rotates the training calls, if its rotations will do for light mode."""
        light = self.light
        if not (self.live.network.training and (light.design, light.R, light.improper) == ("haar", 2, False)):
            return None
        return rotation_of_calls(self.model, self.live.network)

    def _rotated_by(self) -> Tensor | None:
        """The rotations of the latest training call, ``(U, 3, 3)``."""
        augmentation = self._augmentation()
        return None if augmentation is None else augmentation.rotations

    def begin_epoch(self, stage: str, calls: float | None = None, *, fresh: bool = False) -> None:
        """Say that an epoch begins: for ``every="epoch"``, and so that every epoch of an evaluation is measured.

        Args:
            stage: whose steps.
            calls: in this epoch, if known.
            fresh: forget what was measured in this stage before, as soon as something new is.
        """
        self.schedule("step", stage).begin_epoch(calls)
        if stage == "train" and self.gradients is not None:
            self.schedule("gradients", stage).begin_epoch(calls)
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
        stage = stage or self._stage()
        schedule = self.schedule("step", stage)
        due = not measuring() and schedule.due()
        differentiate = not measuring() and stage == "train" and self._differentiates(replay)
        if not (due or differentiate):
            with self._unobserved():
                return step()
        if not (self._replays and replay) and not differentiate:
            with self._unobserved(), self._attached():
                self._awaiting = stage
                try:
                    return step()
                finally:
                    self._awaiting = None
        result: list[T] = []

        def observe() -> None:
            self._observe(step, stage, result, per_structure=per_structure, due=due, differentiate=differentiate)

        self._attempt(observe, result)
        return result[0]

    def _differentiates(self, replay: bool) -> bool:
        """Whether gradients are due at this step; one that cannot be run again is only counted."""
        if self.gradients is None or not self.schedule("gradients", "train").due():
            return False
        if not replay and NOT_REPLAYED not in self.gradients.notes:
            self.gradients.notes.append(NOT_REPLAYED)
        return replay

    def _observe(
        self,
        step: Callable[[], T],
        stage: str,
        result: list[T],
        *,
        per_structure: bool | None,
        due: bool,
        differentiate: bool,
    ) -> None:
        """Run a step that is due, and measure what is due in it."""
        recorded, before = self.record(step, result)
        if due:
            self._decompose(step, stage, result, (recorded, before), per_structure)
        if differentiate:
            self._differentiate(step, recorded, before, per_structure)

    def _differentiate(
        self, step: Callable[[], Any], recorded: list[Recorded], before: RandomState, per_structure: bool | None
    ) -> None:
        """Measure the gradients; what cannot be differentiated is listed, and ends no run."""
        assert self.gradients is not None
        schedule, began, call = self.schedule("gradients", "train"), self._clock("train"), recorded[0].call
        try:
            with torch.no_grad():
                for one in recorded:
                    self.live.resolve(one.call, one.raw)
            device = next((v.device for v in call.inputs.values() if isinstance(v, torch.Tensor)), torch.device("cpu"))
            with self._quiet():
                self.gradients.measure(
                    step,
                    recorded,
                    before,
                    module=self.model,
                    live=self.live,
                    plan=self._fitted("train", call, recorded[0].raw),
                    generator=source(self.seed, schedule.step, device),
                    protect=(*self.protect, *modules_of(step)),
                    per_structure=per_structure,
                )
        except Exception as error:
            self._failed(error, "measure gradients")
        finally:
            schedule.spent(self._clock("train") - began)

    def _decompose(
        self,
        step: Callable[[], T],
        stage: str,
        result: list[T],
        run: tuple[list[Recorded], RandomState],
        per_structure: bool | None,
    ) -> None:
        recorded, before = run
        if not self._replays or (isinstance(result[0], Mapping) and not result[0]):
            self._measure(recorded[0].call, stage, "step", None, recorded[0].raw)
            return
        began = self._clock(stage)
        plan = self._fitted(stage, recorded[0].call, recorded[0].raw)
        try:
            self._keep(
                stage, self._again(step, recorded, before, plan, result[0], per_structure=per_structure), recorded
            )
        finally:
            self.schedule("step", stage).spent(self._clock(stage) - began)

    def replay(
        self, step: Callable[[], Any], plan: PlanLike | None = None, *, per_structure: bool | None = None
    ) -> Replay:
        """Decompose the losses that a step returns, now.

        The step is run once as it is, and again for every rotation, their mean and the leave-one-out means, with the
        network's answers replaced and the random state put back: the same noise is drawn each time.

        Args:
            step: as for :meth:`step`.
            plan: None is the probe's own.
            per_structure: rotate each structure by rotations of its own, which is more precise for a loss that is a sum
                over structures, and needs every call of the network to see the same structures; None: if they do, as
                far as their number tells.
        """
        result: list[Any] = []
        recorded, before = self.record(step, result)
        fitted = self._fitted("", recorded[0].call, recorded[0].raw, rotation_plan(plan))
        return self._again(step, recorded, before, fitted, result[0], per_structure=per_structure)

    def record(self, step: Callable[[], T], result: list[T]) -> tuple[list[Recorded], RandomState]:
        """The step's one ordinary run: the network's calls in it, and the random state before it.

        Args:
            step: as for :meth:`step`.
            result: what it returns is appended to it.
        """
        modules = (self.live.network, *self.protect, *modules_of(step))
        self._generators = list({id(one): one for one in (*generators_of(modules), *generators_in(step))}.values())
        before, old = RandomState.now(self._generators), versions(modules)
        recorded: list[Recorded] = []
        self._recording, self._transformed = recorded, False
        try:
            with self._attached():
                result.append(step())
        finally:
            self._recording, self._generators = None, []
        recorded = [one for one in recorded if one.after is not None]
        require_untrained(old, versions(modules))
        if self._transformed:
            raise EquivProbeError(
                "a step that calls the probed module inside of torch.func (vmap, grad, jvp) or with dual numbers",
                "calls on ordinary tensors: its derivatives cannot be replayed",
                "probe a step that calls it so, in evaluation; every=None leaves training alone",
            )
        if not recorded:
            raise EquivProbeError(
                "a step that did not call the probed module", "at least one call", "ep.Probe(network)"
            )
        return recorded, before

    def _again(
        self,
        step: Callable[[], T],
        recorded: list[Recorded],
        before: RandomState,
        plan: RotationPlan,
        result: T,
        *,
        per_structure: bool | None,
    ) -> Replay:
        """The step's further runs, and the decomposition."""
        with torch.no_grad():
            for one in recorded:
                self.live.resolve(one.call, one.raw)
            inputs = recorded[0].call.inputs
            counts = {self.live.structures(one.call.inputs).count for one in recorded}
            if per_structure is None:
                per_structure = len(counts) == 1
            # Where an augmentation rotated the input, the user's own answer is that of the first rotation.
            alone = per_structure and len(recorded) == 1 and plan is self.light
            rotated, first = self._rotated_by() if alone else None, None
            rotations = self._source.draw(plan, inputs, counts.pop() if per_structure else None, rotated)
            if rotated is None and per_structure:
                rotations = self.live.repeats_rotated_alike(inputs, rotations)
            if rotated is not None:
                answers = read_outputs(recorded[0].raw, self.live.known_schema)
                first = {name: value.detach() for name, value in answers.items()}
        with self._quiet():
            return replay_step(
                step,
                recorded,
                result,
                module=self.model,
                live=self.live,
                plan=plan,
                rotations=rotations,
                before=before,
                first=first,
                protect=(*self.protect, *modules_of(step)),
                part=self.over is not None,
            )

    def _keep(self, stage: str, replay: Replay, recorded: list[Recorded]) -> None:
        for name, found in replay.scalars.items():
            one = found.total[None]
            pseudo = found.pseudo_equiv, found.pseudo_total
            self.running.add(stage, name, found.equiv[None], one, torch.ones_like(one), pseudo=pseudo)
        if self.over is not None:
            look = stage != "train" or not self._succeeded
            self.over.add_step(self.running, stage, [self._values(one.call) for one in recorded], replay, look=look)

    def _values(self, call: Call) -> Tensor:
        """Of the input that is binned over, for each structure of a call, ``(U,)``."""
        assert self.over is not None
        return self.over.values(call.inputs, self.live.structures(call.inputs))

    def _attempt(self, measure: Callable[[], None], result: list[Any] | None = None) -> None:
        """Measure; a failure after the first success is listed and warned of, never raised."""
        try:
            measure()
        except Exception as error:
            if not self._succeeded or result == []:  # no result: it is the user's own step that failed
                raise
            self._failed(error, "measure")
        else:
            self._succeeded = True

    def _failed(self, error: Exception, what: str) -> None:
        """List a failure, and warn of the first."""
        self.failures.append(f"{type(error).__name__}: {error}")
        if len(self.failures) == 1:
            warnings.warn(f"equiv_probe could not {what}, and carries on: {self.failures[0]}", stacklevel=3)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The hooks on the module, for this long if they are not there."""
        there = bool(self._handles)
        self.attach()
        try:
            yield
        finally:
            if not there:
                self.remove()

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """A context without the hooks: they do not reach into code that is compiled around the module."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        try:
            yield
        finally:
            self.attach()

    @contextmanager
    def _unobserved(self) -> Iterator[None]:
        stepping, self._stepping = self._stepping, True
        try:
            yield
        finally:
            self._stepping = stepping

    def _clock(self, stage: str) -> float:
        """Seconds; off the training path after waiting for the device, so that the budget counts what was computed."""
        if stage != "train" and cuda_in_use():
            torch.cuda.synchronize()
        return time.perf_counter()

    def compute(self, *, window: bool = True) -> dict[str, float]:
        """The estimates so far, as ``equiv/<stage>/<output>/L_equiv`` and so on, each with ``_stderr``.

        Args:
            window: over the latest measurements (of gradients, the last one); False for all since the start.
        """
        found = self.running.compute(window=window)
        for stage, name in self.binned:
            in_bins = self.over_time(stage, name, window=window).values()
            found.update({f"equiv/{stage}/{name}/{key}": value for key, value in in_bins.items()})
        if self.gradients is not None:
            shown = self.gradients.latest() if window else self.gradients.everything
            found.update({f"equiv/train/{key}": float(v) for key, v in self.gradients.values(shown).items()})
        return found

    @property
    def binned(self) -> list[tuple[str, str]]:
        """Stages and outputs that are in bins of the input named by ``over=``; fetches counts from the device."""
        return [key for key, running in self.running.items() if self.over is not None and running.binned.count]

    def over_time(self, stage: str = "train", name: str | None = None, *, window: bool | None = None) -> OverTime:
        """The estimates in bins of the input named by ``over=``, to print and to plot.

        Args:
            stage: whose.
            name: of the loss or output; None is the only one, or the first.
            window: over the latest measurements, or all since the start; None is the former in training only.

        Raises:
            EquivProbeError: nothing was binned; the reason where it is known.
        """
        there = self.binned
        found = next((key for key in there if key[0] == stage and name in {None, key[1]}), None)
        if self.over is None or found is None:
            raise EquivProbeError(
                f"nothing in bins for {stage}/{name or '...'}",
                ", ".join(map("/".join, there)) or "a measurement",
                " ".join(self.over.notes) if self.over and self.over.notes else _there(there),
            )
        running = self.running[found]
        rows = running.binned.latest if (stage == "train" if window is None else window) else running.binned.everything
        assert rows is not None
        return OverTime.of(
            self.over.name, self.over.edges.tolist(), found, rows, labelled=running.labelled, loss=running.loss
        )

    def report(self, **about: Any) -> Report:
        """What was measured, as a report; arguments as for :func:`equiv_probe.probe.probe_report.report_of`."""
        return report_of(self, **about)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: sums, counts and the generator's state."""
        return {
            "running": self.running.state_dict(),
            "schedules": {key: schedule.state_dict() for key, schedule in self.schedules.items()},
            "generator": self._source.state(),
            "over": None if self.over is None else self.over.state_dict(),
            "gradients": None if self.gradients is None else self.gradients.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; the model must be on its device."""
        same_bins = self.over is not None and self.over.continues(state.get("over"))
        self.running.load_state_dict(state["running"], binned=same_bins)
        if self.gradients is not None and state.get("gradients"):
            self.gradients.load_state_dict(state["gradients"])
        for key, stored in state["schedules"].items():
            self.schedule(*key).load_state_dict(stored)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self._source.restore(state["generator"], device)

    def __str__(self) -> str:
        lines = [f"equiv_probe on {type(self.live.network).__name__}"]
        lines += [f"  {name:<40} {value:.6g}" for name, value in self.compute(window=False).items()]
        return "\n".join([*lines, *(f"  failed: {failure}" for failure in self.failures)])
