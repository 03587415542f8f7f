"""The callback's logic, without a framework: Lightning's own two packages each get a class made of it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence  # noqa: TC003 - configuration tools resolve the annotations
from contextlib import contextmanager
from typing import Any, Literal

import torch

import equiv_probe as ep
from equiv_probe.cli.run_script import claim, report_path
from equiv_probe.estimation.objectives import Training
from equiv_probe.live.generators import generators_of
from equiv_probe.live.isolation import RandomState, isolated, observed
from equiv_probe.live.network_search import calls_of
from equiv_probe.live.silence import silenced
from equiv_probe.messages import logger
from equiv_probe.rotations.drawing import rank
from equiv_probe_lightning import configuration as configured
from equiv_probe_lightning import network as locating
from equiv_probe_lightning import ranks
from equiv_probe_lightning.figures import log_figures
from equiv_probe_lightning.logbook import Logbook
from equiv_probe_lightning.losses import losses_of
from equiv_probe_lightning.step import STEPS, Step, copied, recorded_logs, silent
from equiv_probe_lightning.trainers import compiled_as_a_whole, defines, dummy_logger, reads_iterator


class Measuring:
    """Measures how much of a LightningModule's loss is there only because its network does not respect rotation.

    Logs ``equiv/<stage>/<loss>/L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr``, and prints a
    table in the end. Training steps that are due are run again with the network's answers replaced, without a trace in
    weights, metrics, logs or random numbers.

    Args:
        every: training steps between two measurements; ``"epoch"`` for one in each; a rule ``step -> bool``; or None.
        network: name of the submodule to measure, such as ``"model.net"``, or ``"."`` for the LightningModule itself;
            None finds the one that is called with coordinates.
        schema: representations, an :class:`equiv_probe.Schema` or the same as nested mappings of words; None infers.
        plan: of validation and test; a plan, its design's name or its arguments.
        full: validation (test) batches of which one is measured, at random, as far as the budget goes at least one an
            epoch; a rule; or None.
        budget: largest share of the elapsed time that measuring in validation may take: in short runs most epochs are
            not measured. None is no limit; it is needed where something monitors the share in validation.
        warmup: training steps at the beginning that are left alone.
        window: training measurements in the running estimate.
        augment: rotate the network's training inputs at random too, and its answers back.
        light: the plan of training steps; None is two rotations.
        center: of rotation: ``"centroid"`` or ``"origin"``.
        seed: of the rotations.
        stages: which of ``"train"``, ``"val"`` and ``"test"`` are measured.
        prog_bar: whether the progress bar shows the share.
        over: name of an input of the network's call, such as ``"t"``, in bins of which everything is measured too: in
            the report, and logged at the end of evaluation epochs. A step whose loss is no squared error of the
            network's answer returns the losses of the structures beside it: ``{"loss": ..., "losses": (B,)}``.
        bins: how many equal bins of [0, 1], or their edges; None is ten.
        gradients: log the norms of the gradients of ``L_mean`` and ``L_equiv``, their ratio and the cosine of their
            angle, by group of parameters too: True is every 500th training step, or a cadence as ``every``. A
            measurement costs about as much as 15 training steps, 3 % at that cadence (25 steps of a few milliseconds).
            They are gradients of the loss of one batch; over ranks, their squares are averaged. Not with manual
            optimisation.
        report: where to save the report: a file (``.json``, ``.csv`` or ``.html``), a directory, or True
            for ``equiv_probe_report.json`` in the logger's directory.
        figures: whether to give the share and its history as figures to loggers that take figures, at the end of a fit.
        verbose: whether to print the assumptions and the table.

    Raises:
        EquivProbeError: at the first step, if the network or the schema cannot be found. What cannot be measured later
            is warned of and listed, and never ends a run.
    """

    def __init__(
        self,
        every: int | Literal["epoch"] | Callable[[int], bool] | None = 50,
        *,
        network: str | None = None,
        schema: dict[str, Any] | ep.Schema | None = None,
        plan: str | dict[str, Any] | ep.RotationPlan | None = None,
        full: int | Callable[[int], bool] | None = 10,
        budget: float | None = 0.02,
        warmup: int = 0,
        window: int = 10,
        augment: bool = False,
        light: str | dict[str, Any] | ep.RotationPlan | None = None,
        center: str = "centroid",
        seed: int = 0,
        stages: Sequence[str] = ("train", "val", "test"),
        prog_bar: bool = True,
        over: str | None = None,
        bins: int | Sequence[float] | None = None,
        gradients: bool | int | Literal["epoch"] | Callable[[int], bool] | None = False,
        report: str | bool | None = None,
        figures: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.schema = network, configured.schema(schema)
        unknown = sorted(set(stages) - set(STEPS.values()))
        if unknown:
            raise ep.EquivProbeError(f"stages {unknown}", f"some of {list(STEPS.values())}", 'stages=("train", "val")')
        self.options: dict[str, Any] = {
            "every": every,
            "warmup": warmup,
            "full": full,
            "budget": budget,
            "window": window,
            "center": center,
            "seed": seed,
            "plan": configured.plan(plan),
            "over": over,
            "bins": bins,
            "gradients": gradients,
        }
        if light is not None:
            self.options["light"] = configured.plan(light)
        for kind in ("step", "gradients"):  # what is wrong is an error here
            ep.Probe(torch.nn.Identity(), **self.options).schedule(kind, "train")
        self.stages, self.augment, self.verbose, self.figures = tuple(stages), augment, verbose, figures
        self.report_to: str | bool | None = report
        self.from_environment = False
        """Whether it was added by ``EQUIV_PROBE``: then it steps back behind a callback of the user's own."""
        self.probe: ep.Probe | None = None
        self.logbook = Logbook(prog_bar)
        self._restored: dict[str, Any] | None = None
        self._epochs: dict[str, float | None] = {}
        self._directory = "."
        self._release()

    def _release(self) -> None:
        """Hold nothing of a run."""
        self._trainer: Any = None
        self._module: Any = None
        self._steps: list[Step] = []
        self._augmentation: ep.Augmentation | None = None
        self._turns: list[Any] = []
        """Of a checkpoint, the augmentation's state on every rank."""
        self._warned = False

    @property
    def state_key(self) -> str:
        """The name of the callback's state in a checkpoint."""
        return "EquivarianceCallback" + (" of EQUIV_PROBE" if self.from_environment else "")

    # Begin and end of a run ----------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stand in for the module's steps."""
        self._take_off()
        others = [one for one in trainer.callbacks if isinstance(one, Measuring) and one is not self]
        if self.from_environment and others:
            return
        if self.probe is not None:
            trained = ("step", "train") in self.probe.schedules and self.probe.schedules["step", "train"].step > 0
            another = all(m is not self.probe.model for m in pl_module.modules())
            if another or (trained and stage == "fit" and trainer.global_step == 0):
                # The same callback for another model, or for another run: what it knows is not about this one.
                self.probe, self.logbook = None, Logbook(self.logbook.prog_bar)
        self._trainer, self._module = trainer, pl_module
        self._directory = trainer.log_dir or "."  # every rank must ask
        claim(pl_module)
        self._warn_of_monitors(trainer)
        for name, key in STEPS.items():
            if key in self.stages and defines(pl_module, name):
                self._steps.append(Step(pl_module, name, self._step))
        self._augment()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its steps back."""
        del trainer, pl_module, stage
        self._take_off()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its steps back, and show what was measured until then."""
        del pl_module
        if self._module is None:
            return
        self._take_off()
        if self.probe is not None and self.probe.running and trainer.is_global_zero:
            self._conclude(trainer, None, [f"stopped by {type(exception).__name__}"])

    def _take_off(self) -> None:
        for step in reversed(self._steps):
            step.remove()
        if self._augmentation is not None:
            self._augmentation.remove()
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        """Without the run: a copy of the callback measures anew."""
        gone: dict[str, Any] = {"_trainer": None, "_module": None, "_steps": [], "_augmentation": None, "probe": None}
        gone["logbook"] = Logbook(self.logbook.prog_bar)
        kept = {name: value for name, value in vars(self).items() if name not in {"log", "log_dict"}}
        return {**kept, **gone}

    # A step --------------------------------------------------------------------------------------------------------

    def _step(self, stage: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a step of the module, measured if that is due."""
        module = self._module
        trainer = self._trainer
        # Lightning's Tuner tries learning rates with the user's callbacks taken off: that is not the run.
        if trainer.sanity_checking or all(one is not self for one in trainer.callbacks):
            return original(*args, **kwargs)
        repeatable = not reads_iterator(original) and (stage != "train" or module.automatic_optimization)
        whole = compiled_as_a_whole(module)
        if whole and not repeatable:
            self._warn_of_compiled()
            return original(*args, **kwargs)
        if self.probe is None:
            known = locating.known(module, self.network)
            again = copied((args, kwargs)) if repeatable else None
            if known is not None:
                self._begin(known)
            elif again is not None:
                with self._quiet():
                    self._begin(locating.seen(module, self.schema, original, *again))
            else:  # then the user's own run shows which it is
                with calls_of(module, self.schema) as called:
                    result = original(*args, **kwargs)
                self._begin(Training(called.only(module)))
                return result
        probe = self.probe
        assert probe is not None
        outcome: list[Any] = []
        pristine: list[Any] = []

        def step() -> dict[str, Any]:
            if outcome:  # run again: on a batch of its own, for the step may write into it
                given, named = copied(pristine[0]) or (args, kwargs)
                with recorded_logs(module, forward=False) as logged:
                    return losses_of(original(*given, **named), logged, by_structure=probe.over is not None)
            if probe.recording:
                pristine.append(copied((args, kwargs)))
                if whole:  # hooks do not reach into it: it runs as it is, and is recorded in an eager run beside that
                    before = RandomState.now(generators_of((module,)))
                    with probe.unhooked():
                        outcome.append(original(*args, **kwargs))
                    with self._quiet(), silenced(), isolated(module, gradients=True, contents=True), observed():
                        before.restore()
                        return step()
            with recorded_logs(module, forward=True) as logged:
                outcome.append(original(*args, **kwargs))
            return losses_of(outcome[0], logged, by_structure=probe.over is not None)

        probe.step(step, stage=stage, replay=repeatable)
        self.logbook.stepped(probe, stage)
        return outcome[0]

    def _warn_of_monitors(self, trainer: Any) -> None:
        if self.options["budget"] is None:
            return
        for one in trainer.callbacks:
            monitored = getattr(one, "monitor", None)
            if isinstance(monitored, str) and monitored.startswith("equiv/val/"):
                what = f'{type(one).__name__} monitors "{monitored}", which is outdated in epochs over the budget'
                fix = "EquivarianceCallback(budget=None) measures it in every epoch"
                warnings.warn(f"equiv_probe: {what}; {fix}", stacklevel=2)

    def _warn_of_compiled(self) -> None:
        if not self._warned:
            self._warned = True
            what = "a compiled LightningModule's step that cannot be run again is not measured"
            warnings.warn(
                f"equiv_probe: {what}; compile the network instead: self.net = torch.compile(net)", stacklevel=2
            )

    def _begin(self, training: Training) -> None:
        """Make the probe."""
        network, module = training.network, self._module
        self.probe = ep.Probe(
            network,
            self.schema or training.schema,
            objectives=training.objectives,
            protect=(module,),
            quiet=self._quiet,
            **self.options,
        )
        if self._restored is not None:
            self._restore(self._restored)
        for stage, calls in self._epochs.items():
            self._begin_epoch(stage, calls)
        self._augment()
        if self.verbose and self._trainer.is_global_zero:
            name = next((name for name, m in module.named_modules() if m is network), "") or "."
            logger.info(f'equiv_probe measures network="{name}" ({type(network).__name__})')

    def _augment(self) -> None:
        if self.augment and self.probe is not None and self._augmentation is None:
            seed, center = self.options["seed"] + self._trainer.global_step, self.options["center"]
            self._augmentation = ep.augment(self.probe.model, self.probe.schema, center=center, seed=seed)
            states, self._turns = self._turns, []
            if len(states) == ranks.world():
                self._augmentation.load_state_dict(states[rank()])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        with silent(self._module, self._trainer, dummy_logger(self._trainer)):
            yield

    # Epochs and logging --------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Let one step of the epoch be due, if that is the cadence."""
        del trainer, pl_module
        self._begin_epoch("train", None)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's estimates from nothing."""
        del pl_module
        if not trainer.sanity_checking:
            self._begin_epoch("val", sum(trainer.num_val_batches))

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the estimates from nothing."""
        del pl_module
        self._begin_epoch("test", sum(trainer.num_test_batches))

    def _begin_epoch(self, stage: str, calls: float | None) -> None:
        self._epochs[stage] = calls
        if self.probe is None or self._module is None:
            return
        schedule = self.probe.schedule("step", stage)
        self.probe.begin_epoch(stage, calls, fresh=stage != "train")
        if stage != "train" and ranks.world() > 1:
            # What one rank measures all must: a step that is run again may hold a collective.
            schedule.allowance = ranks.gathered(schedule.allowed())[0]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the running estimate, after a measurement and whenever Lightning is about to write."""
        del outputs, batch, batch_idx
        if self._module is not None and self.probe is not None:
            self.logbook.training(self.probe, trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's estimate."""
        if not trainer.sanity_checking:
            self._evaluated("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the estimate."""
        self._evaluated("test", trainer, pl_module)

    def _evaluated(self, stage: str, trainer: Any, pl_module: Any) -> None:
        if self._module is not None and self.probe is not None and stage in self.stages:
            self.logbook.evaluation(self.probe, stage, trainer, pl_module)

    # The end -------------------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, save the report, and log its figures."""
        del pl_module
        self._conclude_together(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, unless this is part of fitting."""
        del pl_module
        if trainer.state.fn != "fit":
            self._conclude_together(trainer)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, and save the report."""
        del pl_module
        self._conclude_together(trainer)

    def _conclude_together(self, trainer: Any) -> None:
        if self._module is None or self.probe is None:
            return
        merged = ranks.merged(self.probe.running)
        gradients = self.probe.gradients is not None and self.probe.gradients.everything
        if (merged or gradients) and trainer.is_global_zero:
            self._conclude(trainer, merged, [])

    def _conclude(self, trainer: Any, merged: dict[ranks.Key, dict[str, Any]] | None, notes: list[str]) -> None:
        assert self.probe is not None
        report = self.logbook.report(self.probe, trainer, merged, notes)
        if self.verbose:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # which may not have what tables are made of
            print(str(report).encode(encoding, "replace").decode(encoding))
        if self.figures and trainer.state.fn == "fit" and not trainer.barebones:
            log_figures(report, trainer.loggers, trainer.global_step)
        if self.report_to:
            path = report_path(self._directory if self.report_to is True else self.report_to)
            try:
                report.save(path)
            except (OSError, ep.EquivProbeError) as error:  # the training is done; what comes after is the user's
                warnings.warn(f"equiv_probe could not save its report: {error}", stacklevel=2)
                return
            if self.verbose:
                logger.info(f"Saved to {path}")

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks, counts, and random states; every rank must call it."""
        if self.probe is None:
            return self._restored or {}
        state = self.probe.state_dict()
        generators = ranks.gathered(state.pop("generator"))
        state["running"] = ranks.merged(self.probe.running)
        turns = ranks.gathered(self._augmentation.state_dict()) if self._augmentation is not None else []
        return {"probe": state, "generators": generators, "turns": turns, "logbook": self.logbook.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; as soon as there is a probe."""
        self._restored = dict(state_dict)
        if self.probe is not None:
            self._restore(self._restored)

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.probe is not None
        generators, mine = state["generators"], rank()
        generator = generators[mine] if len(generators) == ranks.world() else None
        first = mine == 0  # the sums are over all ranks
        running = state["probe"]["running"] if first else {}
        self.probe.load_state_dict({**state["probe"], "running": running, "generator": generator})
        self.logbook.load_state_dict(state["logbook"])
        self._turns = state.get("turns", [])
        self._restored = None
