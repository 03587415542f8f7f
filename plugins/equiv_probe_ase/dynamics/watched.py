"""What a report and its rows read from whoever watches a trajectory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ase import Atoms
    from ase.optimize.optimize import BaseDynamics

    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe_ase.dynamics.budget import Budget
    from equiv_probe_ase.dynamics.frame_symmetry import FrameSymmetry
    from equiv_probe_ase.dynamics.frames import FramesFile
    from equiv_probe_ase.dynamics.log import DynamicsLog
    from equiv_probe_ase.dynamics.run_notes import RunNotes
    from equiv_probe_ase.structures.quantities import Quantity


class Watched(Protocol):
    """A watched trajectory; attributes as of :class:`equiv_probe_ase.SymmetryMonitor`."""

    dyn: BaseDynamics
    atoms: Atoms
    every: int
    plan: RotationPlan
    name: str | None
    symmetry: FrameSymmetry
    log: DynamicsLog
    budget: Budget
    run: RunNotes
    frames_file: FramesFile
    quantities: dict[str, Quantity]
    seconds: float
    measuring_seconds: float
    began: float

    @property
    def timestep(self) -> float:
        """Of the dynamics, fs; NaN of an optimiser."""

    @property
    def is_dynamics(self) -> bool:
        """Whether there is a time."""

    @property
    def model(self) -> Any:
        """The calculator whose symmetry is measured."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was measured at each frame."""

    @property
    def now(self) -> dict[str, Any]:
        """The row of the step that was observed last."""
