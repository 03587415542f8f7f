"""Results of scaling are stored, come back whole, and say what their numbers are."""

import json
import math

import msgspec
import numpy as np
import pytest

import equiv_probe as ep
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.document import Column, Figure, Table
from equiv_probe.scaling import Allocation, Estimate, Fit, Results, allocate, data_efficiency, figure_of, fit, gap

N, D = np.repeat([1e3, 1e4, 1e5, 1e6], 4), np.tile([1e2, 1e3, 1e4, 1e5], 4)
SIZES = np.repeat(np.geomspace(100, 1e4, 5), 3)
STEPS = np.geomspace(10, 1e4, 16)


def noise(*shape, seed=0):
    return np.exp(0.02 * np.random.default_rng(seed).standard_normal(shape))


def law_of_both(**how):
    losses = (0.01 + 3 * N**-0.34 + 5 * D**-0.28) * noise(16)
    return fit({"N": N, "D": D, "L_total": losses}, **{"resamples": 40, "name": "plain", "unit": "eV²", **how})


def efficiency(floor=0.0):
    """The second needs nine times less data; a floor of the first model alone is not reached by any."""
    losses = (4 * np.stack([SIZES, 9 * SIZES]) ** -0.5 + [[floor], [0]]) * noise(2, 15)
    columns = {"model": ["plain"] * 15 + ["egnn"] * 15, "D": [*SIZES, *SIZES], "L_total": losses.ravel()}
    return data_efficiency(columns, "plain", "egnn", losses=[0.1], resamples=40)


def crossing(seeds=3):
    tables = [
        {
            "step": np.tile(STEPS, seeds),
            "seed": np.repeat(np.arange(seeds), 16),
            "L_total": (law(STEPS) * noise(seeds, 1, seed=seed)).ravel(),
        }
        for seed, law in enumerate((lambda t: t**-0.5, lambda t: 3 * t**-0.8))
    ]
    return gap(*tables, "step", names=("slow", "fast"), resamples=100, unit="eV²")


def results():
    law = law_of_both()
    one = fit({"D": D, "L_total": (0.05 + 3 * D**-0.5) * noise(16)}, "D", resamples=40)
    return {
        "law": law,
        "without intervals": law_of_both(resamples=0),
        "one": one,
        "best": allocate(law, [1e8, 1e10], 6),
        "function": allocate(law, 1e8, lambda n, d: 6 * n * d),
        "data": efficiency(),
        "unreached": efficiency(floor=0.2),
        "gap": crossing(),
        "single": crossing(seeds=1),
    }


@pytest.fixture(scope="module")
def everything():
    return results()


def test_files_give_back_what_was_saved(everything, tmp_path):
    for name, found in everything.items():
        found.save(tmp_path / "one.json")
        again = ep.load(tmp_path / "one.json")
        assert type(again) is type(found), name
        assert again == found, name
        assert str(again) == str(found), name
    law, again = everything["law"], Fit.from_dict(json.loads(everything["law"].to_json()))
    for ends, stored in zip(law.band(1e5, SIZES), again.band(1e5, SIZES), strict=True):
        np.testing.assert_array_equal(ends, stored)
    assert allocate(again, 1e8, 6).n == allocate(law, 1e8, 6).n


def test_several_results_are_one_file(everything, tmp_path):
    Results.of(everything).save(tmp_path / "all.json")
    again = ep.load(tmp_path / "all.json")
    assert {name: again[name] for name in everything} == everything
    text = str(again)
    assert all(one.document().name in text for one in everything.values())


def test_infinities_and_what_is_missing_are_kept_apart():
    """JSON has neither: an end without bound must not come back as an end that is not known."""
    for one in (Estimate(2.0, 1.5, math.inf), Estimate(math.inf, math.inf, math.inf), Estimate(2.0), Estimate(1, 0, 3)):
        stored = json.loads(json.dumps(msgspec.to_builtins(one)).replace("NaN", "null").replace("Infinity", "null"))
        again = msgspec.convert({k: math.nan if v is None else v for k, v in stored.items()}, Estimate)
        assert again == one
        assert str(again) == str(one)
    unreached = efficiency(floor=0.2)
    again = type(unreached).from_dict(unreached.to_dict())
    assert again.factor[0].value == math.inf
    assert "no D would do for plain" in str(again)


