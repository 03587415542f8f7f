"""Comparisons: the right change, p values and intervals that mean what they say, and no mixing of what is not alike."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from equiv_probe import cli
from equiv_probe.comparison import Comparison, Contrast, compare, p_value
from equiv_probe.differences import change, welch
from equiv_probe.errors import EquivProbeError

from .page_reports import audit_report, measured, run_report, sampled_report

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator


def contrast(found: Comparison, number: str, quantity: str = "forces") -> Contrast:
    return next(c for c in found.contrasts if (c.quantity, c.number) == (quantity, number))


def drawn(rng: Generator, count: int, hardness: Any, scale: float = 1.0, noise: float = 0.3) -> Any:
    """``L_equiv``, ``L_total`` and weight of structures, some harder than others."""
    equiv = scale * hardness * np.exp(noise * rng.standard_normal(count))
    return equiv, equiv * (4 + rng.random(count)), rng.integers(3, 30, count).astype(float)


def test_equal_weights_give_the_textbooks_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = np.exp(rng.standard_normal(40))
    a, b = ({("s", "", i): (v, 1.0) for i, v in enumerate(hard * np.exp(0.2 * rng.standard_normal(40)))} for _ in "ab")
    found = change(a, b, ratio=False)
    x, y = (np.array([v for v, _ in one.values()]) for one in (a, b))
    expected = stats.ttest_rel(y, x)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((y.mean() - x.mean(), low, high))
    assert found.how == "paired, 40 structures"


def test_other_structures_give_the_textbooks_welch_test() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(3, 1, 25), rng.normal(3.5, 2, 40)
    a = {("a", "", i): (v, 1.0) for i, v in enumerate(x)}
    b = {("b", "", i): (v, 1.0) for i, v in enumerate(y)}
    found = change(a, b, ratio=False)
    expected = stats.ttest_ind(y, x, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.how == "not paired, 25 and 40 structures"


def test_welch_of_one_structure_has_no_degrees_of_freedom() -> None:
    variance, dof = welch((math.nan, 1.0), (1, 5))
    assert math.isnan(variance)
    assert math.isnan(dof)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("ratio", [True, False])
def test_p_values_and_intervals_mean_what_they_say(paired: bool, ratio: bool) -> None:
    """Two models alike: p below 0.05 in one of twenty repetitions, and the interval holds the truth in nineteen."""
    rng = np.random.default_rng(2)
    repetitions, count = 2000, 30
    rejected = covered = 0
    for _ in range(repetitions):
        hard = np.exp(0.7 * rng.standard_normal(count))
        other = hard if paired else np.exp(0.7 * rng.standard_normal(count))
        samples = []
        for hardness, name in ((hard, "a"), (other, "a" if paired else "b")):
            equiv, total, weight = drawn(rng, count, hardness)
            below = weight if ratio else weight * total  # the error itself, or its share in the loss
            samples.append(
                {(name, "", i): (e * w, d) for i, (e, w, d) in enumerate(zip(equiv, weight, below, strict=True))}
            )
        found = change(samples[0], samples[1], ratio=ratio)
        rejected += found.p < 0.05
        covered += found.low <= float(ratio) <= found.high
    # Binomial standard error 0.5 %; the delta method with 30 structures of unequal weight is a percent off.
    assert 0.035 < rejected / repetitions < 0.075
    assert covered == repetitions - rejected  # the interval leaves the truth out just where p is below 5 %


def test_pairing_finds_what_independent_samples_hide() -> None:
    rng = np.random.default_rng(3)
    hard = np.exp(1.0 * rng.standard_normal(60))
    first, second = drawn(rng, 60, hard, noise=0.1), drawn(rng, 60, hard, scale=0.81, noise=0.1)
    second = (*second[:2], first[2])
    paired = contrast(compare([sampled_report("a", *first), sampled_report("b", *second)]), "√L_equiv").entries[1]
    assert paired.change.value == pytest.approx(0.9, abs=0.02)
    assert paired.change.p < 1e-6
    assert paired.change.low < 0.9 < paired.change.high
    names = [f"b{i}" for i in range(60)]
    apart = contrast(compare([sampled_report("a", *first), sampled_report("b", *second, names)]), "√L_equiv").entries[1]
    assert apart.change.value == pytest.approx(paired.change.value)
    assert apart.change.p > 0.1  # negative control: without the pairing the same data show nothing


def test_structures_that_only_one_has_are_left_out_of_the_change() -> None:
    rng = np.random.default_rng(4)
    hard = np.exp(rng.standard_normal(20))
    first = drawn(rng, 20, hard, noise=0.1)
    longer = [np.append(column, 1e3) for column in first]
    found = contrast(compare([sampled_report("a", *first), sampled_report("b", *longer)]), "√L_equiv").entries
    assert found[1].value > 2 * found[0].value  # the report's own value is over all
    assert found[1].change.value == pytest.approx(1.0)
    assert found[1].change.how == "paired, 20 structures that both have (of 20 and 21)"


def test_the_same_report_twice_differs_by_nothing() -> None:
    rng = np.random.default_rng(5)
    one = sampled_report("a", *drawn(rng, 10, np.ones(10)))
    found = compare([one, one], ["first", "again"])
    assert {c.number: c.entries[1].change.p for c in found.contrasts} == dict.fromkeys(
        ("√L_equiv", "share", "L_total", "L_mean"), 1.0
    )
    assert [entry.report for entry in found.contrasts[0].entries] == ["first", "again"]


def test_round_off_is_not_compared_with_round_off() -> None:
    quiet = audit_report(measured=[measured(verdict="round-off", rms=1e-3)])
    found = compare([quiet, replace(quiet, measured=[measured(verdict="round-off", rms=3e-3)])])
    entry = contrast(found, "√L_equiv").entries[1]
    assert math.isnan(entry.change.p)
    assert entry.change.how == "neither is above its floor"
    assert "neither is above its floor" in str(found)
    broken = contrast(compare([quiet, audit_report()]), "√L_equiv").entries[1]
    assert broken.change.how.startswith("paired")


def test_runs_are_compared_by_their_own_error_bars() -> None:
    first = run_report()
    known = first.measured[0].labelled
    assert known is not None
    better = replace(known, share=0.07, share_stderr=0.01, share_interval=(0.05, 0.09))
    second = run_report(model="Other", measured=[replace(m, labelled=better) for m in first.measured])
    entry = contrast(compare([first, second]), "share", "val/loss").entries[1]
    assert entry.change.value == pytest.approx(-10.0)
    variance, dof = welch((2.0**2, 1.0**2), (10, 10))
    assert entry.change.p == pytest.approx(2 * stats.t.sf(10.0 / math.sqrt(variance), dof))
    assert "not paired" in entry.change.how


def test_what_is_not_alike_is_refused() -> None:
    with pytest.raises(EquivProbeError, match="1 report; expected two or more"):
        compare([audit_report()])
    with pytest.raises(EquivProbeError, match="expected a quantity in common"):
        compare([audit_report(), run_report()])
    other = audit_report(measured=[measured(unit="eV/Å")])
    with pytest.raises(EquivProbeError, match="eV/Å, meV/Å; expected one unit"):
        compare([audit_report(), other])


def test_saved_and_printed(tmp_path: Path) -> None:
    found = compare([audit_report(), audit_report(model="[red]other[/red]")])
    found.save(tmp_path / "deep" / "c.json")
    stored = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert stored["names"] == ["a model", "[red]other[/red]"]
    assert stored["contrasts"][0]["entries"][0]["change"]["p"] is None
    assert "[red]other[/red]" in str(found)
    assert max(map(len, str(found).splitlines())) <= 120
    found.save(tmp_path / "c.html")
    assert "[red]other[/red]" in (tmp_path / "c.html").read_text()
    with pytest.raises(EquivProbeError, match=r"\.json or \.html"):
        found.save(tmp_path / "c.txt")


@pytest.mark.parametrize(("p", "shown"), [(0.5, "0.50"), (0.01234, "0.012"), (1e-9, "< 1e-4"), (math.nan, "–")])
def test_p_values_as_people_write_them(p: float, shown: str) -> None:
    assert p_value(p) == shown


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        audit_report(model=name).save(tmp_path / f"{name}.json")

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["equiv-probe", "compare", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert run("a.json", "b.json", "-o", "c.html") == 0
    assert "paired, 4 structures" in capsys.readouterr().out
    assert (tmp_path / "c.html").exists()
    assert run("a.json", "b.json", "-o", "a.json") == 2
    assert json.loads((tmp_path / "a.json").read_text())["model"] == "a"  # nothing was overwritten
    (tmp_path / "no.json").write_text("{}")
    assert run("a.json", "no.json") == 2
    assert "no.json, which is not a report" in " ".join(capsys.readouterr().err.split())
