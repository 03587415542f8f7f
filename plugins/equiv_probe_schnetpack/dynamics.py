"""Symmetry error along SchNetPack's molecular dynamics: a simulation hook for `spkmd` and `schnetpack.md.Simulator`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from schnetpack import units
from schnetpack.md.simulation_hooks import SimulationHook

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import wide
from equiv_probe.live.isolation import isolated
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.rotations.drawing import draw, own_generator, rank
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.schema import Schema
from equiv_probe_schnetpack.batches import BatchAdapter
from equiv_probe_schnetpack.dynamics_log import DynamicsLog
from equiv_probe_schnetpack.quantities import INPUTS, PROPERTIES

if TYPE_CHECKING:
    from torch import Tensor


class Ensemble(torch.nn.Module):
    """The mean of several models' outputs, which is what moves the atoms in an ensemble calculator.

    Args:
        models: of which every one gets a batch of its own.
    """

    def __init__(self, models: Any) -> None:
        super().__init__()
        self.models = torch.nn.ModuleList(models)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, averaged."""
        outputs = [model({name: value.detach().clone() for name, value in inputs.items()}) for model in self.models]
        return {name: torch.stack([one[name] for one in outputs]).mean(0) for name in outputs[0]}


class EquivarianceHook(SimulationHook):  # type: ignore[misc]  # SchNetPack is untyped
    """Measure the symmetry error of the model that moves the atoms, every so many steps, where they are.

    The forces of the dynamics are neither touched nor evaluated again; the rotated copies come on top. Units in the
    file and the summary are eV, Å and fs, whatever the model and SchNetPack's dynamics use.

    Args:
        every: steps between two measurements; the first is at the first step.
        path: of the CSV file, one row per measurement, replica and molecule.
        plan: rotations of every structure, ``every`` steps apart; None is two replicates of the Klein group, 8.
        seed: of the rotations; the global random state, on which thermostats draw, is not touched.

    Raises:
        EquivProbeError: at the first measurement, if the dynamics' calculator has no SchNetPack model.
    """

    def __init__(
        self,
        every: int = 100,
        path: str = "equivariance.csv",
        plan: PlanLike | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if every < 1:
            raise EquivProbeError(f"every={every}", "a number of steps", "EquivarianceHook(every=100)")
        self.every, self.seed = every, seed
        self.plan = rotation_plan(plan) or RotationPlan("klein", replicates=2)
        self.log = DynamicsLog(Path(path))
        self._live: LiveOrbit | None = None
        self._generator: torch.Generator | None = None

    def on_simulation_start(self, simulator: Any) -> None:
        """Take the calculator's model; begin the file, or continue it after a restart."""
        self._live = _live(simulator.calculator)
        self.log.begin([*names(simulator.calculator)], before=int(simulator.step))

    def on_step_middle(self, simulator: Any) -> None:
        """Measure, when it is due: the forces have just been computed at these positions."""
        if simulator.step % self.every:
            return
        try:
            self._measure(simulator)
        except Exception as error:
            if not self.log.rows:  # at the first measurement something is set up wrongly; later the run goes on
                raise
            self.log.failures.append(f"step {simulator.step}: {type(error).__name__}: {error}")
            if len(self.log.failures) == 1:
                warnings.warn(f"equiv_probe could not measure at {self.log.failures[0]}", stacklevel=2)

    def on_simulation_end(self, simulator: Any) -> None:
        """Print the summary."""
        del simulator
        print(self.log.summary(self.plan))

    def _measure(self, simulator: Any) -> None:
        calculator, system, live = simulator.calculator, simulator.system, self._live
        assert live is not None
        with isolated(live.network), torch.inference_mode(False), torch.no_grad():
            call = live.keep((calculator._generate_input(system),), {})
            raw = {name: value.detach() for name, value in calculator.results.items()}
            live.resolve(call, raw)
            structures = live.structures(call.inputs)
            if self._generator is None:
                self._generator = own_generator(self.seed, rank(), system.positions.device)
            rotations = draw(self.plan, self._generator, structures.count)
            found = live.measure(call, raw, self.plan, rotations)
            budget = net_force_and_torque(call.inputs, raw[calculator.force_key])
        to_ev, to_angstrom = calculator.energy_conversion / units.eV, calculator.position_conversion / units.Angstrom
        scales = {"energy": to_ev, "forces": to_ev / to_angstrom, "stress": to_ev / to_angstrom**3}
        columns = {what: found[key].estimate.equiv * scales[what] ** 2 for what, key in names(calculator).items()}
        columns |= {"net_force": budget[0] * scales["forces"], "net_torque": budget[1] * to_ev}
        time = simulator.step * simulator.integrator.time_step / units.fs
        self.log.add(simulator.step, time, int(system.n_molecules), {n: v.tolist() for n, v in columns.items()})


def names(calculator: Any) -> dict[str, str]:
    """A calculator's keys of what its model predicts, by what that is."""
    keys = {"energy": calculator.energy_key, "forces": calculator.force_key, "stress": calculator.stress_key}
    return {what: key for what, key in keys.items() if key is not None}


def net_force_and_torque(batch: dict[str, Tensor], forces: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes of the net force, and of the net torque about the centroid, ``(U,)`` each.

    Args:
        batch: with positions ``(N, 3)``.
        forces: ``(N, 3)``.

    Returns:
        In the units of the forces, and of forces times positions; the torque of a periodic structure is NaN.
    """
    index, count = batch["_idx_m"], len(batch["_n_atoms"])
    x, f = wide(batch["_positions"]), wide(forces)
    centre = x.new_zeros(count, 3).index_add(0, index, x) / batch["_n_atoms"].to(x)[:, None]
    force = x.new_zeros(count, 3).index_add(0, index, f)
    torque = x.new_zeros(count, 3).index_add(0, index, torch.linalg.cross(x - centre[index], f))
    periodic = batch["_pbc"].reshape(-1, 3).any(1).expand(count)
    return force.norm(dim=1), torque.norm(dim=1).masked_fill(periodic, math.nan)


def _live(calculator: Any) -> LiveOrbit:
    """How to evaluate a calculator's model at rotated copies of its batches."""
    model = getattr(calculator, "model", None)
    if isinstance(model, (list, tuple, torch.nn.ModuleList)):
        model = Ensemble(model).eval()
    if not isinstance(model, torch.nn.Module) or not hasattr(calculator, "_generate_input"):
        raise EquivProbeError(
            f"a {type(calculator).__name__}, which has no model to ask about rotated structures",
            "a SchNetPackCalculator or SchNetPackEnsembleCalculator",
        )
    known = {key: PROPERTIES[what] for what, key in names(calculator).items()}
    schema = Schema(
        {name: one.representation for name, one in INPUTS.items()},
        {name: one.representation for name, one in known.items()},
        batch="_idx_m",
    )
    return LiveOrbit(model, schema, adapter=BatchAdapter(model, known))
