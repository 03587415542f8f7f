"""A monitor for any of ASE's dynamics, without a change to the script: ``EQUIV_PROBE=1 python md.py``.

The method with which all of ASE's dynamics and optimisers call their observers attaches a monitor at its first call.
It is replaced when ASE defines it: this module is loaded while ASE is being imported.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ase.parallel import world
from ase.utils import IOContext

from equiv_probe.cli.claims import claim_all
from equiv_probe.cli.run_command import KNOWN
from equiv_probe.cli.run_script import REPORT
from equiv_probe.errors import EquivProbeError
from equiv_probe.live.isolation import measuring
from equiv_probe.probe import settings

LOG = "equiv_probe_dynamics.csv"
MOST = 10
"""Dynamics of one script that are watched: a global optimisation starts thousands."""
OPTIONS = ("every", "plan", "center", "log", "conservative_every", "trajectory", "properties", "resume")

_METHOD = "call_observers"
_seen: WeakSet[Any] = WeakSet()
_monitors: list[Any] = []
_asked: dict[str, Any] = {}


def watch() -> None:
    """Attach a monitor to whatever dynamics this process runs from now on."""
    atexit.register(_conclude)
    module = sys.modules.get("ase.optimize.optimize")
    for name in ("BaseDynamics", "Dynamics"):  # the root was called so before ASE 3.24
        if _METHOD in vars(getattr(module, name, object)):
            _replace(getattr(module, name))
            return

    def defined(cls: type, /, **rest: Any) -> None:
        object.__init_subclass__(**rest)
        if _METHOD in vars(cls):
            del IOContext.__init_subclass__
            _replace(cls)

    IOContext.__init_subclass__ = classmethod(defined)


def _replace(root: Any) -> None:
    """Let the root of all dynamics attach a monitor before it calls its observers for the first time."""
    original = vars(root)[_METHOD]

    def call_observers(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self not in _seen and not measuring():
            _seen.add(self)
            _attach(self)
        return original(self, *args, **kwargs)

    setattr(root, _METHOD, call_observers)


def _attach(dyn: Any) -> None:
    from equiv_probe_ase.dynamics.monitor import SymmetryMonitor

    if any(isinstance(entry[0], SymmetryMonitor) for entry in dyn.observers):
        return
    if len(_monitors) >= MOST:
        if len(_monitors) == MOST:
            _say(f"watches no more than {MOST} dynamics of one script")
            _monitors.append(None)
        return
    asked = settings.parse(os.environ.get(settings.VARIABLE), {*KNOWN, *OPTIONS})
    if asked is None:
        return
    if world.size > 1:
        _say("does not watch dynamics that run under MPI")
        return
    _asked.update(asked)
    options = {name: value for name, value in asked.items() if name in OPTIONS}
    try:
        monitor = SymmetryMonitor(dyn, **{**options, **_files(options), "plan": _plan(options.get("plan"), asked)})
    except EquivProbeError as error:
        _say(f"does not watch {type(dyn).__name__}: {error}")
        return
    monitor.detach()
    dyn.attach(Guarded(monitor), 1)
    _monitors.append(monitor)
    from equiv_probe_ase.calculators.private_copy import networks

    claim_all(networks(monitor.model), type(dyn).__name__)
    _say(f"watches {type(dyn).__name__} of {monitor.atoms.get_chemical_formula()}, log {monitor.log.path}")


class Guarded:
    """A monitor that nobody asked for by name: it must not end the run that it watches.

    Args:
        monitor: attached nowhere.
    """

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def __call__(self) -> None:
        """Observe, unless it went wrong before."""
        if self.monitor is None:
            return
        try:
            self.monitor()
        except Exception as error:  # whatever a calculator raises on a rotated structure
            _say(f"watches no longer: {type(error).__name__}: {error}")
            _monitors.remove(self.monitor)
            self.monitor = None


def _files(options: dict[str, Any]) -> dict[str, Any]:
    """Files of their own for the second dynamics of a script, and the third."""
    number = len(_monitors)

    def numbered(name: Any) -> Path:
        path = Path(name)
        return path.with_stem(f"{path.stem}_{number}") if number else path

    files = {"log": numbered(options.get("log") or LOG)}
    if options.get("trajectory"):
        files["trajectory"] = numbered(options["trajectory"])
    return files


def _plan(given: Any, asked: dict[str, Any]) -> Any:
    """A plan from its design's name and the seed; None leaves it to the monitor."""
    from equiv_probe.rotations.plan import RotationPlan

    seed = int(asked.get("seed", 0))
    if isinstance(given, dict):
        return RotationPlan(**{"seed": seed, **given})
    if given is None and not seed:
        return None
    return RotationPlan(given or "haar", 4, seed=seed)


def _conclude() -> None:
    """Print and save what was found, when the script ends."""
    wanted = _asked.get("report", True)
    for number, monitor in enumerate(one for one in _monitors if one is not None):
        if monitor.budget.last is None:
            continue
        report = monitor.report()
        print(report)
        if wanted:
            path = Path(REPORT) if wanted is True else Path(wanted)
            path = path / REPORT if path.suffix != ".json" else path
            path = path.with_stem(f"{path.stem}_{number}") if number else path
            report.save(path)
            _say(f"saved the report to {path}")


def _say(line: str) -> None:
    from equiv_probe.messages import logger

    logger.info(f"equiv_probe {line}")
