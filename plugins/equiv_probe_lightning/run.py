"""One module in a Trainer's hands, and the probe on its network."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import equiv_probe as ep
from equiv_probe.cli.claims import claim
from equiv_probe.rotations.drawing import rank
from equiv_probe_lightning import ranks, run_report
from equiv_probe_lightning.harmless import harmless
from equiv_probe_lightning.logbook import Logbook
from equiv_probe_lightning.progress import Progress
from equiv_probe_lightning.saving import Saving
from equiv_probe_lightning.step import STEPS, Step, silent
from equiv_probe_lightning.trainers import (
    defines,
    dummy_logger,
    inform,
    last_evaluation,
    loader_place,
    loaders_of,
    reads_iterator,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from equiv_probe.estimation.objectives import Training
    from equiv_probe.results.report import Report
    from equiv_probe_lightning.settings import Settings


class Run:
    """What is measured on a module while a Trainer runs it; of the next run of the same, its continuation.

    Args:
        settings: of the callback.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.probe: ep.Probe | None = None
        self.logbook = Logbook(settings.prog_bar)
        self.saving = Saving()
        self.directory = "."
        self._progress = Progress()
        self._kind: type[Any] | None = None
        self._restored: Mapping[str, Any] | None = None
        self._epochs: dict[str, tuple[float | None, bool | None]] = {}
        self._release()

    def _release(self) -> None:
        """Hold nothing of the Trainer's and of the module."""
        self.trainer: Any = None
        self.module: Any = None
        self._steps: dict[str, Step] = {}
        self._augmentation: ep.Augmentation | None = None
        self._rotations: list[Any] = []
        """Of a checkpoint, the augmentation's state on every rank."""
        self._iterating: dict[str, bool] = {}
        self.warned = False
        """Whether it was said that nothing is measured."""
        self.stepped = False
        """Whether the module has taken a step."""
        self.given_up: set[str] = set()
        """Stages that cannot be measured."""

    @property
    def begun(self) -> bool:
        """Whether there is a module, and a probe on it."""
        return self.module is not None and self.probe is not None

    def start(self, trainer: Any, module: Any, stage: str, step: Callable[..., Any]) -> None:
        """Stand in for the module's steps.

        Args:
            trainer: which runs the module.
            module: the LightningModule.
            stage: of the Trainer: ``"fit"`` and so on.
            step: what runs in the place of a step, with the stage, the method and its arguments.
        """
        if self.probe is not None:
            self._begin_anew(trainer, module, stage)
        self.trainer, self.module, self._kind = trainer, module, type(module)
        self.directory = trainer.log_dir or "."  # every rank must ask
        claim(module)
        self._warn_of_monitors(trainer)
        for name, key in STEPS.items():
            if key in self.settings.stages and defines(module, name):
                self._steps[name] = Step(module, name, step)
        self._augment()

    def _begin_anew(self, trainer: Any, module: Any, stage: str) -> None:
        """Forget what is not about this run; what is goes on, if need be with another copy of the network."""
        assert self.probe is not None
        trained = ("step", "train") in self.probe.schedules and self.probe.schedules["step", "train"].step > 0
        another = all(m is not self.probe.model for m in module.modules())
        if stage != "fit" and another and type(module) is self._kind:
            # What was trained, loaded from a checkpoint to be tested: its rows stand beside those of the training.
            self._restored, self.probe = self.state_dict(), None
        elif another or (trained and stage == "fit" and trainer.global_step == 0):
            self.probe, self.logbook, self.saving = None, Logbook(self.settings.prog_bar), Saving()

    def stop(self) -> None:
        """Give the module its steps back."""
        self._settle()
        for step in reversed(self._steps.values()):
            step.remove()
        if self._augmentation is not None:
            self._augmentation.remove()
        self._release()

    def _warn_of_monitors(self, trainer: Any) -> None:
        if self.settings.options["cost"] is None:
            return
        for one in trainer.callbacks:
            monitored = getattr(one, "monitor", None)
            if isinstance(monitored, str) and monitored.startswith("equiv/val/"):
                which = "is that of an earlier epoch where the cost leaves no room"
                what = f'{type(one).__name__} monitors "{monitored}", which {which}'
                fix = "EquivarianceCallback(cost=None) measures it in every epoch"
                warnings.warn(f"equiv_probe: {what}; {fix}", stacklevel=2)

    def begin(self, training: Training) -> None:
        """Make the probe of what is trained."""
        settings, module = self.settings, self.module
        self.probe = ep.Probe(
            training.network,
            settings.schema or training.schema,
            objectives=training.objectives,
            protect=(module,),
            quiet=self.quiet,
            **settings.options,
        )
        if self._restored is not None:
            self._restore(self._restored)
        for stage, (calls, last) in self._epochs.items():
            self.begin_epoch(stage, calls, last)
        self._augment()
        if settings.verbose:
            name = next((name for name, m in module.named_modules() if m is training.network), "") or "."
            inform(self.trainer, f'equiv_probe measures network="{name}" ({type(training.network).__name__})')

    def give_up(self, stage: str, error: Exception) -> None:
        """Leave a stage alone, and say so once: the run is somebody's who may not know of us."""
        self.given_up.add(stage)
        if not self.warned and self.trainer.is_global_zero:
            self.warned = True
            warnings.warn(f"equiv_probe does not measure this run, which goes on without it: {error}", stacklevel=2)

    def _augment(self) -> None:
        if self.settings.augment and self.probe is not None and self._augmentation is None:
            options = self.settings.options
            seed, center = options["seed"] + self.trainer.global_step, options["center"]
            self._augmentation = ep.augment(self.probe.model, self.probe.schema, center=center, seed=seed)
            states, self._rotations = self._rotations, []
            if len(states) == ranks.world():
                self._augmentation.load_state_dict(states[rank()])

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """A context in which nothing reaches loggers and progress bars."""
        with silent(self.module, self.trainer, dummy_logger(self.trainer)):
            yield

    def begin_epoch(self, stage: str, calls: float | None, last: bool | None = None) -> None:
        """Say that an epoch begins.

        Args:
            stage: whose.
            calls: in it, if known.
            last: whether it is the last one, if known.
        """
        self._epochs[stage] = calls, last
        if self.probe is None or self.module is None:
            return
        self._settle()
        self.probe.begin_epoch(stage, calls, fresh=stage != "train", last=last)

    def report(self, trainer: Any, merged: dict[ranks.Key, dict[str, Any]] | None, notes: list[str]) -> Report:
        """The report of what was measured so far.

        Args:
            trainer: which ran it.
            merged: sums over ranks; None is this rank's own.
            notes: what a reader must know.
        """
        assert self.probe is not None
        self._settle()
        book = self.logbook
        histories = book.history, book.gradient_history
        return run_report.report(self.probe, trainer, merged, notes, run=self.saving.run, histories=histories)

    def tell(self) -> None:
        """Say how it goes, if it is time for it."""
        assert self.probe is not None
        if self.settings.verbose and self.trainer.is_global_zero:
            self._progress.tell(self.probe, self.trainer)

    def iterates(self, stage: str, step: Callable[..., Any]) -> bool:
        """Whether a stage's step takes its batches from an iterator."""
        if stage not in self._iterating:
            self._iterating[stage] = reads_iterator(step)
        return self._iterating[stage]

    def passes(self, stage: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Count a step at which nothing is due; False, without counting, where something may be."""
        if self.probe is None:
            return False
        began = time.perf_counter()
        if stage != "train":
            stage = self.stage_of(stage, step, args, kwargs)
        self._settle()
        ahead = self.probe.ahead(stage)
        if not ahead:
            return False
        self.probe.passed(stage, 1)
        if stage == "train":
            self._steps["training_step"].let_pass(ahead - 1)
        self.probe.schedules.account.around += time.perf_counter() - began
        return True

    def _settle(self) -> None:
        """Count the training steps that went by without being looked at."""
        if self.probe is not None and "training_step" in self._steps:
            self.probe.passed("train", self._steps["training_step"].gone_by())

    def stage_of(self, stage: str, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """A stage, with the loader among several that a step's batch comes from: ``"val/dataloader_idx_1"``."""
        loaders = loaders_of(self.trainer, stage)
        return _of_loader(stage, loaders[loader_place(step, args, kwargs) if len(loaders) > 1 else 0][0])

    def begin_evaluation(self, stage: str) -> None:
        """Say that an epoch of an evaluation begins, from whichever loaders."""
        for name, batches in loaders_of(self.trainer, stage):
            self.begin_epoch(_of_loader(stage, name), batches, last_evaluation(self.trainer))

    def state_dict(self) -> dict[str, Any]:
        """The sums over all ranks, counts, and random states; every rank must call it."""
        if self.probe is None:
            return dict(self._restored or {})
        self._settle()
        state = self.probe.state_dict()
        generators = ranks.gathered(state.pop("generator"))
        state["running"] = ranks.merged(self.probe.running)
        rotations = ranks.gathered(self._augmentation.state_dict()) if self._augmentation is not None else []
        step = self.trainer.global_step if self.trainer is not None else 0
        own = {"logbook": self.logbook.state_dict(), "saving": self.saving.state_dict(step)}
        return {"probe": state, "generators": generators, "turns": rotations, **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`, as soon as there is a probe.

        A checkpoint that is loaded to be tested brings weights: what was measured until now stays as it is.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        self._restored = dict(state)
        if self.probe is not None:
            self._restore(self._restored)

    @harmless
    def _restore(self, state: Mapping[str, Any]) -> None:
        assert self.probe is not None
        self._restored = None
        generators, mine = state["generators"], rank()
        generator = generators[mine] if len(generators) == ranks.world() else None
        running = state["probe"]["running"] if mine == 0 else {}  # the sums are over all ranks
        self.probe.load_state_dict({**state["probe"], "running": running, "generator": generator})
        self.logbook.load_state_dict(state["logbook"])
        if "saving" in state:
            self.saving.load_state_dict(state["saving"])
        self._rotations = state.get("turns", [])


def _of_loader(stage: str, name: str) -> str:
    return f"{stage}/{name}" if name else stage
