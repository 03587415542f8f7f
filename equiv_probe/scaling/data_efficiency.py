"""How much data a model is worth: the factor by which another needs more to come to the same loss.

Brehmer et al., *Does equivariance matter at scale?* (arXiv:2410.23179), compare models so: loss against the number of
training structures, at a fixed size of the model.

>>> D = [100, 300, 1000, 3000, 10000, 30000]
>>> runs = {"model": ["plain"] * 6 + ["equivariant"] * 6, "D": D * 2,
...         "L_total": [8 * d**-0.5 for d in D] + [4 * d**-0.5 for d in D]}
>>> found = data_efficiency(runs, "plain", "equivariant", floor=0.0)
>>> f"{found.factor[0].value:.2f}"
'4.00'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.axes import CALM, SERIES
from equiv_probe.report.document import Column, Document, Figure, Headline, Section, method
from equiv_probe.report.record import Record
from equiv_probe.scaling import estimate_tables, figures
from equiv_probe.scaling.estimates import Estimate, estimates_of, shown
from equiv_probe.scaling.figures import label_of
from equiv_probe.scaling.fitting import fit
from equiv_probe.scaling.law import ASSUMED, Fit
from equiv_probe.scaling.table import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from equiv_probe.scaling.solver import Array
    from equiv_probe.scaling.table import Table

MARGIN = 1.5
"""How far outside of the sizes that were run a law is believed without a word."""


class DataEfficiency(Record, frozen=True):
    """Two models' losses against the size of their training sets.

    Attributes:
        names: of the models.
        laws: of both, with their runs.
        losses: at which they are compared.
        data: what each needs for these, by name.
        factor: what the first needs over what the second needs; infinite where the first never gets there.
        x: name of the size.
        loss: name of the loss.
        notes: what a reader must know.
        protocol: how the laws were fitted.
    """

    kind: ClassVar[str] = "data_efficiency"

    names: tuple[str, str]
    laws: dict[str, Fit]
    losses: list[float]
    data: dict[str, list[Estimate]]
    factor: list[Estimate]
    x: str
    loss: str
    notes: list[str] = msgspec.field(default_factory=list)
    protocol: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse models without laws, and losses without sizes."""
        if {*self.laws} != {*self.names} or {*self.data} != {*self.names}:
            raise ValueError("names: not those of the laws and of the data")
        if not self.losses or {len(self.factor), *map(len, self.data.values())} != {len(self.losses)}:
            raise ValueError("losses: not as many factors and sizes as losses")

    def document(self) -> Document:
        """How many times more data, at which loss, and the laws that say so."""
        first, second = self.names
        laws = [law.parameter_table(f"Law of {name}: {law.formula}") for name, law in self.laws.items()]
        notes = [*self.notes, *(f"{name}: {note}" for name, one in self.laws.items() for note in one.notes)]
        return Document(
            f"{first} and {second}",
            f"{self.loss} against {self.x}, {self.laws[first].runs} and {self.laws[second].runs} runs",
            [
                self._headline(),
                estimate_tables.table(f"{self.x} needed to come to a loss", self._columns(), self.laws[first].level),
                Section("Where does it come from?", [*self._figures(), *laws]),
                *method(self.protocol, notes, blind_spots=[ASSUMED]),
            ],
        )

    def _headline(self) -> Headline:
        (first, second), place = self.names, len(self.losses) // 2
        factor, at = self.factor[place], f"{self.loss} = {shown(self.losses[place])}"
        known = not np.isnan(factor.low) and 1 not in factor
        answer = f"Which of {first} and {second} needs less {self.x} is not known"
        if known:
            answer = f"{first} needs {'more' if factor.value > 1 else 'less'} {self.x} than {second}"
        elif np.isnan(factor.low):
            answer = f"{first} and {second} are compared without error bars"
        return Headline(
            f"{answer} to come to {at}.",
            factor.value,
            f"times the {self.x}" if np.isfinite(factor.value) else f"no {self.x} would do for {first}",
            factor.span(self.laws[first].level),
            f"At {at}, {first} needs {self.data[first][place]} and {second} {self.data[second][place]}.",
            severity="good" if known else "unknown",
            about=self.loss,
            question="How much more data does it need?",
        )

    def _figures(self) -> list[Figure]:
        unit, colours = self.laws[self.names[0]].unit, dict(zip(self.names, (SERIES[0], CALM), strict=True))

        def draw(ax: Axes) -> Axes:
            lines = [law.curve(colours[name], name) for name, law in self.laws.items()]
            return figures.curves(lines, label_of(self.x), label_of(self.loss, unit), ax)

        text = "Points are runs; lines are the laws, with their intervals, and dotted where they end."
        ratio = figures.ratio(self.losses, self.factor, self.names, self.x, label_of(self.loss, unit))
        return [Figure(f"{self.loss} against {self.x}", draw, text), *ratio]

    def rows(self) -> list[dict[str, Any]]:
        """One row per loss."""
        return estimate_tables.rows(self._columns())

    def _columns(self) -> estimate_tables.Columns:
        first, second = self.names
        heads = (Column(self.loss, self.laws[first].unit), *map(Column, (first, second, f"{first} / {second}")))
        return list(zip(heads, (self.losses, self.data[first], self.data[second], self.factor), strict=True))


