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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import table_of as rich_table
from equiv_probe.scaling.estimates import Estimate, interval_of, shown
from equiv_probe.scaling.fitting import fit
from equiv_probe.scaling.law import Fit, printed
from equiv_probe.scaling.table import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

MARGIN = 1.5
"""How far outside of the sizes that were run a law is believed without a word."""


@dataclass(frozen=True)
class DataEfficiency:
    """Two models' losses against the size of their training sets.

    Attributes:
        names: of the models.
        laws: of both.
        losses: at which they are compared.
        data: what each needs for these, by name.
        factor: what the first needs over what the second needs; infinite where the first never gets there.
        runs: one table per model.
        x: name of the size.
        loss: name of the loss.
        notes: what a reader must know.
    """

    names: tuple[str, str]
    laws: dict[str, Fit]
    losses: list[float]
    data: dict[str, list[Estimate]]
    factor: list[Estimate]
    runs: dict[str, Table]
    x: str
    loss: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers."""
        return {
            "models": list(self.names),
            "laws": {name: law.to_dict() for name, law in self.laws.items()},
            "losses": self.losses,
            "data": {name: [one.to_dict() for one in needed] for name, needed in self.data.items()},
            "factor": [one.to_dict() for one in self.factor],
            "notes": self.notes,
        }

    def __rich_console__(self, console: Console, options: Any) -> Any:
        """The laws, and what each model needs."""
        for name, law in self.laws.items():
            yield Text(name, "bold")
            yield from law.__rich_console__(console, options)
        first, second = self.names
        title = f"{self.x} needed to come to a loss"
        table = rich_table(title, self.loss, first, second, f"{first} / {second}", wraps=(first, second))
        rows = zip(self.losses, self.data[first], self.data[second], self.factor, strict=True)
        for loss, *cells in rows:
            table.add_row(*map(Text, (shown(loss), *map(str, cells))))
        yield table
        for note in self.notes:
            yield Text.assemble(("Note: ", "bold"), note)

    def __str__(self) -> str:
        return printed(self)


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
        by: the column that tells the models apart; augmentation is a model of its own.
        x: the column of the size of the training set.
        loss: the column of the loss.
        losses: to compare at; None takes seven between the losses that both models came to in their runs.
        **how: further arguments of :func:`equiv_probe.scaling.fit`.

    Raises:
        EquivProbeError: a model is not there, or cannot be fitted; no loss that both came to.
    """
    table = table_of(runs)
    there = table.by(by)
    tables = {}
    for name in (first, second):
        if (name,) not in there:
            raise EquivProbeError(f"{by} = {', '.join(str(key[0]) for key in there)}", name, f'by="{by}"')
        tables[name] = there[name,]
    laws = {
        name: fit(tables[name], x, loss, **{**how, "seed": how.get("seed", 0) + place})
        for place, name in enumerate((first, second))
    }
    notes: list[str] = []
    if losses is None:
        values = [tables[name].numbers(loss) for name in (first, second)]
        low, high = max(one.min() for one in values), min(one.max() for one in values)
        if low >= high:
            raise EquivProbeError(
                f"{first} with {loss} from {values[0].min():g} to {values[0].max():g} and {second} from "
                f"{values[1].min():g} to {values[1].max():g}",
                "losses that both came to",
                "losses=[...] compares beyond the runs, by the laws",
            )
        losses = np.geomspace(high, low, 7).tolist()
    at = np.array(losses)
    needed = {}
    for name, law in laws.items():
        needed[name] = law.reached(law.values, at), law.reached(law.draws, at)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = needed[first][0] / needed[second][0]
        both = min(len(law.draws) for law in laws.values())  # none, if one of the laws has no interval
        drawn = needed[first][1][:both] / needed[second][1][:both]
    level = laws[first].level
    data = {name: [_of(best[i], draws[:, i], level) for i in range(len(at))] for name, (best, draws) in needed.items()}
    if any(one.high == np.inf for estimates in data.values() for one in estimates):
        notes.append("∞: the floor E of the law may lie above that loss, so that no amount of data would do.")
    beyond = [
        shown(value)
        for i, value in enumerate(at)
        if any(
            not law.range[x][0] / MARGIN <= needed[name][0][i] <= law.range[x][1] * MARGIN
            for name, law in laws.items()
            if np.isfinite(needed[name][0][i])
        )
    ]
    if beyond:
        notes.append(f"At {loss} = {', '.join(beyond)} a model needs {x} outside of what was run: extrapolated.")
    return DataEfficiency(
        (first, second),
        laws,
        [float(one) for one in at],
        data,
        [_of(ratio[i], drawn[:, i], level) for i in range(len(at))],
        tables,
        x,
        loss,
        notes,
    )


def _of(value: float, draws: Any, level: float) -> Estimate:
    return Estimate(float(value), *interval_of(draws, level))
