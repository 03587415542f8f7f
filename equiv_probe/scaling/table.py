"""Runs as columns: what is fitted and compared, wherever it was read from.

>>> columns = {"model": ["a", "a", "b"], "parameters": [10, 10, 10], "step": [1, 2, 1], "L_total": [3.0, 2.0, 4.0]}
>>> runs = table_of(columns)
>>> runs.final()["L_total"].tolist()
[2.0, 4.0]
>>> runs.where(model="a").numbers("N").tolist()
[10.0, 10.0]
>>> {key[0]: len(rows) for key, rows in runs.by("model").items()}
{'a': 2, 'b': 1}
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from equiv_probe.scaling.solver import Array

ALIASES = {
    "N": ("parameters", "params", "n_parameters", "num_params"),
    "D": ("structures", "n_structures", "training_structures", "samples"),
    "C": ("flops", "compute"),
    "seconds": ("device_seconds", "time", "wall_time", "elapsed"),
    "hours": ("device_hours",),
}
"""Other names under which a column is looked for."""
RUN = (
    *("run", "model", "parameters", "structures", "seed"),
    *("augment", "augmentation", "width", "depth", "stage", "output"),
)
"""Columns that distinguish runs, beside the names in ``ALIASES["N"]`` and ``ALIASES["D"]``."""
NOT_A_RUN = {"C", "seconds", "hours"}


@dataclass(frozen=True)
class Table:
    """Columns of equal length; numbers are float64, with NaN where a value is missing, everything else is text.

    Attributes:
        columns: by name.
        source: where they were read.
    """

    columns: dict[str, NDArray[Any]]
    source: str = ""

    def __len__(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, name: str) -> bool:
        return self.name_of(name) is not None

    def __iter__(self) -> Iterator[str]:
        """The names of the columns."""
        return iter(self.columns)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column, under its name or an alias of it; ``"hours"`` also from seconds.

        Raises:
            EquivProbeError: there is none.
        """
        found = self.name_of(name)
        if found is None and name == "hours" and "seconds" in self:
            hours: NDArray[Any] = self.numbers("seconds") / 3600
            return hours
        if found is None:
            raise EquivProbeError(
                f"{self.source or 'a table'} with the columns {', '.join(self.columns) or '(none)'}",
                " or ".join((name, *ALIASES.get(name, ()))),
                "name the column: x=..., loss=...",
            )
        return self.columns[found]

    def name_of(self, name: str) -> str | None:
        """The column's own name, for a name or an alias; None where there is no such column."""
        return next((one for one in (name, *ALIASES.get(name, ())) if one in self.columns), None)

    def numbers(self, name: str) -> Array:
        """A column of numbers.

        Raises:
            EquivProbeError: there is none, or it holds text.
        """
        column = self[name]
        if column.dtype.kind != "f":
            wrong = next((one for one in column if _array([one]).dtype.kind != "f"), column[0])
            raise EquivProbeError(f"the column {name} with {str(wrong)[:60]!r}", "numbers")
        return column

    def take(self, rows: Any) -> Table:
        """Some of the rows, by place or by a mask."""
        return Table({name: column[rows] for name, column in self.columns.items()}, self.source)

    def where(self, **conditions: Any) -> Table:
        """Rows with a value, as in ``where(model="egnn")``, or that fulfil a rule, ``where(step=lambda s: s > 9)``."""
        kept = np.ones(len(self), dtype=bool)
        for name, wanted in conditions.items():
            column = self[name]
            kept &= np.asarray([bool(wanted(v)) for v in column] if callable(wanted) else column == wanted, dtype=bool)
        return self.take(kept)

    def by(self, *names: str) -> dict[tuple[Any, ...], Table]:
        """Tables of the rows that are equal in some columns, in order of appearance."""
        return {key: self.take(rows) for key, rows in self._rows_by(names).items()}

    def _rows_by(self, names: Sequence[str]) -> dict[tuple[Any, ...], NDArray[np.intp]]:
        groups: dict[tuple[Any, ...], list[int]] = {}
        columns = [self[name] for name in names]
        for row in range(len(self)):
            groups.setdefault(tuple(_plain(column[row]) for column in columns), []).append(row)
        return {key: np.array(rows, dtype=np.intp) for key, rows in groups.items()}

    def require_one(self, *names: str) -> None:
        """See that rows are of one kind, where columns distinguish kinds.

        Args:
            names: of the columns; those that are not there are left alone.

        Raises:
            EquivProbeError: there are several.
        """
        for name in names:
            kinds = list(dict.fromkeys(map(str, self.columns.get(name, ()))))
            if len(kinds) > 1:
                raise EquivProbeError(
                    f"rows of {len(kinds)} kinds of {name}: {', '.join(kinds)[:200]}",
                    "one",
                    f'table.where({name}="{kinds[-1]}"), or --where {name}={kinds[-1]}',
                )

    @property
    def runs(self) -> list[str]:
        """The columns that distinguish runs."""
        sized = [name for key, names in ALIASES.items() if key not in NOT_A_RUN for name in (key, *names)]
        return [name for name in self.columns if name in RUN or name in sized]

    def final(self, by: Sequence[str] | None = None) -> Table:
        """The last row of every run: that with the largest step, or the last one where there are no steps.

        Args:
            by: the columns that distinguish runs; None takes those that are known to.
        """
        last = []
        steps = self.numbers("step") if "step" in self else np.arange(len(self), dtype=float)
        for own in self._rows_by(self.runs if by is None else by).values():
            order = np.argsort(np.nan_to_num(steps[own], nan=-np.inf), kind="stable")
            last.append(own[order[-1]])  # of equal steps the later row: a run that was begun again
        return self.take(np.array(sorted(last), dtype=int))

    def frontier(self, x: str = "C", loss: str = "L_total") -> Table:
        """Rows with a lower loss than all that cost less, for a fit of ``L(C)`` (Hoffmann et al., 2022, approach 1).

        The least of many noisy losses is too low by chance: the more runs there are at a cost, the more so.

        Args:
            x: column of the cost.
            loss: column of the loss.
        """
        cost, values = self.numbers(x), self.numbers(loss)
        order = np.lexsort((values, cost))
        order = order[np.isfinite(cost[order]) & np.isfinite(values[order]) & (cost[order] > 0)]
        before = np.minimum.accumulate(np.concatenate([[np.inf], values[order][:-1]]))
        return self.take(order[values[order] < before])