def test_headlines_hold_the_number_its_interval_and_the_verdict(everything):
    tops = {name: one.document().headline for name, one in everything.items()}
    law, best, found = (everything[name] for name in ("law", "best", "gap"))
    assert tops["law"].value == law["alpha"].value
    assert tops["law"].interval == (law["alpha"].low, law["alpha"].high)
    assert tops["law"].answer.startswith("L_total falls with N and D")
    assert all(map(math.isnan, tops["without intervals"].interval))
    assert tops["best"].value == best.n_exponent.value
    assert tops["function"].value == everything["function"].n[0].value
    assert tops["data"].answer == "plain needs more D than egnn to come to L_total = 0.100."
    assert pytest.approx(tops["data"].value, rel=0.1) == 9
    assert tops["unreached"].value == math.inf
    assert tops["gap"].answer == f"{found.verdict}."
    assert tops["gap"].value == found.crossings[0].x.value
    assert tops["gap"].interval == (found.crossings[0].x.low, found.crossings[0].x.high)
    # 90 % intervals are not shown where 95 % is written beside them.
    assert all(map(math.isnan, law_of_both(level=0.9).document().headline.interval))
    # Without differences nothing is claimed: the negative control.
    same = {
        "model": ["a"] * 15 + ["b"] * 15,
        "D": [*SIZES, *SIZES],
        "L_total": (4 * SIZES**-0.5 * noise(2, 15)).ravel(),
    }
    top = data_efficiency(same, "a", "b", losses=[0.1], resamples=40, floor=0.0).document().headline
    assert "is not known" in top.answer
    assert top.severity == "unknown"


def test_tables_and_axes_have_names_and_units(everything):
    for name, found in everything.items():
        blocks = list(found.document().each())
        for table in (block for block in blocks if isinstance(block, Table)):
            assert all(isinstance(column, Column) and column.name for column in table.columns), name
            assert {len(row) for row in table.rows} == {len(table.columns)}, name
        drawing = figure_of(found)
        assert len(drawing.axes) == sum(isinstance(block, Figure) for block in blocks)
        for ax in drawing.axes:
            assert ax.get_xlabel(), name
            assert ax.get_ylabel(), name
    units = {name: figure_of(everything[name]).axes[0].get_ylabel() for name in ("law", "one", "gap")}
    assert units == {"law": "L_total, eV²", "one": "L_total", "gap": "L_total, eV²"}
    with pytest.warns(DeprecationWarning, match="fit"):
        assert figure_of(everything["one"], unit="eV²").axes[0].get_ylabel() == "L_total, eV²"


@pytest.mark.slow
def test_legends_lie_beside_the_data(everything):
    """No legend overlaps its axes, within which all of the data are; with more lines than legends have columns, too."""
    many = np.repeat(np.geomspace(1e3, 1e6, 12), 4), np.tile([1e2, 1e3, 1e4, 1e5], 12)
    losses = 0.01 + 3 * many[0] ** -0.34 + 5 * many[1] ** -0.28
    crowded = fit({"N": many[0], "D": many[1], "L_total": losses}, resamples=0)
    seen = 0
    for found in (*everything.values(), crowded):
        drawing = figure_of(found)
        drawing.draw_without_rendering()
        width, height = drawing.canvas.get_width_height()
        for ax in drawing.axes:
            if legend := ax.get_legend():
                box, inside = legend.get_window_extent(), ax.get_window_extent()
                assert box.y0 >= inside.y1 - 1
                assert box.x0 >= -1
                assert box.x1 <= width + 1
                assert box.y1 <= height + 1
                seen += 1
    assert seen >= 6


def test_rows_are_the_numbers(everything):
    law, found = everything["law"], everything["gap"]
    assert {row["parameter"]: row["value"] for row in law.rows()} == {k: v.value for k, v in law.parameters.items()}
    assert [row["fast"] for row in found.rows()] == found.curves[1].tolist()
    assert [row["N"] for row in everything["best"].rows()] == [one.value for one in everything["best"].n]
    assert everything["data"].rows()[0]["plain / egnn"] == everything["data"].factor[0].value


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("law", {"parameters": {}}, "parameters: not E, A, alpha, B, beta"),
        ("law", {"points": [[1.0, 2.0]]}, "points: not 3 numbers in every row"),
        ("law", {"points": []}, "points: not runs"),
        ("law", {"draws": [[1.0]]}, "draws: not 5 numbers"),
        ("law", {"level": "high"}, "level"),
        ("best", {"n": []}, "compute: not as many"),
        ("data", {"losses": []}, "losses: not as many"),
        ("data", {"names": ["plain", "painn"]}, "names: not those"),
        ("gap", {"ratio": [1.0]}, "ratio: not a number for each place"),
        ("gap", {"curves": [[1.0, 2.0], [1.0]]}, "curves: not of one length"),
        ("gap", {"at": [1.0]}, "at: not two"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(everything, kind, change, message):
    stored = {**everything[kind].to_dict(), **change}
    with pytest.raises(EquivProbeError, match=message):
        type(everything[kind]).from_dict(stored)


def test_one_kind_is_not_read_as_another(everything):
    with pytest.raises(EquivProbeError, match="allocation"):
        Allocation.from_dict(everything["law"].to_dict())
