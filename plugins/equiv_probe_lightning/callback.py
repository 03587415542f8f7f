"""The callback's hooks, without a framework: Lightning's own two packages each get a class made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence  # noqa: TC003 - configuration tools resolve the annotations
from typing import TYPE_CHECKING, Any, Literal

import equiv_probe as ep  # noqa: TC001 - likewise
from equiv_probe.deprecation import renamed
from equiv_probe_lightning import settings as configured
from equiv_probe_lightning.conclusion import conclude, conclude_together
from equiv_probe_lightning.harmless import harmless
from equiv_probe_lightning.limits import Limits
from equiv_probe_lightning.measured_step import measured_step
from equiv_probe_lightning.run import Run
from equiv_probe_lightning.settings import Settings
from equiv_probe_lightning.trainers import is_running

if TYPE_CHECKING:
    from equiv_probe_lightning.logbook import Logbook


class Measuring:
    """Measures how much of a LightningModule's loss is there only because its network does not respect rotation.

    Logs ``equiv/<stage>/<loss>/L_total``, ``L_mean``, ``L_equiv`` and ``share``, each with ``_stderr``, and prints a
    table in the end. Training steps that are due are run again with the network's outputs replaced, without a trace in
    weights, metrics, logs or random numbers.

    Args:
        every: training steps between two measurements; ``"auto"`` for as many as the cost allows; ``"epoch"`` for one
            in each; a rule ``step -> bool``; or None.
        network: name of the submodule to measure, such as ``"model.net"``, or ``"."`` for the LightningModule itself;
            None finds the one that is called with coordinates.
        schema: representations, an :class:`equiv_probe.Schema` or the same as nested mappings of words; None infers.
        plan: of validation and test; a plan, its design's name or its arguments.
        full: validation (test) batches of which one is measured, at random, as far as the cost allows; a rule; or None.
            The last epoch, as far as that is foreseen, and a test are measured once at least, by few rotations or few
            structures of a batch if need be.
        cost: largest share of the run's time that measuring may take, in training with ``every="auto"`` and in
            validation: in short runs most epochs are not measured. None is no limit; it is needed where something
            monitors the share in validation.
        warmup: training steps at the beginning that are left alone; ``"earned"``: until the cost allows the first
            measurement, in evaluation too.
        window: training measurements in the running estimate.
        augment: rotate the network's training inputs at random too, and its outputs back.
        light: the plan of training steps; None is two rotations.
        center: of rotation: ``"centroid"`` or ``"origin"``.
        seed: of the rotations.
        stages: which of ``"train"``, ``"val"`` and ``"test"`` are measured.
        prog_bar: whether the progress bar shows the share.
        over: name of an input of the network's call, such as ``"t"``, in bins of which everything is measured too: in
            the report, and logged at the end of evaluation epochs. A step whose loss is no squared error of the
            network's output returns the losses of the structures beside it: ``{"loss": ..., "losses": (B,)}``.
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
        on_error: what comes of a network or a schema that cannot be found: ``"raise"`` at the first step, or
            ``"warn"`` once and let the run go on without. What cannot be measured later is warned of and listed, and
            never ends a run.
        warn_above: share of the loss, 0.1 for 10 %, above which an evaluation warns, where that is more than chance.
        fail_above: share above which the run ends with an error, after its report was saved: that of the last
            evaluation, or of the training where there is none.

    Raises:
        EquivProbeError: settings that do not fit; at the first step, see ``on_error``; at the end, see ``fail_above``.
    """

    @renamed(budget="cost")
    def __init__(
        self,
        every: int | Literal["auto", "epoch"] | Callable[[int], bool] | None = "auto",
        *,
        network: str | None = None,
        schema: dict[str, Any] | ep.Schema | None = None,
        plan: str | dict[str, Any] | ep.RotationPlan | None = None,
        full: int | Callable[[int], bool] | None = 10,
        cost: float | None = 0.01,
        warmup: int | Literal["earned"] = 0,
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
        on_error: Literal["raise", "warn"] = "raise",
        warn_above: float | None = None,
        fail_above: float | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "every": every,
            "warmup": warmup,
            "full": full,
            "cost": cost,
            "window": window,
            "center": center,
            "seed": seed,
            "plan": configured.plan(plan),
            "over": over,
            "bins": bins,
            "gradients": gradients,
        }
        if light is not None:
            options["light"] = configured.plan(light)
        self.settings = Settings(
            network,
            configured.schema(schema),
            options,
            tuple(stages),
            augment=augment,
            prog_bar=prog_bar,
            report=report,
            figures=figures,
            verbose=verbose,
            on_error=on_error,
            limits=Limits(warn_above, fail_above),
        )
        self.run = Run(self.settings)
        self.from_environment = False
        """Whether it was added by ``EQUIV_PROBE``: then it steps back behind a callback of the user's own."""

    @property
    def probe(self) -> ep.Probe | None:
        """The probe, from the first step on."""
        return self.run.probe

    @property
    def logbook(self) -> Logbook:
        """What was logged."""
        return self.run.logbook

    @property
    def state_key(self) -> str:
        """The name of the callback's state in a checkpoint."""
        return "EquivarianceCallback" + (" of EQUIV_PROBE" if self.from_environment else "")

    def __getstate__(self) -> dict[str, Any]:
        """Without the run: a copy of the callback measures anew."""
        kept = {name: value for name, value in vars(self).items() if name not in {"log", "log_dict"}}
        return {**kept, "run": Run(self.settings)}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stand in for the module's steps."""
        self.run.stop()
        others = [one for one in trainer.callbacks if isinstance(one, Measuring) and one is not self]
        if not (self.from_environment and others):
            self.run.start(trainer, pl_module, stage, self._step)

    def _step(self, stage: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a step of the module, measured if that is due."""
        run, trainer = self.run, self.run.trainer
        # Lightning's Tuner tries learning rates with the user's callbacks taken off: that is not the run. Nor is a step
        # that another stage's calls, as a validation step that is the training step, and no sanity check.
        own = is_running(trainer, stage) and self in trainer.callbacks
        if not own or run.passes(stage, original, args, kwargs):
            return original(*args, **kwargs)
        return measured_step(run, stage, original, args, kwargs)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its steps back."""
        del trainer, pl_module, stage
        self.run.stop()

    @harmless
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its steps back, and show what was measured until then."""
        del pl_module
        if self.run.module is None:
            return
        self.run.stop()
        if self.probe is not None and self.probe.running and trainer.is_global_zero:
            conclude(self.run, trainer, None, [f"stopped by {type(exception).__name__}"])

    @harmless
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Let one step of the epoch be due, if that is the cadence."""
        del trainer, pl_module
        self.run.begin_epoch("train", None)

    @harmless
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Say how it goes."""
        del trainer, pl_module
        if self.run.begun:
            self.run.tell()

    @harmless
    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's estimates from nothing."""
        del pl_module
        if not trainer.sanity_checking:
            self.run.begin_evaluation("val")

    @harmless
    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the estimates from nothing."""
        del trainer, pl_module
        self.run.begin_evaluation("test")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the running estimate, after a measurement and whenever Lightning is about to write."""
        del outputs, batch, batch_idx
        book = self.run.logbook
        book.quiet -= 1
        if book.quiet < 0 and self.run.begun:
            self._log_training(trainer, pl_module)

    @harmless
    def _log_training(self, trainer: Any, pl_module: Any) -> None:
        run = self.run
        if run.probe is not None:
            with run.probe.schedules.account.attended():
                run.logbook.training(run.probe, trainer, pl_module)

    @harmless
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the epoch's estimate."""
        if not trainer.sanity_checking:
            self._evaluated("val", trainer, pl_module)

    @harmless
    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the estimate."""
        self._evaluated("test", trainer, pl_module)

    def _evaluated(self, stage: str, trainer: Any, pl_module: Any) -> None:
        if self.run.begun and self.probe is not None and stage in self.settings.stages:
            with self.probe.schedules.account.attended():
                logged = self.logbook.evaluation(self.probe, stage, trainer, pl_module)
            if trainer.is_global_zero:
                self.settings.limits.look(logged)
            self.run.tell()

    @harmless
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, save the report, and log its figures."""
        del pl_module
        conclude_together(self.run, trainer)

    @harmless
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, unless this is part of fitting."""
        del pl_module
        if trainer.state.fn != "fit":
            conclude_together(self.run, trainer)

    @harmless
    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, and save the report."""
        del pl_module
        conclude_together(self.run, trainer)

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks, counts, and random states; every rank must call it."""
        return harmless(Run.state_dict)(self.run) or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; as soon as there is a probe."""
        self.run.load_state_dict(state_dict)
