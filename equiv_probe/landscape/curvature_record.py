"""What is known of the curvature of the three losses: is one of them easier to lower than the other?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from msgspec import field

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.estimates import Estimate
from equiv_probe.landscape import plots
from equiv_probe.landscape.conditioning import KINDS, POSITIVE
from equiv_probe.landscape.curvature_estimates import LossCurvature, condition_ratio, require_kinds
from equiv_probe.landscape.curvature_words import BLIND_SPOTS, cell, headline, plain, shown
from equiv_probe.landscape.decomposed_loss import LOSSES
from equiv_probe.report.document import Column, Document, Figure, Section, Table, method
from equiv_probe.report.formatting import number
from equiv_probe.report.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from matplotlib.axes import Axes

    from equiv_probe.report.document import Cell

MATRICES = {"hessian": "Hessian", "gauss-newton": "Gauss–Newton matrix"}
_CAPTION = (
    "± standard error over random vectors and sets of rotations. A condition number compares the largest magnitude of "
    "an eigenvalue with: the smallest of those that hold 99 or 90 % of all curvature (mass), a mean in which "
    "directions count by their curvature (weighted), a mean or the median of all directions, the smallest above a "
    "ten-thousandth of the largest (cutoff); positive: the largest eigenvalue with the smallest positive one that is "
    "more than rounding. A dash: infinite, or not measured."
)


class Curvature(Record, frozen=True):
    """Curvature of ``L_total``, ``L_mean`` and ``L_equiv``; None for what was not asked for.

    Attributes:
        matrix: ``"hessian"`` or ``"gauss-newton"``.
        products: how many products with vectors it took, in all.
        seconds: and how long.
        condition_ratio: κ(L_mean) / κ(L_equiv) by kind of condition number; empty if one of the two was not measured.
        notes: what to know before the numbers are believed.
        name: of what it is the curvature; may be empty.
        protocol: how it was measured.
    """

    kind: ClassVar[str] = "curvature"

    matrix: Literal["hessian", "gauss-newton"]
    products: int
    seconds: float
    total: LossCurvature | None = None
    mean: LossCurvature | None = None
    equiv: LossCurvature | None = None
    condition_ratio: dict[str, Estimate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be shown."""
        if not self.losses:
            raise ValueError("a curvature of no loss")
        if self.condition_ratio or (self.mean and self.equiv):
            require_kinds(self.condition_ratio, "condition_ratio")
        if self.condition_ratio and not (self.mean and self.equiv):
            raise ValueError("condition_ratio of one loss")

    @classmethod
    def of(cls, losses: Mapping[Any, LossCurvature], **rest: Any) -> Self:
        """The curvature of losses that were just computed."""
        both = {"mean", "equiv"} <= losses.keys()
        kinds = [kind for kind in (*KINDS, POSITIVE) if both and all(kind in one.conditions for one in losses.values())]
        ratios = {kind: condition_ratio(losses["mean"], losses["equiv"], kind) for kind in kinds}
        return cls(**{**losses, **rest}, condition_ratio=ratios)

    @classmethod
    def upgraded(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Version 1 had the same entries, without a kind."""
        return stored

    @property
    def losses(self) -> dict[str, LossCurvature]:
        """The losses that were measured, by name, ``L_mean`` and so on."""
        return {f"L_{name}": one for name in LOSSES if (one := getattr(self, name)) is not None}

    def named(self) -> Iterator[tuple[str, LossCurvature]]:
        """The losses that were measured, as ``("L_mean", …)``."""
        yield from self.losses.items()

    def ratio(self, kind: str = "mass-0.99") -> Estimate:
        """How many times worse ``L_mean`` is conditioned than ``L_equiv``: κ(L_mean) / κ(L_equiv).

        Shen et al. (arXiv:2512.02303) report about 1000 for force fields.

        Raises:
            EquivProbeError: one of the two was not measured, or a kind that is neither stored nor to be computed from
                a file.
        """
        if self.mean is None or self.equiv is None:
            raise EquivProbeError("a curvature without both losses", "L_mean and L_equiv", 'losses=("mean", "equiv")')
        known = self.condition_ratio.get(kind)
        return condition_ratio(self.mean, self.equiv, kind) if known is None else known

    def document(self) -> Document:
        """Which loss is the better conditioned, then the spectra, then all numbers."""
        protocol = {**self.protocol, "products with vectors": self.products, "seconds": number(self.seconds)}
        return Document(
            self.name or "Curvature of the losses",
            f"the {MATRICES[self.matrix]} in {self._size} parameters",
            [
                headline(self.losses, self.condition_ratio),
                Section("What does it look like?", self._figures()),
                Section("All numbers", [self._table()]),
                *method(protocol, self.notes, blind_spots=BLIND_SPOTS),
            ],
        )

    def _table(self) -> Table:
        rows: list[list[Cell]] = []

        def row(label: str, of: Callable[[LossCurvature], Cell], ratio: Cell = None) -> None:
            rows.append([label, *map(of, self.losses.values()), *([ratio] if self.condition_ratio else [])])

        row("largest eigenvalue", lambda one: cell(one.largest))
        row("smallest eigenvalue", lambda one: cell(one.smallest))
        exact = all(one.whole is not None for one in self.losses.values())
        if exact:
            row("smallest positive eigenvalue", lambda one: cell(one.smallest_positive))
            row("eigenvalues that are zero but for rounding", lambda one: one.whole.null if one.whole else None)
        row("trace", lambda one: cell(one.trace))
        if any(math.isfinite(one.bracket[0]) for one in self.losses.values()):
            row("largest lies within", lambda one: one.bracket)
        row("effective rank, tr² / ‖H‖²", lambda one: cell(one.rank))
        row("effective rank, entropy", lambda one: cell(one.entropy_rank))
        for kind in (*KINDS, *([POSITIVE] if exact else [])):
            last = cell(self.condition_ratio[kind]) if self.condition_ratio else None
            row(f"condition number, {kind}", lambda one, kind=kind: cell(one.conditions[kind]), last)  # type: ignore[misc]
        heads = [*self.losses, *(["L_mean / L_equiv"] if self.condition_ratio else [])]
        return Table("Curvature of each loss", [Column("", kind="text"), *map(Column, heads)], rows, _CAPTION)

    def _figures(self) -> list[Figure]:
        spectra = "; ".join(
            f"{name}: from {shown(one.smallest)} to {shown(one.largest)}, effective rank {shown(one.rank)}"
            for name, one in self.losses.items()
        )
        reading = (
            f"How many of the {self._size} eigenvalues lie where; both axes are logarithmic, the bin in the middle "
            "holds those near zero. Directions far to the right are the steep ones."
        )
        density = partial(plots.density, self.losses)
        made = [Figure("Density of eigenvalues", density, f"{spectra}.", f"{spectra}. {reading}")]
        known = {kind: one.value for kind, one in self.condition_ratio.items() if math.isfinite(one.value)}
        if known:
            text = "; ".join(f"{plain(kind)}: {number(value)}" for kind, value in known.items())
            reading = "κ(L_mean) / κ(L_equiv) under each definition, with 95 % intervals; one is the dotted line."
            ratios = partial(plots.ratios, self.condition_ratio)
            made.append(Figure("Ratio of condition numbers", ratios, f"{text}.", reading))
        return made

    @property
    def _size(self) -> int:
        return next(iter(self.losses.values())).size

    def rows(self) -> list[dict[str, Any]]:
        """The densities: a row for every node."""
        return [
            {"loss": name, "eigenvalue": node, "fraction of directions": weight}
            for name, one in self.losses.items()
            for node, weight in zip(one.spectrum.nodes, one.spectrum.weights, strict=True)
        ]

    def plot(self, ax: Axes | None = None) -> Axes:
        """The densities, see :func:`equiv_probe.landscape.plots.density`."""
        return plots.density(self.losses, ax)

    def plot_ratios(self, ax: Axes | None = None) -> Axes:
        """The ratios of condition numbers, see :func:`equiv_probe.landscape.plots.ratios`."""
        return plots.ratios(self.condition_ratio, ax)
