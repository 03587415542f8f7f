"""What is logged, and what was logged when: the history."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.estimates import Sums
from equiv_probe_lightning import ranks
from equiv_probe_lightning.losses import repeated
from equiv_probe_lightning.run_report import in_bins, of_one
from equiv_probe_lightning.trainers import about_to_write, not_updated, rest, until_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    import equiv_probe as ep

KEYS = ("L_total", "L_mean", "L_equiv", "share")
SECONDS = "equiv/seconds"
"""Of training so far, when the estimates beside it were made."""


class Logbook:
    """Logs through the module's own ``self.log``, so that every logger gets it.

    Args:
        prog_bar: whether the progress bar shows the share.
    """

    def __init__(self, prog_bar: bool) -> None:
        self.prog_bar = prog_bar
        self.fresh = False
        """Whether something was measured in training that was not logged yet."""
        self.fresh_gradients = False
        """Likewise of gradients."""
        self.quiet: float = 0
        """Steps from now on after which there is nothing to log in training."""
        self._standing: list[str] = []
        """Names that Lightning would go on to look through at every step."""
        self._shares: set[str] = set()
        """Names of shares over everything, not of a part of it."""
        self._training: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._places: list[ranks.Place] = []
        self._gradient_history: list[tuple[int, dict[str, Tensor]]] = []
        self._keys: list[ranks.Key] | None = None
        self._history: list[tuple[int, ranks.Key, dict[str, Any]]] = []
        self._repeated: dict[str, list[str]] = {}
        self._began: float | None = None
        self._earlier = 0.0
        """Seconds of training before the checkpoint that this run goes on from."""

    def stepped(self, probe: ep.Probe, stage: str) -> None:
        """Note what a step measured."""
        schedule = probe.schedules["step", stage]
        if schedule.was_due and stage not in self._repeated:
            # In bins the losses of the structures say more than their mean, which is the loss.
            self._repeated[stage] = repeated(probe.running, stage) if probe.over is None else []
            for name in self._repeated[stage]:
                del probe.running[stage, name]
        if stage == "train":
            self.fresh |= probe.schedules["step", stage].was_due
            self.fresh_gradients |= probe.gradients is not None and probe.schedule("gradients", stage).was_due
            if self.fresh or self.fresh_gradients:
                self.quiet = 0

    def repeated(self, stage: str) -> Sequence[str]:
        """Names under which a step of a stage only says again what it says under another one."""
        return self._repeated.get(stage, ())

    def training(self, probe: ep.Probe, trainer: Any, module: Any) -> None:
        """Log what is new over the window and over ranks, and all when Lightning writes; nothing waits for the device.

        What there is to do after each step is decided here for the next ones too: see :attr:`quiet`.
        """
        rest(trainer, self._standing)
        self._standing, row = [], about_to_write(trainer)
        if self.fresh or row:
            self._log(trainer, module, self._of_losses(probe, trainer, module), on_step=True, on_epoch=False)
        if self.fresh_gradients or row:
            self._log(trainer, module, self._of_gradients(probe, trainer, module), on_step=True, on_epoch=False)
        something = self._training or self._gradients
        self.quiet = 0 if self._standing else until_row(trainer) if something else math.inf

    def _of_losses(self, probe: ep.Probe, trainer: Any, module: Any) -> dict[str, Tensor]:
        """The last estimates, made anew after a measurement."""
        if self.fresh:
            self.fresh = False
            if self._keys is None or ranks.world() == 1:
                mine = [key for key in probe.running if key[0] == "train"]
                self._keys = sorted({key for keys in ranks.gathered(mine) for key in keys})
            sums = ranks.of_training(probe.running, self._keys, module.device)
            self._training = self._values(probe, sums, trainer.global_step)
            if self._training:  # on the CPU, where the clock is: no device waits for it
                self._training[SECONDS] = torch.tensor(self.seconds, dtype=torch.float64)
        return self._training

    def _of_gradients(self, probe: ep.Probe, trainer: Any, module: Any) -> dict[str, Tensor]:
        """The last gradients, likewise."""
        if self.fresh_gradients:
            self.fresh_gradients = False
            assert probe.gradients is not None
            found = probe.gradients.new()  # nothing, where it failed: what was measured before is not logged again
            if not self._places:
                self._places = ranks.places_of(found)
            values = probe.gradients.values(ranks.of_gradients(found, self._places, module.device))
            self._gradients = {f"equiv/train/{name}": value for name, value in values.items()}
            if self._gradients:
                self._gradient_history.append((trainer.global_step, values))
        return self._gradients

    def evaluation(self, probe: ep.Probe, stage: str, trainer: Any, module: Any) -> Mapping[str, Tensor]:
        """Log the estimates over an epoch and over ranks, and return what was logged."""
        here = {
            key: one
            for key, one in probe.running.items()
            if key[0].partition("/")[0] == stage and key[0] not in probe.running.stale
        }
        merged = ranks.merged(here)
        sums = {key: Sums(**state["everything"]).to(module.device) for key, state in merged.items()}
        sums = of_one(probe, sums)
        values = self._values(probe, sums, trainer.global_step)
        for key, one in in_bins(probe, merged, "everything").items():
            found = {f"equiv/{key[0]}/{key[1]}/{name}": value for name, value in one.values().items()}
            values.update({n: torch.tensor(v, dtype=torch.float64, device=module.device) for n, v in found.items()})
        if values:
            exact = torch.float32 if module.device.type == "mps" else torch.float64
            values[SECONDS] = torch.tensor(self.seconds, dtype=exact, device=module.device)
        self._log(trainer, module, values, on_step=False, on_epoch=True, sync_dist=True)
        return values

    def _values(self, probe: ep.Probe, sums: dict[ranks.Key, Sums], step: int) -> dict[str, Tensor]:
        if self._began is None:
            self._began = min(schedule.began for schedule in probe.schedules.values())
        found = {}
        for key, one in sums.items():
            values = one.tensors()
            running = probe.running.get(key)
            if running is None or running.labelled:
                wanted = [name for name in values if name.removesuffix("_stderr") in KEYS]
            else:
                wanted = ["L_equiv", "L_equiv_stderr"]
            few = running is not None and ranks.world() == 1 and not running.has_error_bar
            kept = {name: values[name] for name in wanted if not (few and name.endswith("_stderr"))}
            self._history.append((step, key, {"seconds": self.seconds, **kept}))
            self._shares.add(f"equiv/{key[0]}/{key[1]}/share")
            found.update({f"equiv/{key[0]}/{key[1]}/{name}": value for name, value in kept.items()})
        return found

    def _log(self, trainer: Any, module: Any, values: dict[str, Tensor], **how: Any) -> None:
        if trainer.barebones:
            return
        if how["on_step"]:
            self._standing += values
            values = not_updated(trainer, module, values)
        for name, value in values.items():
            single = value.float() if value.device.type == "mps" else value
            module.log(
                name,
                single,
                prog_bar=self.prog_bar and name in self._shares,
                batch_size=1,
                add_dataloader_idx=False,  # which loader it is of is in the name
                **how,
            )

    @property
    def seconds(self) -> float:
        """Since the first step, evaluation and measuring included, by this process's clock: no device is waited for."""
        return self._earlier + (0.0 if self._began is None else time.perf_counter() - self._began)

    @property
    def gradient_history(self) -> list[tuple[int, dict[str, float]]]:
        """The gradients after each measurement, as numbers by name; fetches them from the device."""
        return [(step, {n: float(v) for n, v in values.items()}) for step, values in self._gradient_history]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The estimates after each measurement, as numbers; fetches them from the device."""
        return [
            {"step": step, "stage": key[0], "output": key[1], **{name: float(v) for name, v in values.items()}}
            for step, key, values in self._history
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        history = [(step, list(key), {n: float(v) for n, v in values.items()}) for step, key, values in self._history]
        gradients = self.gradient_history
        return {"history": history, "gradients": gradients, "seconds": self.seconds, "repeated": self._repeated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        self._history = [(step, (key[0], key[1]), dict(values)) for step, key, values in state["history"]]
        rows = state.get("gradients", [])
        self._gradient_history = [
            (step, {n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}) for step, values in rows
        ]
        self._repeated = {stage: list(names) for stage, names in state.get("repeated", {}).items()}
        self._earlier, self._began = state.get("seconds", 0.0), time.perf_counter()
