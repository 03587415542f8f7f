"""The symmetry error along a trajectory, written down: a CSV file while it runs and a summary at its end.

>>> import tempfile, pathlib, equiv_probe as ep
>>> log = DynamicsLog(pathlib.Path(tempfile.mkdtemp()) / "log.csv")
>>> log.begin(["forces"])
>>> log.add(0, 0.0, 1, {"forces": [4e-6], "net_force": [0.0], "net_torque": [0.003]})
>>> log.add(10, 5.0, 1, {"forces": [2e-6], "net_force": [0.0], "net_torque": [0.004]})
>>> print(log.summary(ep.RotationPlan("klein", replicates=2)).splitlines()[1])
  forces      1.732 meV/Å     root of L_equiv 3e-06 ± 1e-06 (eV/Å)²
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from equiv_probe.rotations.plan import RotationPlan

_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "net_force": "eV/Å", "net_torque": "eV"}
_COLUMNS = {
    "energy": "energy_L_equiv_eV2",
    "forces": "forces_L_equiv_eV2_per_A2",
    "stress": "stress_L_equiv_eV2_per_A6",
    "net_force": "net_force_eV_per_A",
    "net_torque": "net_torque_eV",
}


class DynamicsLog:
    """Rows of one trajectory's measurements.

    Args:
        path: of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        """Where the file is; its folder may be moved after the run."""
        self.rows: list[dict[str, float]] = []
        self.failures: list[str] = []
        self._names: list[str] = []

    def begin(self, measured: Sequence[str], *, before: int = 0) -> None:
        """Write the head of the file, and what a run that is continued measured before.

        Args:
            measured: of energy, forces and stress.
            before: the step at which the run goes on. What a run that was killed wrote of this step and later ones is
                measured again, and half a line is none.

        Raises:
            EquivProbeError: the file has other columns.
        """
        self._names = [*measured, "net_force", "net_torque"]
        head = ["step", "time_fs", "replica", "molecule", *(_COLUMNS[name] for name in self._names)]
        kept = self._before(before, head) if before and self.path.exists() else []
        self.rows = [dict(zip(self._names, map(float, line[4:]), strict=True)) for line in kept]
        self.failures = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_name(f"{self.path.name}.part")
        with whole.open("w", newline="") as file:
            csv.writer(file).writerows([head, *kept])
        whole.replace(self.path)

    def _before(self, step: int, head: Sequence[str]) -> list[list[str]]:
        """Lines of the file that are whole, and of earlier steps."""
        text = self.path.read_text()
        found = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        if found and found[0] != head:
            raise EquivProbeError(
                f"{self.path.name} with the columns {', '.join(found[0])}", ", ".join(head), "another path="
            )
        return [line for line in found[1:] if len(line) == len(head) and int(line[0]) < step]

    def add(self, step: int, time: float, molecules: int, columns: Mapping[str, Sequence[float]]) -> None:
        """Write one measurement.

        Args:
            step: of the dynamics.
            time: in fs.
            molecules: in every replica.
            columns: values of every structure, replica by replica, by name; in eV and Å.
        """
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            for k, values in enumerate(zip(*(columns[name] for name in self._names), strict=True)):
                self.rows.append(dict(zip(self._names, values, strict=True)))
                shown = [f"{value:.9g}" for value in values]
                writer.writerow([step, f"{time:.6g}", k // molecules, k % molecules, *shown])

    def summary(self, plan: RotationPlan) -> str:
        """A few lines for the console; standard errors are over rows, as if they were independent.

        Args:
            plan: that was used.
        """
        if not self.rows:
            return "equiv_probe: no measurement was due in this run"
        lines = [f"equiv_probe: symmetry error in {len(self.rows)} structures along the trajectory, {plan}"]
        for name in self._names:
            values = [row[name] for row in self.rows if math.isfinite(row[name])]
            if not values and name == "net_torque":
                lines.append(f"  {name:<11} not defined for periodic structures")
                continue
            if lost := 0 if name == "net_torque" else len(self.rows) - len(values):
                lines.append(f"  {name:<11} not finite in {lost} of {len(self.rows)} structures, which are left out")
            if not values:
                continue
            unit = _UNITS[name]
            if name in {"net_force", "net_torque"}:
                rms = math.sqrt(sum(v * v for v in values) / len(values))
                lines.append(f"  {name:<11} {f'{1e3 * rms:.4g} m{unit}':<15} root mean square")
                continue
            mean, error = _mean(values)
            root = f"{1e3 * math.sqrt(mean):.4g} m{unit}" if mean > 0 else "below noise"
            squared = f"({unit})²" if "/" in unit else f"{unit}²"
            lines.append(f"  {name:<11} {root:<15} root of L_equiv {mean:.3g} ± {error:.2g} {squared}")
        lines += [f"  failed at {failure}" for failure in self.failures]
        return "\n".join([*lines, f"  {self.path.name} has every measurement"])


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; NaN of one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