def data_efficiency(
    runs: Table | Mapping[str, Any],
    first: str,
    second: str,
    *,
    by: str = "model",
    x: str = "D",
    loss: str = "L_total",
    losses: Sequence[float] | None = None,
    **how: Any,
) -> DataEfficiency:
    """The factor of data by which a model needs more than another, as a function of the loss.

    Each model's runs are fitted with ``L = E + A D^−alpha`` (:func:`equiv_probe.scaling.fit`); the sizes are where the
    laws come to a loss, and the intervals those of the fits, which are independent. Without a law, by interpolation
    between the sizes that were run: ``gap(a, b, x="D")``.

    Args:
        runs: one row per run, at a fixed size of the model; several seeds make the intervals shorter.
        first: the model in the numerator: a value of the column ``by``.
        second: the model in the denominator.
        by: the column that distinguishes the models; augmentation is a model of its own.
        x: the column of the size of the training set.
        loss: the column of the loss.
        losses: to compare at; None takes seven between the losses that both models came to in their runs.
        **how: further arguments of :func:`equiv_probe.scaling.fit`.

    Raises:
        EquivProbeError: a model is not there, or cannot be fitted; no loss that both came to.
    """
    there = table_of(runs).by(by)
    for name in (first, second):
        if (name,) not in there:
            raise EquivProbeError(f"{by} = {', '.join(str(key[0]) for key in there)}", name, f'by="{by}"')
    laws = {
        name: fit(there[name,], x, loss, **{**how, "seed": how.get("seed", 0) + place, "name": name})
        for place, name in enumerate((first, second))
    }
    if losses is None:
        losses = _common({name: there[name,].numbers(loss) for name in laws}, loss)
    at, level = np.array(losses, dtype=float), laws[first].level
    needed = {name: law.reached(np.vstack([law.values, law.draws]), at) for name, law in laws.items()}
    both = min(map(len, needed.values()))  # the values alone, if a law has no interval
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = needed[first][:both] / needed[second][:both]
    data = {name: estimates_of(one, level) for name, one in needed.items()}
    return DataEfficiency(
        names=(first, second),
        laws=laws,
        losses=at.tolist(),
        data=data,
        factor=estimates_of(ratio, level),
        x=x,
        loss=loss,
        notes=_notes(laws, data, at, loss),
        protocol=laws[first].protocol,
    )


def _common(values: Mapping[str, Array], loss: str) -> list[float]:
    """Seven losses that both models came to, falling."""
    low, high = max(one.min() for one in values.values()), min(one.max() for one in values.values())
    if low >= high:
        (first, a), (second, b) = values.items()
        raise EquivProbeError(
            f"{first} with {loss} from {a.min():g} to {a.max():g} and {second} from {b.min():g} to {b.max():g}",
            "losses that both came to",
            "losses=[...] compares beyond the runs, by the laws",
        )
    return [float(one) for one in np.geomspace(high, low, 7)]


def _notes(laws: Mapping[str, Fit], data: Mapping[str, list[Estimate]], at: Array, loss: str) -> list[str]:
    notes = []
    if any(one.high == np.inf for estimates in data.values() for one in estimates):
        notes.append("∞: the floor E of the law may lie above that loss, so that no amount of data would do.")
    (x,) = next(iter(laws.values())).x
    inside = np.ones(len(at), dtype=bool)
    for name, law in laws.items():
        low, high = law.range[x]
        sizes = np.array([one.value for one in data[name]])
        inside &= ~np.isfinite(sizes) | ((low / MARGIN <= sizes) & (sizes <= high * MARGIN))
    if not inside.all():
        beyond = ", ".join(map(shown, at[~inside]))
        notes.append(f"At {loss} = {beyond} a model needs {x} outside of what was run: extrapolated.")
    return notes
