"""The study of forecasts: tables become runs, laws win where they hold, and what kind a dip is."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .studies import module_of

if TYPE_CHECKING:
    from collections.abc import Iterator

STUDY = Path(__file__).parents[2] / "integrations" / "learning_rotation" / "forecast.py"
STEPS = 10 ** (np.arange(8, 41) / 8)


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    """The study's module."""
    with pytest.MonkeyPatch.context() as patch:
        yield module_of(STUDY, "learning_rotation_forecast", patch)


def planted(study: Any, seed: int, kind: str) -> Any:
    """A run of laws, or of a plateau that ends at step 20,000 in a fall of ``L_mean`` and a rise of ``L_equiv``."""
    scatter = np.exp(0.02 * np.random.default_rng(seed).standard_normal((2, len(STEPS))))
    mean, equiv = 0.005 + 40 * STEPS**-0.8, 0.02 + (400 + 40 * seed) * STEPS**-1.4
    if kind == "plateau":
        learned = 1 / (1 + (STEPS / 2e4) ** -4.0)
        mean, equiv = 3 * (1 - 0.95 * learned), 40 / STEPS + learned
    return study.Run(kind, f"{kind} {seed}", np.column_stack([STEPS, mean * scatter[0], equiv * scatter[1]]))


def test_laws_win_where_they_hold_and_lose_where_they_do_not(study: Any) -> None:
    """Of ten runs each, from the first tenth, which is on the plateau."""
    off = {}
    for kind in ("laws", "plateau"):
        rows = [study.tested(planted(study, seed, kind), 0.1) for seed in range(10)]
        off[kind] = [np.median([abs(row[m][0] - row["found"]) for row in rows]) for m in ("law", "today")]
        held = [row["law"][3] <= row["found"] <= row["law"][4] for row in rows]
        assert np.mean(held) >= 0.7 if kind == "laws" else np.mean(held) <= 0.2
    assert off["laws"][0] < off["laws"][1] / 2
    assert off["plateau"][0] > 1


def test_dips_of_laws_are_told_from_those_at_the_end_of_a_plateau(study: Any) -> None:
    cells = {}
    for kind in ("laws", "plateau"):
        table = study.dips([planted(study, seed, kind) for seed in range(4)])
        cells[kind] = [next(iter(column.cells)) for column in table.columns]
    assert cells["laws"][4] == "4"
    assert cells["plateau"][4] == "4"
    assert cells["laws"][5].startswith("0 (")
    assert cells["plateau"][5].startswith("4 (")
    misses = {kind: float(row[2].split()[0]) for kind, row in cells.items()}
    assert misses["laws"] < 5
    assert misses["plateau"] > 20


def test_tables_become_runs(study: Any, tmp_path: Path) -> None:
    """Held-out squared errors alone, each run on its own; models that respect rotation are left out."""
    path = tmp_path / "some_steps.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["run", "seed", "part", "loss", "step", "L_total", "L_equiv"])
        for run, share in (("plain", 0.1), ("painn", 1e-9)):
            for seed in (0, 1):
                for part, loss, factor in (("held", "mse", 1), ("held", "mae", 5), ("train", "mse", 7)):
                    for step in (0, 1, 10, 100, 1000, 950):
                        total = factor * (1 + seed) * (1 + 1 / (step + 1))
                        out.writerow([run, seed, part, loss, step, total, share * total])
    runs = list(study.runs_of("some", path))
    assert [run.name for run in runs] == ["some_steps/plain/0/held/mse", "some_steps/plain/1/held/mse"]
    np.testing.assert_allclose(runs[1].rows[0], [1, 0.9 * 3, 0.1 * 3])
    assert runs[0].part(0.1)["step"].tolist() == [1, 10, 100]
    step, odds = runs[0].end
    assert step == pytest.approx(np.sqrt(950 * 1000))
    assert odds == pytest.approx(np.log(0.1 / 0.9))


def test_the_committed_table_says_what_the_text_says(study: Any) -> None:
    """From the first tenth, four in ten of the laws' 95 % intervals do not hold what was found; today's do."""
    with (STUDY.parent / "results" / "forecast.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["seen"]) == 0.1]
    assert len(rows) > 50
    held = {}
    for method in ("law", "today"):
        low, found, high = (
            np.array([float(row[name]) for row in rows])
            for name in (f"{method}_95_low", "share_found", f"{method}_95_high")
        )
        held[method] = np.mean((low <= found) & (found <= high))
    assert held["law"] < 0.7
    assert held["today"] >= 0.95
