"""The three losses on a grid of two directions in parameter space: what do they look like, and are they smooth?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from msgspec import field

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape import plots
from equiv_probe.landscape.decomposed_loss import LOSSES
from equiv_probe.landscape.roughness import Roughness
from equiv_probe.report.document import Column, Document, Figure, Headline, Section, Table, method
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from equiv_probe.report.document import Cell, Severity

    Values = NDArray[np.float64]

_SAID = {
    "quartic": "is smooth: it is a quartic to within rounding",
    "smooth": "is smooth: the residual of a quartic fit has the same sign at neighbouring points",
    "noise": "is rough: the residual of a quartic fit is noise, drawn anew at every point",
    "unknown": "is not finite everywhere",
}
_BLIND_SPOTS = [
    "other directions: this is a plane through a space of as many dimensions as there are weights",
    "other structures and rotations: a landscape is of those at hand",
    "structure finer than the grid: it cannot be distinguished from noise",
]


class Landscape(Record, frozen=True):
    """Losses at ``θ + a d₁ + b d₂``, with directions of length one.

    Attributes:
        rotations: ``"fixed"``: the same at all points; ``"fresh"``: others at each.
        directions: what they are.
        parameters: how many weights were moved.
        at: the n values of a and of b, rising, symmetric about 0, in the weights' own unit.
        L_total, L_mean, L_equiv: on the grid, ``(n, n)``, a row for each a.
        here: the three at the weights as they are.
        roughness: of each loss, by name.
        eigenvalues: along both directions, where they are eigenvectors.
        seed: of the fresh rotations.
        notes: what to know before the numbers are believed.
        name: of whose weights; may be empty.
        protocol: how it was measured.
    """

    kind: ClassVar[str] = "landscape"

    rotations: Literal["fixed", "fresh"]
    directions: tuple[str, str]
    parameters: int
    at: list[float]
    L_total: list[list[float]]
    L_mean: list[list[float]]
    L_equiv: list[list[float]]
    here: tuple[float, float, float]
    roughness: dict[str, Roughness]
    eigenvalues: tuple[float, float] = (math.nan, math.nan)
    seed: int = 0
    notes: tuple[str, ...] = ()
    name: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        if len(self.at) < 2 or not all(map(math.isfinite, self.at)) or sorted(set(self.at)) != self.at:
            raise ValueError(f"at, {len(self.at)} numbers that do not rise")
        for name in LOSSES:
            rows = getattr(self, f"L_{name}")
            if [len(row) for row in rows] != [len(self.at)] * len(self.at):
                raise ValueError(f"L_{name}, which is not {len(self.at)} rows of {len(self.at)} numbers")
        if self.roughness.keys() != {f"L_{name}" for name in LOSSES}:
            raise ValueError(f"roughness of {len(self.roughness)} losses that are not the three")

    @classmethod
    def of(cls, at: Values, values: Values, precision: float, **rest: Any) -> Self:
        """From the three losses on the grid, ``(n, n, 3)``, and the relative precision that they are computed in."""
        finite = values[np.isfinite(values)]
        # Each is computed from numbers as large as the largest of the three.
        floor = precision * float(np.abs(finite).max()) if len(finite) else math.nan
        surfaces = {f"L_{name}": values[..., k] for k, name in enumerate(LOSSES)}
        roughness = {name: Roughness.of(one, floor) for name, one in surfaces.items()}
        return cls(at=at.tolist(), roughness=roughness, **{n: v.tolist() for n, v in surfaces.items()}, **rest)

    def surface(self, loss: str) -> Values:
        """One loss on the grid, ``(n, n)``: ``"total"``, ``"mean"`` or ``"equiv"``.

        Raises:
            EquivProbeError: another loss.
        """
        if loss not in LOSSES:
            raise EquivProbeError(f"loss={loss!r}", ", ".join(LOSSES))
        return np.array(getattr(self, f"L_{loss}"))

    def document(self) -> Document:
        """Whether both losses are smooth, then the surfaces, then the numbers."""
        protocol = {
            "directions": " and ".join(self.directions),
            "rotations": "the same at every point" if self.rotations == "fixed" else "others at every point",
            "grid": f"{len(self.at)} × {len(self.at)}, {number(self.at[1] - self.at[0])} apart",
            "weights": self.parameters,
            **({"seed": self.seed} if self.rotations == "fresh" else {}),
            **self.protocol,
        }
        return Document(
            self.name or "Losses on a grid",
            f"a plane in the space of {self.parameters} weights: {' and '.join(self.directions)}",
            [
                self._headline(),
                Section("What do they look like?", [self._figure()]),
                Section("All numbers", [self._table()]),
                *method(protocol, self.notes, blind_spots=_BLIND_SPOTS),
            ],
        )

    def _headline(self) -> Headline:
        mean, equiv = self.roughness["L_mean"], self.roughness["L_equiv"]
        shown = mean if math.isfinite(mean.rms) else equiv
        about = "L_mean" if shown is mean else "L_equiv"
        rough = "noise" in {mean.kind, equiv.kind}
        beside = [f"L_equiv {_SAID[equiv.kind]} ({number(100 * equiv.relative)} % of it)."] if shown is mean else []
        if rough:
            beside.append(
                "Its roughness is that of a few random rotations, and none of the loss: compare rotations='fixed'."
                if self.rotations == "fresh"
                else "With fixed rotations that should not be: is something else random, or the grid too coarse?"
            )
        severity: Severity = "fair" if rough else "good"
        return Headline(
            about=about,
            answer=f"{about} {_SAID[shown.kind]}.",
            value=100 * shown.relative,
            unit="% of it is the residual of a quartic fit",
            interval=(math.nan, math.nan),
            meaning=f"Neighbours in it have the correlation {number(shown.lag1)}; of noise, "
            f"0 ± {number(shown.lag1_stderr)}.",
            beside=beside,
            severity=severity,
            question="Are the losses smooth?",
        )

    def _table(self) -> Table:
        columns = [
            Column("", kind="text"), Column("at the weights"), Column("smallest"), Column("largest"),
            Column("residual of a quartic fit", "rms"), Column("of the loss", "%"), Column("correlation of neighbours"),
        ]  # fmt: skip
        rows: list[list[Cell]] = []
        for value, (name, rest) in zip(self.here, self.roughness.items(), strict=True):
            surface = np.array(getattr(self, name))
            ends = float(surface.min()), float(surface.max())
            rows.append([name, value, *ends, rest.rms, 100 * rest.relative, rest.lag1])
        return Table(
            "Losses on the grid",
            columns,
            rows,
            "Residual: of the best polynomial of degree four in both coordinates (root mean square).",
        )

    def _figure(self) -> Figure:
        parts = (
            f"{name}: from {number(float(np.min(one)))} to {number(float(np.max(one)))}"
            for name, one in (("L_mean", self.L_mean), ("L_equiv", self.L_equiv))
        )
        text = f"{'; '.join(parts)}. The same plane, each in colours of its own; the cross is where the weights are."
        return Figure("Both losses over the plane", partial(plots.surfaces, self.at, self._both), text)

    def rows(self) -> list[dict[str, Any]]:
        """A row for every point."""
        return [
            {"a": a, "b": b, **{f"L_{name}": getattr(self, f"L_{name}")[i][j] for name in LOSSES}}
            for i, a in enumerate(self.at)
            for j, b in enumerate(self.at)
        ]

    def plot(self, ax: Axes | None = None) -> Axes:
        """``L_mean`` and ``L_equiv`` side by side; see :func:`equiv_probe.landscape.plots.surfaces`."""
        return plots.surfaces(self.at, self._both, ax)

    @property
    def _both(self) -> dict[str, Values]:
        return {f"L_{name}": self.surface(name) for name in ("mean", "equiv")}