def table_of(columns: Table | Mapping[str, Any], source: str = "") -> Table:
    """A table of a mapping of columns, or of anything with columns, such as a data frame.

    Raises:
        EquivProbeError: columns of different lengths, or none.
    """
    if isinstance(columns, Table):
        return columns
    arrays = {str(name): _array(list(columns[name])) for name in columns}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise EquivProbeError(f"columns of lengths {lengths}", "columns of one length")
    return Table(arrays, source)


def read_csv(path: Path) -> Table:
    """A table from a CSV file with a header; lines that start with ``#`` are comments.

    Raises:
        EquivProbeError: the file holds no rows, or no text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise EquivProbeError(f"{path}, which is no table ({error})", "a CSV file in UTF-8") from error
    if not rows:
        raise EquivProbeError(f"{path} without rows", "a header and a row per run or step")
    return table_of({name: [row[name] for row in rows] for name in rows[0] if name is not None}, path.name)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], digits: int = 6, names: Sequence[str] = ()) -> None:
    """Write what :func:`read_csv` reads, into a folder that is made where there is none.

    Args:
        path: of the file.
        rows: one mapping each; what one of them lacks stays empty.
        digits: of numbers that are not whole.
        names: of the columns that come first; the others follow in the order in which rows have them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        heads = dict.fromkeys([*names, *(name for row in rows for name in row)])
        table = csv.DictWriter(file, list(heads), lineterminator="\n")
        table.writeheader()
        table.writerows({n: f"{v:.{digits}g}" if isinstance(v, float) else v for n, v in row.items()} for row in rows)


def _array(values: list[Any]) -> NDArray[Any]:
    try:
        return np.array([np.nan if v is None or v == "" else float(v) for v in values], dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(["" if v is None else str(v) for v in values], dtype=object)


def _plain(value: Any) -> Any:
    """Missing numbers are equal to each other."""
    return None if isinstance(value, float) and np.isnan(value) else value
